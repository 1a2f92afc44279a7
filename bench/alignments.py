"""Does better alignment make a better reward model and a better policy? Resumable.

In this world half of the flawed answers are worded loosely, so that their edits rewrite the sentence. Each seed has
its own world and policy; everything after the edits is done once for each alignment: labels, token-level reward
model, token-level PPO, win rate against the policy it started from, on prompts that nothing has seen. Writes
docs/results/alignments.json.

    python bench/alignments.py [--seeds 4] [--loose 0.5] [--runs runs/alignments] [--jobs 2]
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

from tokalign import __version__

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "alignments.json"
WAYS = {"levenshtein": ["--align", "levenshtein"], "blocks": ["--align", "blocks"]}


def run(seed: int, out: Path, command: str, *args: object) -> None:
    """One command with the playground's settings, one thread."""
    program = str(Path(sys.executable).parent / "tokalign")
    common = ["--out", out, "--seed", seed, "--config", "configs/playground.toml", "--quiet"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([str(part) for part in (program, command, *args, *common)], cwd=ROOT, env=env, check=True)


def chain(seed: int, folder: Path, loose: float) -> None:
    """All of one seed that is not done yet."""
    f, policy = folder, folder / "policy"
    run(seed, f, "playground", "--loose", loose)
    run(seed, policy, "train-sft", f / "sft", "--model", "tiny")
    run(seed, f / "edits", "edit", f / "preferences", "--min-similarity", 0)
    for name, way in WAYS.items():
        labels, rm, ppo = (f / f"{kind}-{name}" for kind in ("labels", "rm", "ppo"))
        run(seed, labels, "diff", f / "edits", "--tokenizer", policy, *way)
        run(seed, rm, "train-rm", labels, "--level", "token", "--model", policy)
        knobs = ["--granularity", "token", "--kl-coef", "0.2", "--eval-prompts", f / "heldout"]
        run(seed, ppo, "train-ppo", f / "prompts", "--policy", policy, "--reward-model", rm, *knobs)
    candidates = [part for name in WAYS for part in ("--candidate", f"{name}={f}/ppo-{name}")]
    run(seed, f / "winrates", "eval-winrate", "--prompts", f / "test", "--reference", policy, *candidates)


def stats(folder: Path) -> dict[str, Any]:
    """What an artifact's manifest says of its content."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["stats"]
    return found


def collect(seed: int, folder: Path) -> dict[str, Any]:
    """The numbers of one seed, by alignment."""
    verdict = stats(folder / "winrates")["candidates"]
    found: dict[str, Any] = {"seed": seed}
    for name in WAYS:
        labels, rm = stats(folder / f"labels-{name}"), stats(folder / f"rm-{name}")
        found[name] = {
            "share_bad": round(labels["share_bad"], 4),
            "share_good": round(labels["share_good"], 4),
            "edited_over_original": round(rm["edited_over_original"]["mean"], 4),
            "chosen_over_rejected": round(rm["chosen_over_rejected"]["mean"], 4),
            "flips": round(rm["flips"]["accuracy"], 4),
            "win_rate": round(verdict[name]["win_rate"], 2),
            "standard_error": round(verdict[name]["standard_error"], 2),
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
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: chain(seed, folders[seed], args.loose), folders))
    seeds = [collect(seed, folder) for seed, folder in folders.items()]
    for found in seeds:
        print(json.dumps(found))
    gaps = [found["blocks"]["win_rate"] - found["levenshtein"]["win_rate"] for found in seeds]
    error = round(statistics.stdev(gaps) / len(gaps) ** 0.5, 2) if len(gaps) > 1 else None
    whole = {"command": "python bench/alignments.py", "tokalign": __version__, "loose": args.loose}
    result = {**whole, "gap_mean": round(statistics.mean(gaps), 2), "gap_standard_error": error, "seeds": seeds}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"blocks less levenshtein: {result['gap_mean']:+.1f} ± {error} points of win rate")


if __name__ == "__main__":
    main()
