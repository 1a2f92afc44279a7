"""Token-level against sequence-level reward models on the playground, all tuned over one grid. Resumable.

Each seed has its own world and starting policy. A setting is chosen by held-out accuracy (the mean over edited over
original, chosen over rejected, and one edit undone); what is reported is measured on preferences of another world,
with intervals from a bootstrap. Writes docs/results/reward_models.json.

    python bench/reward_models.py [--seeds 3] [--runs runs/reward-models] [--jobs 2]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokalign import __version__, tables
from tokalign.core.diff import Way
from tokalign.models.evaluation import evaluate
from tokalign.models.reward import RewardModel

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "reward_models.json"
GRID = [{"lr": lr, "epochs": 8, "patience": 2} for lr in (1e-3, 2e-3)]
"""Tried by every model."""
MODELS = {
    "token": ["--level", "token"],
    **{f"sequence, {pairs}": ["--level", "sequence", "--pairs", pairs] for pairs in ("chosen", "edited", "both")},
}
OTHER_WORLD = 1000
"""Added to a seed: the world of the test."""


def run(seed: int, out: Path, command: str, *args: object) -> None:
    """One command with the playground's settings, one thread."""
    program = str(Path(sys.executable).parent / "tokalign")
    common = ["--out", out, "--seed", seed, "--config", "configs/playground.toml", "--quiet"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([str(part) for part in (program, command, *args, *common)], cwd=ROOT, env=env, check=True)


def name_of(model: str, setting: dict[str, Any]) -> str:
    """Folder of one run."""
    return "-".join([model.replace(", ", "-"), *(f"{key}{value:g}" for key, value in setting.items())])


def prepare(seed: int, f: Path) -> None:
    """World, policy, labels to train on and labels to test on."""
    run(seed, f, "playground", "--preferences", 2500)
    run(seed, f / "policy", "train-sft", f / "sft", "--model", "tiny")
    run(seed + OTHER_WORLD, f / "other", "playground", "--preferences", 1000, "--sft", 1)
    for edits, labels, source in (("edits", "labels", f), ("test-edits", "test-labels", f / "other")):
        run(seed, f / edits, "edit", source / "preferences")
        run(seed, f / labels, "diff", f / edits, "--tokenizer", f / "policy")


def train(seed: int, f: Path, model: str, setting: dict[str, Any]) -> None:
    """One reward model."""
    knobs = [part for key, value in setting.items() for part in (f"--{key}", value)]
    run(seed, f / name_of(model, setting), "train-rm", f / "labels", "--model", f / "policy", *MODELS[model], *knobs)


def heldout(folder: Path) -> float:
    """What a setting is chosen by."""
    s = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["stats"]
    shares = (s["edited_over_original"]["mean"], s["chosen_over_rejected"]["mean"], s["flips"]["accuracy"])
    return float(statistics.mean(shares))


def measure(f: Path) -> dict[str, Any]:
    """Of each model, the setting that was chosen and its metrics on the other world's preferences."""
    rows = tables.read_labels(f / "test-labels")
    found = {}
    for model in MODELS:
        setting = max(GRID, key=lambda s: heldout(f / name_of(model, s)))
        metrics = evaluate(RewardModel.load(f / name_of(model, setting)), rows, Way("levenshtein"))
        found[model] = {"setting": setting, **json.loads(json.dumps(metrics), parse_float=lambda x: round(float(x), 4))}
    return found


def main() -> None:
    """Run everything that is not done yet, print the numbers, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "reward-models")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    folders = {seed: args.runs / f"seed-{seed}" for seed in range(args.seeds)}
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: prepare(seed, folders[seed]), folders))
        todo = [(s, f, model, setting) for s, f in folders.items() for model in MODELS for setting in GRID]
        list(pool.map(lambda one: train(*one), todo))
        seeds = [
            {"seed": seed, "models": found}
            for seed, found in zip(folders, pool.map(measure, folders.values()), strict=True)
        ]
    for model in MODELS:
        per_seed: list[Any] = [s["models"] for s in seeds]
        of = [found[model] for found in per_seed]
        pairs = [
            statistics.mean(m[key]["mean"] for m in of) for key in ("edited_over_original", "chosen_over_rejected")
        ]
        kinds = {
            k: round(statistics.mean(m["flips"]["by_category"][k]["accuracy"] for m in of), 3)
            for k in of[0]["flips"]["by_category"]
        }
        print(f"{model:<18} edited > original {pairs[0]:.3f}  chosen > rejected {pairs[1]:.3f}  one edit {kinds}")
    whole = {"command": "python bench/reward_models.py", "tokalign": __version__, "grid": GRID, "seeds": seeds}
    RESULT.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
