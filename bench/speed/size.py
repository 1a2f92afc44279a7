"""Speed at a real size: PPO, sampling and supervised training of SmolLM2-135M-Instruct against TRL and transformers.

SmolLM2-135M-Instruct, dequantised from Q4_1 (see smollm2.py). All sides use the same weights, rows, batch size and
threads, one after the other in turn. Needs TRL 1.10.0 (PPO was removed in 1.13) and TRL 1.16.0, each in a folder of its
own, without their dependencies:

    pip install --no-deps --target trl-ppo trl==1.10.0
    pip install --no-deps --target trl trl==1.16.0
    python bench/speed/size.py --trl-ppo trl-ppo --trl trl [--dtype bfloat16] [--out docs/results/size.json]

**Share of the peak.** The floating-point operations of a model divided by the seconds and by the peak, which is that of
a product of two square matrices of 2,048 rows, measured in the same type with the same threads. For a row of n tokens,
with N weights in linear layers (the output layer apart), L layers, h attention columns, V tokens of vocabulary and m
positions with logits, a forward pass takes 2·N·n + 2·L·h·n² (causal attention) + 2·width·V·m operations. The backward
pass of full fine-tuning takes twice as many; what is computed again to save memory is not counted.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from ppo_speed import EPOCHS, PARTS, Case, ours, theirs
from smollm2 import fetch

from tokalign import __version__
from tokalign.artifacts.workspace import Workspace
from tokalign.config.methods import RewardModelOptions
from tokalign.config.options import LoraOptions, SamplingOptions, SupervisedOptions
from tokalign.models import loading, lora
from tokalign.models.batch import Batch
from tokalign.models.pairs import supports_pairs
from tokalign.models.sampler import sample
from tokalign.models.samplers import generate
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo.rollout import PromptItem
from tokalign.training import examples
from tokalign.training.losses import PairLoss, ResponseLoss
from tokalign.training.supervised import fit

WORDS = (
    *("river", "lamp", "seven", "green", "bread", "winter", "coin", "letter"),
    *("bird", "stone", "market", "quiet", "engine", "garden", "silver", "road"),
)
ROWS, SUPERVISED_BATCH = 32, 8


def texts(n: int, low: int, high: int, seed: int) -> list[str]:
    """Sentences of ``low`` to ``high`` words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(low, high))) for _ in range(n)]


def prompts(tokenizer: Tokenizer, n: int) -> list[PromptItem]:
    """Chat prompts, with the template's default system message."""
    asked = [f"Tell me a story with these words: {words}." for words in texts(n, 3, 30, seed=0)]
    return [PromptItem(p, ids) for p, ids in zip(asked, tokenizer.prompts(asked), strict=True)]


