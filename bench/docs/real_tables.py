"""Tables of the experiment on restaurant reviews: each function turns a result of real.py into Markdown."""

import statistics
import sys
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from tables import Result, table

sys.path.append(str(Path(__file__).resolve().parents[1] / "results"))

import real_statistics as tests

ARMS = {
    "token": "**token-level PPO**",
    "end": "same model, paid at the end",
    "sequence": "sequence-level PPO",
    "natural": "sequence-level PPO, natural pairs",
    "clean": "token-level PPO, clean edits",
    "sft-edits": "SFT on the edits",
    "best8-token": "best of 8, token-level model",
    "best8-sequence": "best of 8, sequence-level model",
    "best8-natural": "best of 8, natural pairs",
    "sft": "starting policy",
}
"""Display names of the arms."""
MODELS = {
    "token": "token-level",
    "sequence": "sequence-level",
    "natural": "sequence-level, natural pairs",
    "token-clean": "token-level, clean edits",
    "sequence-clean": "sequence-level, clean edits",
}
"""Display names of the reward models."""


def seeds(result: Result, kl_target: str) -> list[Result]:
    """Figures of all arms with a KL target, one of each seed that has it."""
    runs = (seed["runs"].get(kl_target) for _, seed in sorted(result["seeds"].items()))
    return [run["arms"] for run in runs if run]


def _first(result: Result) -> Result:
    """The runs of the first seed without a KL target."""
    found: Result = result["seeds"][min(result["seeds"], key=int)]["runs"]["0"]
    return found


def spell(found: Result, *, signed: bool = False) -> str:
    """A percentage with its interval."""
    low, high = found["ci95"]
    return (
        f"{found['percent']:+.1f} [{low:+.1f}, {high:+.1f}]"
        if signed
        else f"{found['percent']:.1f} [{low:.1f}, {high:.1f}]"
    )


def _mean(arms: Sequence[Result], name: str, key: str) -> float | None:
    found = [seed[name].get(key) for seed in arms]
    values = [statistics.mean(x) if isinstance(x, list) else x for x in found if x is not None]
    return statistics.mean(values) if values else None


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def arms(result: Result) -> str:
    """Win rates over the starting policy at equal steps, with stars and guards."""
    found = seeds(result, "0")
    rows = []
    for name, shown in ARMS.items():
        if name not in found[0]:
            continue
        won = "–" if name == "sft" else spell(tests.win_rate(found, name))
        lexicon = "–" if name == "sft" else f"{tests.win_rate(found, name, 'vader')['percent']:.1f}"
        figures = (
            ("stars", 2),
            ("kl", 1),
            ("words", 1),
            ("finished", 2),
            ("distinct_2", 2),
            ("perplexity", 0),
            ("named", 2),
        )
        rows.append([shown, won, lexicon, *(_number(_mean(found, name, key), digits) for key, digits in figures)])
    columns = [
        "", "win rate, % [95 %]", "by VADER", "stars", "KL", "words", "finished", "distinct-2", "perplexity", "named",
    ]  # fmt: skip
    return table(columns, rows)


def headline(result: Result) -> str:
    """The table of the README: the four PPO arms and SFT on the edits."""
    found = seeds(result, "0")
    rows = []
    for name in ("token", "end", "sequence", "natural", "sft-edits"):
        others = "–" if name == "token" else spell(tests.compare(found, "token", name)["head_to_head"])
        rows.append(
            [
                ARMS[name], spell(tests.win_rate(found, name)), others, _number(_mean(found, name, "stars"), 2),
                _number(_mean(found, name, "words"), 1),
            ]
        )  # fmt: skip
    return table(
        ["", "win rate over the starting policy, %", "token-level PPO wins against it, %", "stars", "words"], rows
    )


