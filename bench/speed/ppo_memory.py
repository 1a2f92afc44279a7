"""Peak memory of ``train-ppo`` with four models, with a shared value head, and with adapters on one base model.

Measures the peak resident memory of the command minus that of a process that only imports torch. Runs two steps with
4 responses of 256 tokens (192 of the prompt, 64 sampled) and a Llama of about 60 million random weights. The reward
model is trained with ``--lora``; if the policy is too, it is one more adapter on the same base model. glibc's
``MALLOC_MMAP_THRESHOLD_`` returns freed memory at once, so that heap fragmentation is not measured.

    python bench/speed/ppo_memory.py [--out docs/results/ppo_memory.json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tokalign import __version__
from tokalign.models.tiny_tokenizer import train_tiny

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = {
    "four models": "",
    "shared value": "--value-model shared",
    "four models, gradient checkpointing": "--gradient-checkpointing",
    "lora": "--lora",
    "lora, shared value": "--lora --value-model shared",
    "lora, gradient checkpointing": "--lora --gradient-checkpointing",
}
BATCH, PROMPT, NEW = 4, 192, 64


def peak(command: list[str]) -> int:
    """Run a command. Returns its peak resident memory in bytes."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss * 1024


def tokalign(out: Path, line: str) -> int:
    """Run a tokalign command. Returns its peak resident memory in bytes."""
    program = str(Path(sys.executable).parent / "tokalign")
    return peak([program, *line.split(), "--quiet", "--device", "cpu", "--out", str(out)])


def prepare(folder: Path) -> int:
    """Make prompts, a policy and a reward model in ``folder``. Returns the policy's number of weights."""
    tokenizer = train_tiny(["one two three four five six seven"] * 10, 400)
    torch.manual_seed(0)
    shape = {"hidden_size": 640, "intermediate_size": 1920, "num_hidden_layers": 10, "num_attention_heads": 10}
    policy = LlamaForCausalLM(LlamaConfig(vocab_size=8000, max_position_embeddings=512, **shape))
    policy.save_pretrained(folder / "policy")
    tokenizer.save(folder / "policy")
    text = " seven" * PROMPT
    while len(tokenizer.prompts([text])[0]) > PROMPT:
        text = text.removesuffix(" seven")
    rows = [json.dumps({"id": str(k), "prompt": text}) for k in range(2 * BATCH)]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    program = str(Path(sys.executable).parent / "tokalign")
    label = f"diff data/edits --limit 40 --tokenizer {folder}/policy --out {folder}/labels --quiet"
    peak([program, *label.split()])
    train = f"train-rm {folder}/labels --level token --model {folder}/policy --lora --steps 1 --batch-size 2"
    tokalign(folder / "rm", train)
    return int(policy.num_parameters())


def main() -> None:
    """Measure all layouts, print and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="result file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = prepare(folder)
        work = (
            f"train-ppo {folder}/prompts.jsonl --policy {folder}/policy --reward-model {folder}/rm --steps 2 "
            f"--batch-size {BATCH} --minibatches 1 --microbatch {BATCH} --max-new-tokens {NEW} --sample-every 0"
        )
        empty = peak([sys.executable, "-c", "import torch; torch.ones(1)"])
        found = {
            layout: tokalign(folder / f"ppo-{k}", f"{work} {options}") - empty
            for k, (layout, options) in enumerate(LAYOUTS.items())
        }
    print(f"{weights / 1e6:.0f} million weights, {BATCH} × {PROMPT + NEW} tokens; torch alone {empty / 1e6:.0f} MB")
    shares = {layout: round(size / found["four models"], 3) for layout, size in found.items()}
    for layout, size in found.items():
        print(f"{layout:<36} {size / 1e6:6.0f} MB  {shares[layout]:.2f}")
    if args.out:
        result = {"command": "python bench/speed/ppo_memory.py", "tokalign": __version__, "weights": weights}
        megabytes = {layout: round(size / 1e6) for layout, size in found.items()}
        args.out.write_text(json.dumps({**result, "megabytes": megabytes, "shares": shares}, indent=1) + "\n")


if __name__ == "__main__":
    main()
