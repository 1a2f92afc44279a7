"""What each choice in token-level PPO is worth on the playground: one change at a time, several seeds. Resumable.

Worlds, policies and reward models are those of ``bench/results/paper.py`` and are made here if they are not there.
What is compared is the win rate on held-out prompts at the last step (temperature 1), seed by seed with the run that changes
nothing. A run that is one of that bench's is not run twice. Writes docs/results/ablations.json after each seed, and
runs what is not in there; what is there of other settings of the playground is dropped. --again runs it all.

    python bench/results/ablations.py [--seeds 0 1 2] [--runs runs/paper] [--jobs 2] [--changes base …] [--again]
"""

import argparse
import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from lab import RESULTS, ROOT, SETTINGS, Command, Plan, course, labels, ppo, reward_model, run, stats, world
from paper import GRID, Trial
from tokalign import __version__
from tokalign.config.stages import PlaygroundConfig
from tokalign.runtime.disk import hash_json

RESULT = RESULTS / "ablations.json"

BASE = GRID[0]


class Change(NamedTuple):
    """One difference from the base; ``trial`` where it is a run of ``bench/results/paper.py`` too."""

    about: str
    options: tuple[str, ...] = ()
    model: str = "token"
    granularity: str = "token"
    trial: Trial | None = None

    @property
    def reward_model(self) -> str:
        return self.trial.model if self.trial else self.model


CHANGES = {
    "base": Change("a reward at every token (kl_coef 0.2)", trial=Trial("token", BASE)),
    "paid-at-the-end": Change("the same token rewards, all at the last token", granularity="sequence"),
    "segment": Change("the same token rewards, at the end of each sentence", granularity="segment"),
    "sequence-chosen": Change("sequence-level reward model, chosen pairs", trial=Trial("chosen", BASE)),
    "sequence-edited": Change("sequence-level reward model, edited pairs", trial=Trial("edited", BASE)),
    "sequence-both": Change("sequence-level reward model, both pairs", model="both", granularity="sequence"),
    "no-centre": Change("rewards not centred", ("--no-centre",)),
    "no-scale": Change("rewards not divided by σ", ("--no-scale",)),
    "weights-1": Change("reward model with class weights of 1", model="weights-1"),
    "kl-0.05": Change("kl_coef 0.05", ("--kl-coef", "0.05")),
    "kl-0.1": Change("kl_coef 0.1", ("--kl-coef", "0.1")),
    "kl-0.4": Change("kl_coef 0.4", ("--kl-coef", "0.4")),
    "kl-target": Change("kl_coef adapted to 3 nats a response", ("--kl-target", "3")),
    "k3": Change("KL by the estimator k3", ("--kl-estimator", "k3")),
    "unit-token": Change("labels aligned by token instead of word", model="unit-token"),
    "omissions": Change("the token after an omission is bad too", model="omissions"),
    "discrete": Change("rewards -1, 0, 1 instead of expected", ("--reward", "discrete")),
    "word": Change("rewards shared within a word", ("--normalise", "word")),
    "span": Change("rewards shared within a span", trial=Trial("token", {**BASE, "normalise": "span"})),
    "value-lr": Change(
        "value model's learning rate three times as high", trial=Trial("token", {**BASE, "value-lr": 3e-3})
    ),
    "lambda-1": Change("advantages with λ 1 instead of .95", ("--gae-lambda", "1")),
    "shared": Change("value head on the policy's states", ("--value-model", "shared")),
    "no-guard": Change("no length guard", ("--length-guard", "0")),
}
"""Name → what is changed."""
LABELS = {"unit-token": ("--unit", "token"), "omissions": ("--omissions",)}
"""Labels of their own, and a reward model for each."""
MODELS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "weights-1": ("token", "chosen", ("--weight-neutral", "1")),
    "both": ("sequence", "both", ()),
}
"""Reward models of their own: level, pairs, options."""


def experiment(f: Path, seed: int, changes: list[str], result: dict[str, Any]) -> Plan:
    """All of one seed that is to be run, and the base beside it."""
    wanted = dict.fromkeys(["base", *changes])
    models = {CHANGES[name].reward_model for name in wanted}
    yield from world(f, seed, models)
    made = [name for name in LABELS if name in models]
    yield [labels(f, seed, f"labels-{name}", *LABELS[name]) for name in made]
    own = [reward_model(f, seed, n, lv, pairs, *options) for n, (lv, pairs, options) in MODELS.items() if n in models]
    yield own + [reward_model(f, seed, name, "token", "chosen", on=f"labels-{name}") for name in made]
    yield [command(f, seed, name) for name in wanted]
    for name in changes:
        out = folder(f, name)
        found = {
            "win_rate": last(out),
            "base": last(folder(f, "base")),
            "kl": round(stats(out)["last"]["kl"], 2),
        }
        result["changes"].setdefault(name, {})[str(seed)] = found
    keep(result)


def folder(f: Path, name: str) -> Path:
    """Where the run of a change is."""
    trial = CHANGES[name].trial
    return f / "ppo" / trial.name if trial else f / "ablations" / name


def command(f: Path, seed: int, name: str) -> Command:
    """What runs it."""
    out, change = folder(f, name), CHANGES[name]
    if change.trial:
        return change.trial.command(f, seed, out)
    base = [part for key, value in BASE.items() for part in (f"--{key}", value)]
    once = ["--eval-every", 40]  # what is compared is the end
    return ppo(f, seed, out, change.model, change.granularity, *base, *once, *change.options)


def keep(result: dict[str, Any]) -> None:
    """Write the result file, changes in the order in which they are declared here."""
    found = {
        name: {"about": CHANGES[name].about, **seeds} for name in CHANGES if (seeds := result["changes"].get(name))
    }
    text = json.dumps({**result, "changes": found}, indent=1, ensure_ascii=False)
    RESULT.write_text(text + "\n", encoding="utf-8")


def playground() -> str:
    """What worlds and models are made by: a hash of the playground's settings and sizes."""
    sizes = {f.name: f.default for f in fields(PlaygroundConfig) if isinstance(f.default, int | float)}
    return hash_json([tomllib.loads((ROOT / SETTINGS).read_text(encoding="utf-8")), sizes])


def main() -> None:
    """Run what is not done yet, print and write the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="NAME")
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    result: dict[str, Any] = {"command": "python bench/results/ablations.py", "tokalign": __version__}
    result |= {"playground": playground(), "changes": {}}
    before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    if before.get("playground") == result["playground"] and not args.again:
        result["changes"] = before["changes"]
    plans = []
    for seed in args.seeds:
        todo = [name for name in args.changes if str(seed) not in result["changes"].get(name, {})]
        if todo:
            plans.append(experiment(args.runs / f"seed-{seed}", seed, todo, result))
    run(plans, args.jobs)
    print(f"{RESULT}: python bench/docs/readme.py puts it into the docs")


def last(folder: Path) -> float:
    """Held-out win rate at the last step."""
    found = course(folder)
    return round(found[max(found)], 2)


if __name__ == "__main__":
    main()
