"""Does better alignment make a better reward model and a better policy? Resumable.

In this world half of the flawed answers are worded loosely, so that their edits rewrite the sentence. Each seed has
its own world and policy; everything after the edits is done once for each alignment: labels, token-level reward
model, token-level PPO, win rate against the policy it started from, on prompts that nothing has seen. Writes
docs/results/alignments.json.

    python bench/results/alignments.py [--seeds 4] [--loose 0.5] [--runs runs/alignments] [--jobs 2]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lab import RESULTS, ROOT, Plan, labels, mean_interval, ppo, reward_model, run, stats, tokalign
from tokalign import __version__

WAYS = ("levenshtein", "blocks")


def experiment(f: Path, seed: int, loose: float) -> Plan:
    """All of one seed."""
    yield [tokalign(f, seed, "playground", "--loose", loose)]
    sft = tokalign(f / "sft-policy", seed, "train-sft", f / "sft", "--model", "tiny")
    yield [sft, tokalign(f / "edits", seed, "edit", f / "preferences", "--min-similarity", 0)]
    yield [labels(f, seed, f"labels-{way}", "--align", way) for way in WAYS]
    yield [reward_model(f, seed, way, "token", "chosen", on=f"labels-{way}") for way in WAYS]
    yield [ppo(f, seed, f / f"ppo-{way}", way, "token", "--kl-coef", 0.2, "--normalise", "span") for way in WAYS]
    candidates = [part for way in WAYS for part in ("--candidate", f"{way}={f / f'ppo-{way}'}")]
    verdict = ["--prompts", f / "test", "--reference", f / "sft-policy", *candidates]
    yield [tokalign(f / "winrates", seed, "eval-winrate", *verdict)]


def collect(seed: int, folder: Path) -> dict[str, Any]:
    """The numbers of one seed, by alignment."""
    verdict = stats(folder / "winrates")["candidates"]
    found: dict[str, Any] = {"seed": seed}
    for way in WAYS:
        given, rm = stats(folder / f"labels-{way}"), stats(folder / f"rm-{way}")
        found[way] = {
            "share_bad": round(given["share_bad"], 4),
            "share_good": round(given["share_good"], 4),
            "edited_over_original": round(rm["edited_over_original"]["mean"], 4),
            "chosen_over_rejected": round(rm["chosen_over_rejected"]["mean"], 4),
            "flips": round(rm["flips"]["accuracy"], 4),
            "win_rate": round(verdict[way]["win_rate"], 2),
            "standard_error": round(verdict[way]["standard_error"], 2),
        }
    return found


def main() -> None:
    """Run everything that is not done yet, print the numbers, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--loose", type=float, default=0.5)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "alignments")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    folders = {seed: args.runs / f"loose-{args.loose:g}" / f"seed-{seed}" for seed in range(args.seeds)}
    run((experiment(f, seed, args.loose) for seed, f in folders.items()), args.jobs)
    seeds = [collect(seed, folder) for seed, folder in folders.items()]
    for found in seeds:
        print(json.dumps(found))
    gap = mean_interval([found["blocks"]["win_rate"] - found["levenshtein"]["win_rate"] for found in seeds])
    whole = {"command": "python bench/results/alignments.py", "tokalign": __version__, "loose": args.loose}
    result = {**whole, "gap_mean": gap["mean"], "gap_standard_error": gap["standard_error"], "seeds": seeds}
    (RESULTS / "alignments.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"blocks less levenshtein: {gap['mean']:+.1f} ± {gap['standard_error']} points of win rate")


if __name__ == "__main__":
    main()
