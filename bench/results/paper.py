"""Token-level against sequence-level PPO over several seeds, each tuned with four runs. Resumable.

Each seed has its own world, policy and reward models. Both arms are trained for the same number of steps on the same
prompts and tuned with four runs. The setting of each arm (for the sequence arm, also the training pairs of its reward
model) is the one with the highest win rate on ``heldout``. Only this setting is reported on ``test``, at the
playground's evaluation temperature and at 1, the temperature of training. The token arm is then trained for three times
the steps. For comparison: best-of-8 of the starting policy with either reward model, and SFT on the edited responses
with the number of steps selected on ``heldout``. Writes docs/results/paper.json.

    python bench/results/paper.py [--seeds 5] [--runs runs/paper] [--jobs 2]
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from lab import (
    RESULTS,
    REWARD_MODELS,
    ROOT,
    Command,
    Plan,
    course,
    mean_interval,
    ppo,
    run,
    stats,
    tokalign,
    world,
)
from tokalign import __version__
from tokalign.playground import oracle

GRID: list[dict[str, float | str]] = [
    {"lr": 3e-4, "kl-coef": 0.2},
    {"lr": 6e-4, "kl-coef": 0.2},
    {"lr": 3e-4, "kl-coef": 0.2, "value-lr": 3e-3},
    {"lr": 3e-4, "kl-coef": 0.2, "normalise": "span"},
]
"""Settings of the four runs of the token arm. The last one does not affect a sequence-level reward model; the fourth
run of the sequence arm is the first setting with the other training pairs."""
ARMS = {"sequence": ("chosen", "edited"), "token": ("token",)}
"""Reward models of each arm; one is selected with the first setting."""
LONG = 120
"""Steps of the long run."""
SFT_STEPS = (100, 300)
"""Numbers of steps tried for SFT on the edited responses."""
BEST_OF = 8


class Trial(NamedTuple):
    """One PPO run: its reward model and its setting."""

    model: str
    setting: dict[str, float | str]

    @property
    def name(self) -> str:
        return "-".join([self.model, *(f"{k}{v}" for k, v in self.setting.items())])

    def command(self, f: Path, seed: int, out: Path, *options: object) -> Command:
        chosen = [part for k, v in self.setting.items() for part in (f"--{k}", v)]
        return ppo(f, seed, out, self.model, REWARD_MODELS[self.model][0], *chosen, *options)


def openers(arm: str) -> list[Trial]:
    """Trials of the first setting, one with each reward model of an arm."""
    return [Trial(model, GRID[0]) for model in ARMS[arm]]


def others(f: Path, arm: str) -> list[Trial]:
    """Trials of the other settings, with the best reward model of the arm."""
    model = best(f, openers(arm)).model
    return [Trial(model, setting) for setting in GRID[1:] if arm == "token" or "normalise" not in setting]


def best(f: Path, trials: list[Trial]) -> Trial:
    """The trial with the highest win rate on held-out prompts."""
    return max(trials, key=lambda trial: float(stats(f / "ppo" / trial.name)["best_win_rate"]))


def chosen(f: Path) -> dict[str, Trial]:
    """The best trial of each arm."""
    return {arm: best(f, openers(arm) + others(f, arm)) for arm in ARMS}


def carry_on(f: Path, seed: int, trial: Trial) -> Command:
    """Copy a finished run, and return the command that trains the copy up to ``LONG`` steps."""
    if not (f / "long").exists():
        shutil.rmtree(f / "copy", ignore_errors=True)
        shutil.copytree(f / "ppo" / trial.name, f / "copy").rename(f / "long")  # complete, or not there at all
    return trial.command(f, seed, f / "long", "--steps", LONG)


def sft_on_edits(f: Path, seed: int, steps: int) -> Command:
    """Command of the SFT baseline, which trains on the edits as demonstrations."""
    options = ["--steps", steps, "--muon-lr", 5e-3, "--lr", 1e-3]
    return tokalign(f / f"sft-edits-{steps}", seed, "train-sft", f / "edits", "--model", f / "sft-policy", *options)


def heldout(f: Path, seed: int) -> Command:
    """Command for the SFT baseline's win rates on held-out prompts, which select its number of steps."""
    named = [part for n in SFT_STEPS for part in ("--candidate", f"{n}={f / f'sft-edits-{n}'}")]
    where = ["--prompts", f / "heldout", "--reference", f / "sft-policy"]
    return tokalign(f / "sft-heldout", seed, "eval-winrate", *where, *named)


def best_sft(f: Path) -> str:
    """Number of steps of the SFT baseline with the highest win rate on held-out prompts."""
    rates: dict[str, dict[str, float]] = stats(f / "sft-heldout")["candidates"]
    return max(rates, key=lambda name: rates[name]["win_rate"])


def best_of(f: Path, seed: int, arm: str, model: str) -> Command:
    """Command for best-of-n of the starting policy with the reward model of an arm."""
    options = ["--n", BEST_OF, "--reward-model", f / f"rm-{model}", "--temperature", 0.7]
    return tokalign(
        f / f"best-of-{BEST_OF}-{arm}", seed, "generate", f / "test", "--policy", f / "sft-policy", *options
    )


