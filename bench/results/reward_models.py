"""Token-level against sequence-level reward models on the playground, all tuned over the same grid. Resumable.

Each seed has its own world and starting policy. The setting of a model is selected by held-out accuracy (the mean of
edited over original, chosen over rejected, and flips). The reported metrics are measured on preferences of another
world, with intervals from a bootstrap. Writes docs/results/reward_models.json.

    python bench/results/reward_models.py [--seeds 3] [--runs runs/reward-models] [--jobs 2]
"""

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lab import RESULTS, ROOT, Plan, labels, reward_model, run, stats, tokalign
from tokalign import __version__
from tokalign.artifacts import token_labels
from tokalign.artifacts.manifest import open_artifact
from tokalign.core.diff import AlignOptions
from tokalign.models.reward import RewardModel
from tokalign.models.reward_metrics import evaluate

GRID = [{"lr": lr, "epochs": 8, "patience": 2} for lr in (1e-3, 2e-3)]
"""Settings tried for every model."""
MODELS = {"token": ("token", "chosen"), **{f"sequence, {on}": ("sequence", on) for on in ("chosen", "edited", "both")}}
"""Level and pairs of each model, by name."""
OTHER_WORLD = 1000
"""Added to the seed to get the seed of the test world."""


def name_of(model: str, setting: dict[str, Any]) -> str:
    """Name of one reward model."""
    return "-".join([model.replace(", ", "-"), *(f"{key}{value:g}" for key, value in setting.items())])


def experiment(f: Path, seed: int) -> Plan:
    """All commands of one seed: a world for training, one for testing, and every model with every setting."""
    other = tokalign(f / "other", seed + OTHER_WORLD, "playground", "--preferences", 1000, "--sft", 1)
    yield [tokalign(f, seed, "playground", "--preferences", 2500), other]
    yield [
        tokalign(f / "sft-policy", seed, "train-sft", f / "sft", "--model", "tiny"),
        tokalign(f / "edits", seed, "edit", f / "preferences"),
        tokalign(f / "test-edits", seed, "edit", f / "other" / "preferences"),
    ]
    yield [labels(f, seed, "labels"), labels(f, seed, "test-labels", of="test-edits")]
    yield [
        reward_model(f, seed, name_of(model, s), *of, *(part for k, v in s.items() for part in (f"--{k}", v)))
        for model, of in MODELS.items()
        for s in GRID
    ]


def heldout(folder: Path) -> float:
    """Mean held-out accuracy, which selects the setting."""
    s = stats(folder)
    shares = (s["edited_over_original"]["mean"], s["chosen_over_rejected"]["mean"], s["flips"]["accuracy"])
    return float(statistics.mean(shares))


def measure(f: Path) -> dict[str, Any]:
    """The selected setting of each model, and its metrics on the preferences of the test world."""
    rows = token_labels.read_labels(open_artifact(f / "test-labels"))
    found = {}
    for model in MODELS:
        setting = max(GRID, key=lambda s: heldout(f / f"rm-{name_of(model, s)}"))
        metrics = evaluate(RewardModel.load(f / f"rm-{name_of(model, setting)}"), rows, AlignOptions("levenshtein"))
        found[model] = {"setting": setting, **json.loads(json.dumps(metrics), parse_float=lambda x: round(float(x), 4))}
    return found


def main() -> None:
    """Run all missing commands, print the results and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "reward-models")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    folders = {seed: args.runs / f"seed-{seed}" for seed in range(args.seeds)}
    run((experiment(f, seed) for seed, f in folders.items()), args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
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
        print(f"{model:<18} edited > original {pairs[0]:.3f}  chosen > rejected {pairs[1]:.3f}  flips {kinds}")
    whole = {"command": "python bench/results/reward_models.py", "tokalign": __version__, "grid": GRID, "seeds": seeds}
    (RESULTS / "reward_models.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
