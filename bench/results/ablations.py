"""Ablations of token-level PPO on the playground: one change at a time, several seeds. Resumable.

Compares the win rate on held-out prompts at the last step (temperature 1) with that of the unchanged run of the same
seed. Worlds, policies, reward models and runs that ``bench/results/paper.py`` also needs are shared with it, and made
here if they are missing. Writes docs/results/ablations.json after each seed. Changes that are already in this file are
not run again, unless the playground's settings have changed or --again is given.

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
    """One difference from the base; ``trial``: the same run in ``bench/results/paper.py``, if there is one."""

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
"""Changes by name."""
LABELS = {"unit-token": ("--unit", "token"), "omissions": ("--omissions",)}
"""Options of ``diff`` for changes that need other labels, and a reward model trained on them."""
MODELS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "weights-1": ("token", "chosen", ("--weight-neutral", "1")),
    "both": ("sequence", "both", ()),
}
"""Level, pairs and options of reward models that only the ablations need."""


def experiment(f: Path, seed: int, changes: list[str], result: dict[str, Any]) -> Plan:
    """All runs of one seed for ``changes``, and the base. Adds the outcome to ``result``."""
    names = dict.fromkeys(["base", *changes])
    models = {CHANGES[name].reward_model for name in names}
    yield from world(f, seed, models)
    label_names = [name for name in LABELS if name in models]
    yield [labels(f, seed, f"labels-{name}", *LABELS[name]) for name in label_names]
    own = [reward_model(f, seed, n, lv, pairs, *options) for n, (lv, pairs, options) in MODELS.items() if n in models]
    yield own + [reward_model(f, seed, name, "token", "chosen", on=f"labels-{name}") for name in label_names]
    yield [command(f, seed, name) for name in names]
    for name in changes:
        out = folder(f, name)
        outcome = {
            "win_rate": last(out),
            "base": last(folder(f, "base")),
            "kl": round(stats(out)["last"]["kl"], 2),
        }
        result["changes"].setdefault(name, {})[str(seed)] = outcome
    keep(result)


def folder(f: Path, name: str) -> Path:
    """Folder of the run of a change."""
    trial = CHANGES[name].trial
    return f / "ppo" / trial.name if trial else f / "ablations" / name


def command(f: Path, seed: int, name: str) -> Command:
    """Command that runs a change."""
    out, change = folder(f, name), CHANGES[name]
    if change.trial:
        return change.trial.command(f, seed, out)
    base = [part for key, value in BASE.items() for part in (f"--{key}", value)]
    once = ["--eval-every", 40]  # only the last step is compared
    return ppo(f, seed, out, change.model, change.granularity, *base, *once, *change.options)


def keep(result: dict[str, Any]) -> None:
    """Write the result file, with the changes in the order of :data:`CHANGES`."""
    found = {
        name: {"about": CHANGES[name].about, **seeds} for name in CHANGES if (seeds := result["changes"].get(name))
    }
    text = json.dumps({**result, "changes": found}, indent=1, ensure_ascii=False)
    RESULT.write_text(text + "\n", encoding="utf-8")


def playground() -> str:
    """Hash of the playground's settings and sizes, which determine worlds and models."""
    sizes = {f.name: f.default for f in fields(PlaygroundConfig) if isinstance(f.default, int | float)}
    return hash_json([tomllib.loads((ROOT / SETTINGS).read_text(encoding="utf-8")), sizes])


def main() -> None:
    """Run the missing changes and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="NAME")
    parser.add_argument("--again", action="store_true", help="run all changes again")
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
    print(f"wrote {RESULT}; update the docs with: python bench/docs/readme.py")


def last(folder: Path) -> float:
    """Held-out win rate at the last step."""
    found = course(folder)
    return round(found[max(found)], 2)


if __name__ == "__main__":
    main()
