"""Curves of PPO runs from their logs. Runs that differ in the seed only are one line with a band."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from tokalign.artifacts.manifest import Artifact
from tokalign.data.readers import read_file
from tokalign.report.plot import Series

METRICS = {
    "win_rate": "win rate on held-out prompts, %",
    "reward": "reward per response",
    "kl": "KL divergence from the starting policy, nats per response",
    "length": "response length, tokens",
}
"""Column of ``metrics.jsonl`` → label of the axis."""
METRICS_LOG = "metrics.jsonl"
_MAX_VALUE = 1e15
"""Largest absolute value that is plotted."""
_TIMES = ("seconds_rollout", "seconds_scoring", "seconds_update")


def read(run: Artifact) -> list[dict[str, Any]]:
    """Return the logged steps of a run, each with the ``minutes`` of work so far; [] if there is no log."""
    rows = [row for path in run.find(METRICS_LOG) for _, row in read_file(path) if isinstance(row.get("step"), int)]
    elapsed = accumulate(sum(row[k] for k in _TIMES if _is_number(row.get(k))) for row in rows)
    return [{**row, "minutes": seconds / 60} for row, seconds in zip(rows, elapsed, strict=True)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_VALUE


def series(name: str, runs: Sequence[Sequence[dict[str, Any]]], metric: str, by: str) -> Series:
    """Combine several runs into one line: at each step the mean, with a band from minimum to maximum.

    Args:
        name: name of the line.
        runs: logged steps of each run, see :func:`read`.
        metric: column of the log.
        by: column of the x axis, ``step`` or ``minutes``.
    """
    columns = [{row["step"]: row for row in run if _is_number(row.get(metric))} for run in runs]
    columns = [c for c in columns if c]
    steps = sorted(set().union(*columns))
    at = [[c[step] for c in columns if step in c] for step in steps]
    values = [[row[metric] for row in rows] for rows in at]
    x = [sum(row[by] for row in rows) / len(rows) for rows in at]
    y = [sum(v) / len(v) for v in values]
    band = ([min(v) for v in values], [max(v) for v in values]) if len(columns) > 1 else ((), ())
    return Series(name, x, y, *band)