def pairs(result: Result) -> str:
    """Token-level PPO against other arms: at equal steps, and at equal KL."""
    rows = []
    for target in sorted({t for seed in result["seeds"].values() for t in seed["runs"]}, key=float):
        found = seeds(result, target)
        for other in ("end", "sequence", "natural", "clean"):
            if other not in found[0]:
                continue
            compared = tests.compare(found, "token", other)
            kls = [_number(_mean(found, name, "kl"), 1) for name in ("token", other)]
            rows.append(
                [
                    f"KL target {target}" if float(target) else "equal steps", ARMS[other], " / ".join(kls),
                    spell(compared["difference"], signed=True), spell(compared["head_to_head"]),
                    spell(compared["matched"]),
                ]
            )  # fmt: skip
    columns = [
        "runs",
        "token-level PPO against",
        "KL of both",
        "difference in win rate",
        "wins, %",
        "wins at matched length, %",
    ]
    return table(columns, rows)


def reward_models(result: Result) -> str:
    """Reward models on the test edits, means over seeds."""
    rows = []
    for name, shown in MODELS.items():
        found = [
            seed["reward_models"][name] for seed in result["seeds"].values() if name in seed.get("reward_models", {})
        ]
        if not found:
            continue

        def mean(*keys: str, found: list[Any] = found) -> str:
            values = [reduce(lambda part, key: part and part.get(key), keys, model) for model in found]
            return "–" if None in values else f"{statistics.mean(values):.3f}"

        rows.append(
            [
                shown, mean("edited_over_original", "mean"), mean("flips", "accuracy"), mean("auroc", "bad", "value"),
                mean("auroc", "good", "value"),
            ]
        )  # fmt: skip
    return table(["reward model", "edited over original", "flips", "AUROC of bad tokens", "of good tokens"], rows)


def judge(result: Result) -> str:
    """Agreement of both judges with people."""
    names = {"stars": "regressions on people's stars", "vader": "VADER"}
    rows = [
        [names[name], f"{found['spearman']:.2f}", f"{100 * found['edits']:.0f} %"]
        for name, found in result["judge"].items()
    ]
    return table(["judge", "rank correlation with raters' stars", "people's edits rated above their originals"], rows)


def samples(result: Result) -> str:
    """Responses of some arms in the first seed, for test prompts that are evenly spread."""
    shown = ("reference", "token", "sequence")
    rows = [
        [row["prompt"], *(" ".join(row[name].split()).replace("|", "\\|") for name in shown)]
        for row in _first(result)["samples"]
    ]
    return table(["prompt", "starting policy", "token-level PPO", "sequence-level PPO"], rows)


def trials(result: Result) -> str:
    """Held-out win rates by step of the trials, with KL and length at the end."""
    steps = [look["step"] for look in next(iter(result["trials"].values()))["course"]]
    rows = []
    for name, trial in result["trials"].items():
        last = trial["course"][-1]
        rates = [f"{look['win_rate']:.0f}" for look in trial["course"]]
        rows.append([name, *rates, f"{last['kl']:.1f}", f"{last['length']:.0f}"])
    return table(["rewards", *(f"step {step}" for step in steps), "KL", "tokens"], rows)


def speed(result: Result) -> str:
    """Seconds of a PPO step, and the step at which token-level PPO reaches the last win rate of the others."""
    rows = []
    for number, seed in sorted(result["seeds"].items()):
        courses, seconds = seed["runs"]["0"]["courses"], seed["runs"]["0"]["seconds_per_step"]
        for other in ("end", "sequence", "natural"):
            goal = courses[other][-1]["win_rate"]
            reached = [look["step"] for look in courses["token"] if look["win_rate"] >= goal]
            times = " / ".join(f"{seconds[arm]:.0f} s" for arm in ("token", other))
            rows.append(
                [
                    number, ARMS[other], f"{goal:.1f} at step {courses[other][-1]['step']}",
                    f"step {reached[0]}" if reached else "not reached", times,
                ]
            )  # fmt: skip
    columns = ["seed", "other run", "its last win rate, %", "reached by token-level PPO at", "time of a step, both"]
    return table(columns, rows)
