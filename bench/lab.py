"""What experiments on the playground share: commands with its settings, run in parallel, resumable."""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scipy import stats as distributions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
REWARD_MODELS = {"token": ("token", "chosen"), "chosen": ("sequence", "chosen"), "edited": ("sequence", "edited")}
"""Name → level, pairs."""

Command = list[str]


def tokalign(out: Path, seed: int, command: str, *args: object) -> Command:
    """A command line with the playground's settings."""
    program = str(Path(sys.executable).parent / "tokalign")
    common = ["--out", out, "--seed", seed, "--config", "configs/playground.toml", "--quiet"]
    return [str(part) for part in (program, command, *args, *common)]


def run(commands: Iterable[Command], jobs: int = 2) -> None:
    """Run commands, ``jobs`` at a time, one thread each; stop at the first that fails; what is done stays."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ThreadPoolExecutor(jobs) as pool:
        for done in pool.map(lambda c: subprocess.run(c, cwd=ROOT, env=env, check=False), list(commands)):
            if done.returncode:
                raise SystemExit(f"failed ({done.returncode}): {' '.join(done.args)}")


def worlds(folders: dict[int, Path], jobs: int, models: Iterable[str] = REWARD_MODELS) -> None:
    """For each seed its own world, starting policy, labels and reward models."""
    run((tokalign(f, s, "playground") for s, f in folders.items()), jobs)
    run((tokalign(f / "sft-policy", s, "train-sft", f / "sft", "--model", "tiny") for s, f in folders.items()), jobs)
    run((tokalign(f / "edits", s, "edit", f / "preferences") for s, f in folders.items()), jobs)
    run((labels(f, s, "labels") for s, f in folders.items()), jobs)
    run((reward_model(f, s, name, *REWARD_MODELS[name]) for s, f in folders.items() for name in models), jobs)


def labels(f: Path, seed: int, name: str, *knobs: object) -> Command:
    """Labels of a world."""
    return tokalign(f / name, seed, "diff", f / "edits", "--tokenizer", f / "sft-policy", *knobs)


def reward_model(f: Path, seed: int, name: str, level: str, pairs: str, *knobs: object, on: str = "labels") -> Command:
    """A reward model of a world, ``rm-NAME``."""
    how = ["--model", f / "sft-policy", "--level", level, "--pairs", pairs]
    return tokalign(f / f"rm-{name}", seed, "train-rm", f / on, *how, *knobs)


def ppo(f: Path, seed: int, out: Path, model: str, granularity: str, *knobs: object) -> Command:
    """PPO in a world, evaluated on its held-out prompts."""
    sources = ["--policy", f / "sft-policy", "--reward-model", f / f"rm-{model}", "--granularity", granularity]
    plain = ["--eval-prompts", f / "heldout", "--normalise", "none"]  # unless the knobs say otherwise
    return tokalign(out, seed, "train-ppo", f / "prompts", *sources, *plain, *knobs)


def stats(folder: Path) -> dict[str, Any]:
    """What an artifact's manifest says of its content."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["stats"]
    return found


def course(folder: Path) -> dict[int, float]:
    """Held-out win rate of a PPO run by step."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["step"]: row["win_rate"] for row in rows if "win_rate" in row}


def mean_interval(numbers: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds with its standard error and 95 % interval by Student's t; None where one seed says nothing."""
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
