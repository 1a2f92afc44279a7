"""Compare alignments by the reward models and policies that result from them, on the playground. Resumable.

Half of the flawed answers have a loose wording, whose edit rewrites the whole sentence. Each seed has its own world
and policy. Labels, token-level reward model, token-level PPO and the win rate over the starting policy on test prompts
are computed once per alignment. Writes docs/results/alignments.json.

    python bench/results/alignments.py [--seeds 4] [--loose 0.5] [--runs runs/alignments] [--jobs 2]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lab import RESULTS, ROOT, Plan, labels, mean_interval, ppo, reward_model, run, stats, tokalign
from tokalign import __version__

ALIGNMENTS = ("levenshtein", "blocks")


def experiment(f: Path, seed: int, loose: float) -> Plan:
    """All commands of one seed."""
    yield [tokalign(f, seed, "playground", "--loose", loose)]
    sft = tokalign(f / "sft-policy", seed, "train-sft", f / "sft", "--model", "tiny")
    yield [sft, tokalign(f / "edits", seed, "edit", f / "preferences", "--min-similarity", 0)]
    yield [labels(f, seed, f"labels-{alignment}", "--align", alignment) for alignment in ALIGNMENTS]
    yield [reward_model(f, seed, alignment, "token", "chosen", on=f"labels-{alignment}") for alignment in ALIGNMENTS]
    yield [
        ppo(f, seed, f / f"ppo-{alignment}", alignment, "token", "--kl-coef", 0.2, "--normalise", "span")
        for alignment in ALIGNMENTS
    ]
    candidates = [part for alignment in ALIGNMENTS for part in ("--candidate", f"{alignment}={f / f'ppo-{alignment}'}")]
    verdict = ["--prompts", f / "test", "--reference", f / "sft-policy", *candidates]
    yield [tokalign(f / "winrates", seed, "eval-winrate", *verdict)]


def collect(seed: int, folder: Path) -> dict[str, Any]:
    """Results of one seed, by alignment."""
    verdict = stats(folder / "winrates")["candidates"]
    found: dict[str, Any] = {"seed": seed}
    for alignment in ALIGNMENTS:
        label_stats, rm_stats = stats(folder / f"labels-{alignment}"), stats(folder / f"rm-{alignment}")
        found[alignment] = {
            "share_bad": round(label_stats["share_bad"], 4),
            "share_good": round(label_stats["share_good"], 4),
            "edited_over_original": round(rm_stats["edited_over_original"]["mean"], 4),
            "chosen_over_rejected": round(rm_stats["chosen_over_rejected"]["mean"], 4),
            "flips": round(rm_stats["flips"]["accuracy"], 4),
            "win_rate": round(verdict[alignment]["win_rate"], 2),
            "standard_error": round(verdict[alignment]["standard_error"], 2),
        }
    return found


def main() -> None:
    """Run all missing commands, print the results and write the result file."""
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
    print(f"win rate of blocks minus levenshtein: {gap['mean']:+.1f} ± {gap['standard_error']} points")


if __name__ == "__main__":
    main()