def peak(dtype: str) -> float:
    """Floating-point operations per second of a matrix product."""
    a, b = (torch.randn(2048, 2048).to(getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return float(2 * 2048**3 / min(seconds))


def operations(config: Any, rows: Iterable[tuple[int, int]]) -> float:
    """Floating-point operations of a forward pass over rows of (tokens, positions with logits); see above."""
    width, layers = config.hidden_size, config.num_hidden_layers
    head = width // config.num_attention_heads
    attention = config.num_attention_heads * head
    keys = config.num_key_value_heads * head
    weights = layers * (width * (2 * attention + 2 * keys) + 3 * width * config.intermediate_size)
    return float(
        sum(2 * weights * n + 2 * layers * attention * n * n + 2 * width * config.vocab_size * m for n, m in rows)
    )


def in_turn(sides: dict[str, Callable[[], list[dict[str, Any]]]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run the sides one after the other, ``rounds`` times."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name] += side()
            gc.collect()
            print(name, [round(s["whole"], 1) for s in found[name]], file=sys.stderr, flush=True)
    return found


def ppo(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of PPO steps, full and with LoRA."""
    tokenizer = Tokenizer.load(folder / "policy")
    sizes: dict[str, Any] = {"batch": args.batch, "longest": args.tokens, "dtype": args.dtype}
    items = prompts(tokenizer, args.batch * args.steps)
    full, low_rank = (
        Case(str(folder / "policy"), str(folder / "reward"), items, lora=lora, **sizes) for lora in (False, True)
    )
    sides: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "separate": lambda: ours(full, args.steps, "separate"),
        "shared": lambda: ours(full, args.steps, "shared"),
        "TRL": lambda: theirs(full, args.steps, args.micro),
        "lora": lambda: ours(low_rank, args.steps, "separate"),
        "TRL lora": lambda: theirs(low_rank, args.steps, args.micro),
    }
    steps = in_turn(sides, args.rounds)
    config = loading.load_policy(folder / "policy").config
    shares = []
    for step in steps["separate"]:
        policy, value = ([(p + r, r * head) for p, r in step["rows"]] for head in (1, 0))
        done = 3 * EPOCHS * (operations(config, policy) + operations(config, value))
        shares.append(done / step["update"] / args.peak)
    seconds = {
        name: {part: round(median(s[part] for s in found), 2) for part in (*PARTS, "whole")}
        for name, found in steps.items()
    }
    spread = {name: [round(s["whole"], 2) for s in found] for name, found in steps.items()}
    whole = {name: s["whole"] for name, s in seconds.items()}
    ratios = {
        "separate": round(whole["TRL"] / whole["separate"], 2),
        "shared": round(whole["TRL"] / whole["shared"], 2),
        "lora": round(whole["TRL lora"] / whole["lora"], 2),
    }
    return {
        "seconds": seconds, "all_seconds": spread, "trl_over_ours": ratios, "batch": args.batch, "tokens": args.tokens,
        "update_share_of_peak": round(median(shares), 2),
    }  # fmt: skip


def sampler(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens per CPU second of the built-in sampler and of ``generate``, 64 prompts."""
    tokenizer, policy = Tokenizer.load(folder / "policy"), loading.load_policy(folder / "policy", args.dtype)
    ids = [item.ids for item in prompts(tokenizer, 64)]
    options, found = SamplingOptions(max_new_tokens=64), dict[str, list[float]]()
    for _ in range(args.rounds + 1):
        for name, draw in (("built-in", sample), ("generate", generate)):
            start = time.process_time()
            drawn = draw(policy, ids, list(range(64)), tokenizer, options)
            speed = sum(len(s.ids) for s in drawn) / (time.process_time() - start)
            found.setdefault(name, []).append(round(speed, 1))
    ratio = round(median(found["built-in"]) / median(found["generate"]), 2)
    return {"tokens_per_cpu_second": found, "over_generate": ratio}


def training_time(run: Callable[[], None]) -> list[dict[str, Any]]:
    """Seconds from the start of a Trainer's loop to the end of its last step: no loading, no last checkpoint."""
    from transformers.trainer_callback import CallbackHandler

    marks: list[float] = []
    before = CallbackHandler.on_train_begin, CallbackHandler.on_step_end

    def marked(event: Any) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            marks.append(time.perf_counter())
            return event(*given, **more)

        return call

    CallbackHandler.on_train_begin, CallbackHandler.on_step_end = map(marked, before)
    try:
        run()
    finally:
        CallbackHandler.on_train_begin, CallbackHandler.on_step_end = before
    return [{"whole": marks[-1] - marks[0]}]


def supervised(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of SFT and of training a sequence-level reward model, on rows of different lengths."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    source = str(folder / "policy")
    tokenizer = Tokenizer.load(source)
    asked = tokenizer.prompts(texts(ROWS, 3, 40, seed=1))
    answers = [[r.ids for r in tokenizer.responses(texts(ROWS, 10, 120, seed=seed))] for seed in (2, 3)]
    pairs = list(zip(asked, *answers, strict=True))
    device = torch.device("cpu")
    options = SupervisedOptions(
        batch_size=SUPERVISED_BATCH, epochs=1, lr=2e-5, save_every=10**9, quiet=True, device="cpu", max_length=512,
        dtype=args.dtype,
    )  # fmt: skip

    def sft_ours() -> None:
        rows: list[dict[str, Any]] = [{"id": str(k), "pair": (p, a)} for k, (p, a, _) in enumerate(pairs)]
        lengths = [len(p) + len(a) for p, a, _ in pairs]
        counts = [len(a) for _, a, _ in pairs]

        def collate(found: list[dict[str, Any]]) -> dict[str, Any]:
            ids = [r["id"] for r in found]
            return {"id": ids, "batch": Batch.of([r["pair"] for r in found], tokenizer.pad_id, device)}

        loss = ResponseLoss(loading.load_policy(source))
        with tempfile.TemporaryDirectory() as out:
            fit("bench", loss, rows, lengths, counts, collate, options, Workspace.at(Path(out)))

    def rm_ours() -> None:
        loss = PairLoss(loading.new_sequence_model(source))
        rows: list[dict[str, Any]] = [{"id": str(k), "pairs": [(p, a), (p, b)]} for k, (p, a, b) in enumerate(pairs)]
        shared = supports_pairs(loss.plain, "sequence", [r["pairs"] for r in rows], tokenizer.pad_id)
        lengths = examples.lengths(rows, shared=shared)
        collate = partial(examples.collate, tokenizer=tokenizer, device=device, shared=shared)
        counts = examples.counts(rows, RewardModelOptions(level="sequence"))
        with tempfile.TemporaryDirectory() as out:
            fit("bench", loss, rows, lengths, counts, collate, options, Workspace.at(Path(out)))

    common: dict[str, Any] = {
        "per_device_train_batch_size": SUPERVISED_BATCH, "max_steps": ROWS // SUPERVISED_BATCH, "learning_rate": 2e-5,
        "report_to": [], "save_strategy": "no", "logging_steps": 10**9, "bf16": args.dtype == "bfloat16",
        "use_cpu": True, "gradient_checkpointing": False, "max_length": 512, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip

    def sft_theirs() -> None:
        rows = [{"input_ids": [*p, *a], "completion_mask": [0] * len(p) + [1] * len(a)} for p, a, _ in pairs]
        with tempfile.TemporaryDirectory() as out:
            config = SFTConfig(output_dir=out, **common)
            SFTTrainer(
                model=loading.load_policy(source), args=config, train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer.hf_tokenizer,
            ).train()  # fmt: skip

    def rm_theirs() -> None:
        rows = [{"chosen_ids": [*p, *a], "rejected_ids": [*p, *b]} for p, a, b in pairs]
        with tempfile.TemporaryDirectory() as out:
            config = RewardConfig(output_dir=out, **common)
            RewardTrainer(
                model=loading.new_sequence_model(source), args=config, train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer.hf_tokenizer,
            ).train()  # fmt: skip

    runs = {"train-sft": sft_ours, "TRL SFT": sft_theirs, "train-rm": rm_ours, "TRL reward": rm_theirs}
    steps = in_turn({name: partial(training_time, run) for name, run in runs.items()}, args.rounds)
    seconds = {name: [round(s["whole"], 2) for s in found] for name, found in steps.items()}
    middle = {name: median(found) for name, found in seconds.items()}
    config = loading.load_policy(source).config
    sft_operations = 3 * operations(config, [(len(p) + len(a), len(a)) for p, a, _ in pairs])
    rm_operations = 3 * operations(config, [(len(p) + len(r), 0) for p, a, b in pairs for r in (a, b)])
    return {
        "all_seconds": seconds, "rows": ROWS, "batch": SUPERVISED_BATCH,
        "trl_over_ours": {
            "train-sft": round(middle["TRL SFT"] / middle["train-sft"], 2),
            "train-rm": round(middle["TRL reward"] / middle["train-rm"], 2),
        },
        "share_of_peak": {
            "train-sft": round(sft_operations / middle["train-sft"] / args.peak, 2),
            "train-rm": round(rm_operations / middle["train-rm"] / args.peak, 2),
        },
    }  # fmt: skip


def adapters(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds to score 16 rows of 96 tokens with the base model and two adapters: in three passes, and in one.

    The one pass has all rows three times; in each linear layer, peft adds the adapter of each row.
    """
    model = lora.Adapters(loading.load_policy(folder / "policy", args.dtype), LoraOptions())
    model.add(lora.VALUE)
    model.add(lora.REWARD)
    for name, weight in model.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    input_ids = torch.randint(0, 40_000, (16, 96), generator=torch.Generator().manual_seed(0))
    names = [name for name in ("__base__", lora.VALUE, lora.REWARD) for _ in input_ids]

    def three() -> list[torch.Tensor]:
        with model.off():
            found = [model.trunk(input_ids=input_ids, use_cache=False).last_hidden_state]
        for name in (lora.VALUE, lora.REWARD):
            with model.using(name):
                found.append(model.trunk(input_ids=input_ids, use_cache=False).last_hidden_state)
        return found

    def one() -> list[torch.Tensor]:
        def choose(_: Any, inputs: Any, options: dict[str, Any]) -> Any:
            return inputs, {**options, "adapter_names": names}

        layers = [m for m in model.model.modules() if hasattr(m, "get_delta_weight")]
        handles = [m.register_forward_pre_hook(choose, with_kwargs=True) for m in layers]
        try:
            hidden = model.trunk(input_ids=input_ids.repeat(3, 1), use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return list(hidden.chunk(3))

    seconds: dict[str, list[float]] = {"three passes": [], "one pass": []}
    with torch.no_grad():
        assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(three(), one(), strict=True))
        for _ in range(args.rounds + 1):
            for name, run in (("three passes", three), ("one pass", one)):
                start = time.process_time()
                run()
                seconds[name].append(round(time.process_time() - start, 2))
    ratio = round(median(seconds["one pass"]) / median(seconds["three passes"]), 2)
    return {"cpu_seconds": seconds, "one_over_three": ratio}


PARTS_OF_RUN = {"sampler": sampler, "adapters": adapters, "supervised": supervised, "ppo": ppo}


def prepare(folder: Path) -> None:
    """Write the policy, and a reward model with a random head, into ``folder``."""
    from transformers import AutoModelForSequenceClassification

    tokenizer = Tokenizer.load(fetch())
    loading.load_policy(fetch()).save_pretrained(str(folder / "policy"))
    reward = AutoModelForSequenceClassification.from_pretrained(str(folder / "policy"), num_labels=1)
    reward.config.pad_token_id = tokenizer.pad_id
    reward.save_pretrained(str(folder / "reward"))
    for name in ("policy", "reward"):
        tokenizer.save(folder / name)


def main() -> None:
    """Measure every part in a process of its own, print the result, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-ppo", type=Path, help="folder with TRL 1.10.0")
    parser.add_argument("--trl", type=Path, help="folder with TRL 1.16.0")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=16, help="prompts of a PPO step")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of a response in PPO")
    parser.add_argument("--steps", type=int, default=2, help="PPO steps in a run")
    parser.add_argument("--micro", type=int, default=8, help="responses per forward pass of TRL's PPO")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
    parser.add_argument("--parts", nargs="+", default=list(PARTS_OF_RUN), choices=list(PARTS_OF_RUN))
    parser.add_argument("--out", type=Path, help="result file; other parts in it are kept")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peak", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:  # the process of one part
        print(json.dumps(PARTS_OF_RUN[args.parts[0]](args.folder, args)))
        return
    found: dict[str, Any] = {}
    if args.out and args.out.is_file():
        found = json.loads(args.out.read_text(encoding="utf-8"))
    found |= {
        "command": "python bench/speed/size.py --trl-ppo DIR --trl DIR --dtype TYPE",
        "tokalign": __version__,
        "model": "SmolLM2-135M-Instruct, dequantised from Q4_1",
        "threads": torch.get_num_threads(),
    }
    parts = found.setdefault(args.dtype, {})
    gflops = round(peak(args.dtype) / 1e9, 1)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        for part in args.parts:
            paths = [str(p.resolve()) for p in (args.trl_ppo if part == "ppo" else args.trl,) if p]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
            keep = [a for a in sys.argv[1:] if a not in args.parts and a != "--parts"]
            command = [sys.executable, __file__, *keep, "--folder", scratch, "--peak", str(gflops * 1e9)]
            done = subprocess.run([*command, "--parts", part], env=environment, stdout=subprocess.PIPE, check=True)
            parts[part] = json.loads(done.stdout.decode().splitlines()[-1]) | {"peak_gflops": gflops}
            print(part, json.dumps(parts[part], indent=1))
            if args.out:
                args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
