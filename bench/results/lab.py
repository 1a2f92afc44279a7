"""Shared code of the experiments on the playground: commands with its settings, and a parallel, resumable runner."""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from scipy import stats as distributions

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = "configs/experiments.toml"
RESULTS = ROOT / "docs" / "results"
REWARD_MODELS = {"token": ("token", "chosen"), "chosen": ("sequence", "chosen"), "edited": ("sequence", "edited")}
"""Level and pairs of each reward model, by name."""

Command = list[str]
Plan = Iterator[list[Command]]
"""The experiment of one seed in waves. Commands of a wave run in any order; the next wave starts when all are done."""


def tokalign(out: Path, seed: int, command: str, *args: object) -> Command:
    """A command line with the playground's settings."""
    program = str(Path(sys.executable).parent / "tokalign")
    common = ["--out", out, "--seed", seed, "--config", SETTINGS, "--quiet"]
    return [str(part) for part in (program, command, *args, *common)]


def run(plans: Iterable[Plan], jobs: int) -> None:
    """Run all plans, ``jobs`` commands at a time. Exits at the first command that fails.

    Results of finished commands are kept; running a plan again skips them. A command has one thread. It has ``jobs``
    threads if it is alone in its wave and there is one plan.
    """
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    plans = list(plans)
    running: dict[Future[int], tuple[Plan, Command]] = {}
    remaining: dict[Plan, int] = {}
    with ThreadPoolExecutor(jobs) as pool:

        def start_next_wave(plan: Plan) -> None:
            wave = next((wave for wave in plan if wave), [])
            remaining[plan] = len(wave)
            threads = {"OMP_NUM_THREADS": str(jobs if len(wave) == len(plans) == 1 else 1)}
            for command in wave:
                running[pool.submit(subprocess.call, command, cwd=ROOT, env=env | threads)] = plan, command

        for plan in plans:
            start_next_wave(plan)
        while running:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                plan, command = running.pop(done)
                if done.result():
                    pool.shutdown(cancel_futures=True)
                    raise SystemExit(f"failed ({done.result()}): {' '.join(command)}")
                remaining[plan] -= 1
                if not remaining[plan]:
                    start_next_wave(plan)


def world(f: Path, seed: int, models: Iterable[str] = REWARD_MODELS) -> Plan:
    """Commands for a world with its starting policy, edits, labels, and the ``REWARD_MODELS`` named in ``models``."""
    yield [tokalign(f, seed, "playground")]
    sft = tokalign(f / "sft-policy", seed, "train-sft", f / "sft", "--model", "tiny")
    yield [sft, tokalign(f / "edits", seed, "edit", f / "preferences")]
    yield [labels(f, seed, "labels")]
    yield [reward_model(f, seed, name, *of) for name, of in REWARD_MODELS.items() if name in models]


def labels(f: Path, seed: int, name: str, *options: object, of: str = "edits") -> Command:
    """Command that labels the edits of a world."""
    return tokalign(f / name, seed, "diff", f / of, "--tokenizer", f / "sft-policy", *options)


def reward_model(
    f: Path, seed: int, name: str, level: str, pairs: str, *options: object, on: str = "labels"
) -> Command:
    """Command that trains the reward model ``rm-NAME`` of a world."""
    required = ["--model", f / "sft-policy", "--level", level, "--pairs", pairs]
    return tokalign(f / f"rm-{name}", seed, "train-rm", f / on, *required, *options)


def ppo(f: Path, seed: int, out: Path, model: str, granularity: str, *options: object) -> Command:
    """Command that runs PPO in a world and evaluates it on the held-out prompts."""
    sources = ["--policy", f / "sft-policy", "--reward-model", f / f"rm-{model}", "--granularity", granularity]
    defaults = ["--eval-prompts", f / "heldout", "--normalise", "none"]  # ``options`` override them
    return tokalign(out, seed, "train-ppo", f / "prompts", *sources, *defaults, *options)


def stats(folder: Path) -> dict[str, Any]:
    """``stats`` of an artifact's manifest."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["stats"]
    return found


def course(folder: Path) -> dict[int, float]:
    """Held-out win rate of a PPO run by step."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["step"]: row["win_rate"] for row in rows if "win_rate" in row}


def mean_interval(numbers: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds, with its standard error and 95 % interval by Student's t; both None for a single seed."""
    mean, n = statistics.mean(numbers), len(numbers)
    if n < 2:
        return {"mean": round(mean, 2), "standard_error": None, "ci95": None}
    error = statistics.stdev(numbers) / math.sqrt(n)
    half = float(distributions.t.ppf(0.975, n - 1)) * error
    return {
        "mean": round(mean, 2),
        "standard_error": round(error, 2),
        "ci95": [round(mean - half, 2), round(mean + half, 2)],
    }
