"""Curves of PPO runs from their logs: the same run with other seeds is one line, with a band."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from tokalign.artifacts.manifest import Artifact
from tokalign.data.readers import read_file
from tokalign.report.plot import Series

METRICS = {
    "win_rate": "win rate on held-out prompts, %",
    "reward": "reward a response",
    "kl": "KL from the start, nats a response",
    "length": "length, tokens",
}
"""Column of ``metrics.jsonl`` → what the axis says."""
METRICS_LOG = "metrics.jsonl"
_LARGEST = 1e15
"""What is larger is no number that a plot can show, nor are infinity and NaN."""
_TIMES = ("seconds_rollout", "seconds_scoring", "seconds_update")


def read(run: Artifact) -> list[dict[str, Any]]:
    """The steps of a run, with ``minutes`` of work up to each; [] where there is no log."""
    rows = [row for path in run.find(METRICS_LOG) for _, row in read_file(path) if isinstance(row.get("step"), int)]
    spent = accumulate(sum(row[k] for k in _TIMES if _is_number(row.get(k))) for row in rows)
    return [{**row, "minutes": seconds / 60} for row, seconds in zip(rows, spent, strict=True)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def series(name: str, runs: Sequence[Sequence[dict[str, Any]]], metric: str, by: str) -> Series:
    """One line of several runs: at each step the mean of those that have it, and from the least to the most of them.

    Args:
        name: whose line it is.
        runs: the steps of each.
        metric: column of the log.
        by: ``step`` or ``minutes``.
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
