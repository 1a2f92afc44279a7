"""What each choice in token-level PPO is worth on the playground: one change at a time, several seeds. Resumable.

Worlds, policies and reward models are those of ``bench/paper.py`` and are made here if they are not there. What is
compared is the win rate on held-out prompts at the last step (temperature 1), seed by seed with the run that changes
nothing. Writes docs/results/ablations.json.

    python bench/ablations.py [--seeds 3] [--runs runs/paper] [--jobs 2] [--changes base …]
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from lab import RESULTS, ROOT, Plan, course, labels, mean_interval, ppo, reward_model, run, stats, world
from tokalign import __version__

BASE = {"lr": 3e-4, "kl-coef": 0.2}


class Change(NamedTuple):
    """One difference from the base."""

    about: str
    knobs: tuple[str, ...] = ()
    model: str = "token"
    granularity: str = "token"


CHANGES = {
    "base": Change("a reward at every token (kl_coef 0.2)"),
    "paid-at-the-end": Change("the same token rewards, all at the last token", granularity="sequence"),
    "segment": Change("the same token rewards, at the end of each sentence", granularity="segment"),
    "sequence-chosen": Change("sequence-level reward model, chosen pairs", model="chosen", granularity="sequence"),
    "sequence-edited": Change("sequence-level reward model, edited pairs", model="edited", granularity="sequence"),
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
    "span": Change("rewards shared within a span", ("--normalise", "span")),
    "value-lr": Change("value model's learning rate three times as high", ("--value-lr", "3e-3")),
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
"""Reward models of their own: level, pairs, knobs."""


def experiment(f: Path, seed: int, changes: list[str]) -> Plan:
    """All of one seed."""
    yield from world(f, seed)
    yield [labels(f, seed, f"labels-{name}", *knobs) for name, knobs in LABELS.items()]
    models = [reward_model(f, seed, name, lv, pairs, *knobs) for name, (lv, pairs, knobs) in MODELS.items()]
    yield models + [reward_model(f, seed, name, "token", "chosen", on=f"labels-{name}") for name in LABELS]
    base = [part for key, value in BASE.items() for part in (f"--{key}", f"{value:g}")]
    once = ["--eval-every", "40"]  # what is compared is the end
    chosen = {name: CHANGES[name] for name in changes}
    yield [
        ppo(f, seed, f / "ablations" / name, c.model, c.granularity, *base, *once, *c.knobs)
        for name, c in chosen.items()
    ]


def main() -> None:
    """Run what is not done yet, print and write the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="NAME")
    args = parser.parse_args()
    folders = {seed: args.runs / f"seed-{seed}" for seed in range(args.seeds)}

    run((experiment(f, seed, args.changes) for seed, f in folders.items()), args.jobs)
    rates = {name: [last(f / "ablations" / name) for f in folders.values()] for name in args.changes}
    result: dict[str, Any] = {"command": "python bench/ablations.py", "tokalign": __version__, "seeds": args.seeds}
    result["changes"] = {}
    for name in args.changes:
        change = CHANGES[name]
        found = {"about": change.about, "win_rate": mean_interval(rates[name])["mean"], "by_seed": rates[name]}
        against = mean_interval([a - b for a, b in zip(rates[name], rates["base"], strict=True)])
        found["kl"] = round(sum(stats(f / "ablations" / name)["last"]["kl"] for f in folders.values()) / args.seeds, 2)
        result["changes"][name] = {**found, "difference": against}
        print(f"{change.about:<50} {found['win_rate']:6.1f}  {against['mean']:+5.1f} ± {against['standard_error']}")
    (RESULTS / "ablations.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def last(folder: Path) -> float:
    """Held-out win rate at the last step."""
    found = course(folder)
    return round(found[max(found)], 2)


if __name__ == "__main__":
    main()