def experiment(f: Path, seed: int) -> Plan:
    """All commands of one seed."""
    yield from world(f, seed)
    opened = [trial for arm in ARMS for trial in openers(arm)]
    yield [trial.command(f, seed, f / "ppo" / trial.name) for trial in opened]
    rest = [trial for arm in ARMS for trial in others(f, arm)]
    yield [
        *(trial.command(f, seed, f / "ppo" / trial.name) for trial in rest),
        *(sft_on_edits(f, seed, steps) for steps in SFT_STEPS),
    ]
    arms = chosen(f)
    yield [
        carry_on(f, seed, arms["token"]),
        heldout(f, seed),
        *(best_of(f, seed, arm, trial.model) for arm, trial in arms.items()),
    ]
    candidates = {arm: f / "ppo" / trial.name for arm, trial in arms.items()}
    candidates |= {"token-long": f / "long", "token-long-last": f / "long" / "checkpoints" / "last"}
    candidates |= {"sft-on-edits": f / f"sft-edits-{best_sft(f)}"}
    candidates |= {f"best-of-{BEST_OF}-{arm}": f / f"best-of-{BEST_OF}-{arm}" for arm in arms}
    named = [part for arm, path in candidates.items() for part in ("--candidate", f"{arm}={path}")]
    verdict = ["--prompts", f / "test", "--reference", f / "sft-policy", *named]
    yield [
        tokalign(f / "winrates", seed, "eval-winrate", *verdict),
        tokalign(f / "winrates-at-1", seed, "eval-winrate", *verdict, "--temperature", 1),
    ]


def main() -> None:
    """Run all missing commands and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    folders = {seed: args.runs / f"seed-{seed}" for seed in range(args.seeds)}
    began = time.monotonic()
    run((experiment(f, seed) for seed, f in folders.items()), args.jobs)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    report(folders)


def long_run(folder: Path) -> dict[str, Any]:
    """Metrics of the long run at every tenth step, and its warnings."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = {str(r["step"]): {k: round(r[k], 2) for k in ("win_rate", "reward", "kl", "length")} for r in rows[9::10]}
    return {"kl_coef": rows[-1]["kl_coef"], "steps": kept, "warnings": stats(folder)["warnings"]}


def ceiling(folder: Path) -> float:
    """Win rate in percent of a policy without mistakes; it ties where the reference makes no mistake either."""
    rows = map(json.loads, (folder / "compared.jsonl").read_text(encoding="utf-8").splitlines())
    return round(100 - 50 * statistics.mean(oracle.judge(row["prompt"], row["reference"]).clean for row in rows), 2)


def report(folders: dict[int, Path]) -> None:
    """Collect the results of all seeds, print them and write the result file."""
    seeds: list[dict[str, Any]] = []
    for seed, folder in folders.items():
        arms = chosen(folder)
        verdict, at_1 = stats(folder / "winrates"), stats(folder / "winrates-at-1")
        models = {name: stats(folder / f"rm-{name}") for name in REWARD_MODELS}
        courses = {arm: course(folder / "ppo" / trial.name) for arm, trial in arms.items()}
        last = courses["sequence"][max(courses["sequence"])]
        seeds.append(
            {
                "seed": seed,
                "setting": {arm: trial.name for arm, trial in arms.items()},
                "win_rate": {arm: round(c["win_rate"], 2) for arm, c in verdict["candidates"].items()},
                "standard_error": {arm: round(c["standard_error"], 2) for arm, c in verdict["candidates"].items()},
                "win_rate_at_1": {arm: round(c["win_rate"], 2) for arm, c in at_1["candidates"].items()},
                "ceiling": {"0.7": ceiling(folder / "winrates"), "1": ceiling(folder / "winrates-at-1")},
                "heldout": {arm: {str(k): round(v, 2) for k, v in c.items()} for arm, c in courses.items()},
                "long": long_run(folder / "long"),
                "token_passes_at": next((step for step, rate in courses["token"].items() if rate > last), None),
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
    against = {
        name: mean_interval([s["win_rate"]["token"] - s["win_rate"][name] for s in seeds])
        for name in seeds[0]["win_rate"]
        if not name.startswith("token")  # without the token arm itself
    }
    longer = {
        name: mean_interval([s["win_rate"][name] - s["win_rate"]["token"] for s in seeds])
        for name in ("token-long", "token-long-last")
    }
    result = {
        "command": "python bench/results/paper.py",
        "tokalign": __version__,
        "grid": GRID,
        "gap": mean_interval(gaps),
        "gap_at_1": mean_interval(gaps_at_1),
        "token_less": against,
        "long": {"steps": LONG, **longer},
        "seeds": seeds,
    }
    (RESULTS / "paper.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for s, gap in zip(seeds, gaps, strict=True):
        print(f"seed {s['seed']}: {s['win_rate']}  difference {gap:+.1f}  beats baseline at {s['token_passes_at']}")
    for name, found in (
        ("difference", result["gap"]),
        ("difference at temperature 1", result["gap_at_1"]),
        *against.items(),
        *longer.items(),
    ):
        print(f"{name}: {found}")


if __name__ == "__main__":
    main()
