"""Collects the trials that chose the settings of real.py: held-out win rates by step, with what was changed.

    python bench/results/real_trials.py RUNS [--out docs/results/real_trials.json]

RUNS is a folder of PPO runs, one a trial, on the first seed's models and prompts (``PPO`` in real.py has the
settings). Trials that are already in the result file are kept, since their runs may be gone.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import real_measure

SHOWN = ("lr", "kl_coef", "granularity", "gae_lambda", "reward", "normalise", "length_normalise", "batch_size")


def trial(folder: Path) -> dict[str, Any]:
    """Settings and course of a run."""
    config = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["config"]
    settings = {key: config[key] for key in SHOWN if key in config}
    settings["reward_model"] = Path(config["reward_model"][0]).name
    return {"settings": settings, "course": real_measure.course(folder)}


def main() -> None:
    """Add the finished trials of a folder to the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results/real_trials.json"))
    args = parser.parse_args()
    found = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {"trials": {}}
    found["command"] = "python bench/results/real_trials.py RUNS"
    for manifest in sorted(args.runs.glob("*/manifest.json")):
        if json.loads(manifest.read_text(encoding="utf-8"))["kind"] == "policy":
            found["trials"][manifest.parent.name] = trial(manifest.parent)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
