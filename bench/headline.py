"""Token-level against sequence-level PPO over several seeds, both tuned over one grid. Resumable.

Each seed has its own world, policy and reward models. Both arms run the same steps on the same prompts; the
setting of each arm (and, for the sequence arm, the pairs its reward model learns from) is the one that wins
most on ``heldout``, and only that one is reported on ``test``: at the playground's temperature for evaluation,
and at 1, the temperature of training. Writes docs/results/headline.json.

    python bench/headline.py [--seeds 3] [--runs runs/headline] [--jobs 2]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokalign import __version__

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "headline.json"
GRID = [{"lr": lr, "kl-coef": kl} for lr in (6e-4,) for kl in (0.1, 0.2)]
"""Tried by both arms."""
REWARD_MODELS = {"token": ("token", "chosen"), "chosen": ("sequence", "chosen"), "edited": ("sequence", "edited")}
"""Name → level, pairs. The sequence arm takes the better of the latter two."""

Command = list[str]


def tokalign(out: Path, seed: int, command: str, *args: str) -> Command:
    """A command line with the playground's settings."""
    program = str(Path(sys.executable).parent / "tokalign")
    common = ["--out", str(out), "--seed", str(seed), "--config", "configs/playground.toml", "--quiet"]
    return [program, command, *args, *common]


def run(commands: Iterable[Command], jobs: int) -> None:
    """Run commands, ``jobs`` at a time, one thread each; stop at the first that fails."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ThreadPoolExecutor(jobs) as pool:
        for done in pool.map(lambda c: subprocess.run(c, cwd=ROOT, env=env, check=False), list(commands)):
            if done.returncode:
                raise SystemExit(f"failed ({done.returncode}): {' '.join(done.args)}")


def stats(folder: Path) -> dict[str, Any]:
    """What an artifact's manifest says of its content."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["stats"]
    return found


def ppo_runs(folder: Path) -> dict[str, tuple[Path, str, dict[str, float]]]:
    """Name → output, reward model and setting of every PPO run of one seed."""
    found = {}
    for model in REWARD_MODELS:
        for setting in GRID:
            name = "-".join([model, *(f"{k}{v:g}" for k, v in setting.items())])
            found[name] = (folder / "ppo" / name, model, setting)
    return found


def ppo_command(folder: Path, seed: int, out: Path, model: str, setting: dict[str, float]) -> Command:
    """The command of one PPO run."""
    sources = ["--policy", f"{folder}/sft-policy", "--reward-model", f"{folder}/rm-{model}"]
    knobs = [part for k, v in setting.items() for part in (f"--{k}", f"{v:g}")]
    granularity = ["--granularity", REWARD_MODELS[model][0], "--eval-prompts", f"{folder}/heldout"]
    return tokalign(out, seed, "train-ppo", f"{folder}/prompts", *sources, *granularity, *knobs)


def best(folder: Path, models: tuple[str, ...]) -> str:
    """The run, among those that use one of ``models``, that won most on held-out prompts."""
    names = [name for name, (_, model, _) in ppo_runs(folder).items() if model in models]
    return max(names, key=lambda name: float(stats(folder / "ppo" / name)["best_win_rate"]))


def main() -> None:
    """Run everything that is not done yet, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "headline")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    folders = {seed: args.runs / f"seed-{seed}" for seed in range(args.seeds)}

    run((tokalign(f, s, "playground") for s, f in folders.items()), args.jobs)
    run(
        (tokalign(f / "sft-policy", s, "train-sft", f"{f}/sft", "--model", "tiny") for s, f in folders.items()),
        args.jobs,
    )
    run((tokalign(f / "edits", s, "edit", f"{f}/preferences") for s, f in folders.items()), args.jobs)
    labels = (
        tokalign(f / "labels", s, "diff", f"{f}/edits", "--tokenizer", f"{f}/sft-policy") for s, f in folders.items()
    )
    run(labels, args.jobs)
    models = (
        tokalign(
            f / f"rm-{name}",
            s,
            "train-rm",
            f"{f}/labels",
            "--model",
            f"{f}/sft-policy",
            "--level",
            level,
            "--pairs",
            pairs,
        )
        for s, f in folders.items()
        for name, (level, pairs) in REWARD_MODELS.items()
    )
    run(models, args.jobs)
    run((ppo_command(f, s, *r) for s, f in folders.items() for r in ppo_runs(f).values()), args.jobs)

    chosen = {s: {"sequence": best(f, ("chosen", "edited")), "token": best(f, ("token",))} for s, f in folders.items()}
    verdicts = (
        tokalign(
            f / folder, s, "eval-winrate", "--prompts", f"{f}/test", "--reference", f"{f}/sft-policy", *knobs,
            *(part for arm, name in chosen[s].items() for part in ("--candidate", f"{arm}={f}/ppo/{name}")),
        )
        for folder, knobs in (("winrates", []), ("winrates-at-1", ["--temperature", "1"]))
        for s, f in folders.items()
    )  # fmt: skip
    run(verdicts, args.jobs)
    report(folders, chosen)


def report(folders: dict[int, Path], chosen: dict[int, dict[str, str]]) -> None:
    """Collect the seeds, print them, and write the result file."""
    seeds: list[dict[str, Any]] = []
    for seed, folder in folders.items():
        verdict, at_1 = stats(folder / "winrates"), stats(folder / "winrates-at-1")
        models = {name: stats(folder / f"rm-{name}") for name in REWARD_MODELS}
        seeds.append(
            {
                "seed": seed,
                "setting": chosen[seed],
                "win_rate": {arm: round(c["win_rate"], 2) for arm, c in verdict["candidates"].items()},
                "standard_error": {arm: round(c["standard_error"], 2) for arm, c in verdict["candidates"].items()},
                "win_rate_at_1": {arm: round(c["win_rate"], 2) for arm, c in at_1["candidates"].items()},
                "flawed": {name: round(j["flawed"], 4) for name, j in verdict["judge"].items()},
                "edited_over_original": {n: round(m["edited_over_original"]["mean"], 4) for n, m in models.items()},
                "chosen_over_rejected": {n: round(m["chosen_over_rejected"]["mean"], 4) for n, m in models.items()},
                "flips": {
                    n: {k: round(c["accuracy"], 4) for k, c in m["flips"]["by_category"].items()}
                    for n, m in models.items()
                },
            }
        )
    gaps, gaps_at_1 = ([s[key]["token"] - s[key]["sequence"] for s in seeds] for key in ("win_rate", "win_rate_at_1"))
    result = {
        "command": "python bench/headline.py",
        "tokalign": __version__,
        "grid": GRID,
        **summary("gap", gaps),
        **summary("gap_at_1", gaps_at_1),
        "seeds": seeds,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for s, gap in zip(seeds, gaps, strict=True):
        print(f"seed {s['seed']}: {s['win_rate']}  gap {gap:+.1f}  token RM {s['edited_over_original']['token']:.3f}")
    print(f"token less sequence: {result['gap_mean']:+.1f} ± {result['gap_standard_error']} points;", end=" ")
    print(f"at temperature 1 {result['gap_at_1_mean']:+.1f} ± {result['gap_at_1_standard_error']}")


def summary(name: str, gaps: list[float]) -> dict[str, float | None]:
    """Mean over the seeds, and its standard error."""
    error = round(statistics.stdev(gaps) / len(gaps) ** 0.5, 2) if len(gaps) > 1 else None
    return {f"{name}_mean": round(statistics.mean(gaps), 2), f"{name}_standard_error": error}


if __name__ == "__main__":
    main()
