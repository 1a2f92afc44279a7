"""How sure a number is, and how well a classifier tells two kinds apart. Pure: numbers in, numbers out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Resamples behind an interval."""
_GRID = 1000
"""Steps into which scores are cut for an interval of AUROC."""

Floats = NDArray[np.float64]


def mean_interval(values: Sequence[float], seed: int = 0) -> list[float] | None:
    """95 % interval of a mean, by the percentile bootstrap over its values; None without any."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return None
    means = _weights(len(x), seed) @ x / len(x)
    return _interval(means)


def auroc_interval(scores: Sequence[Any], truths: Sequence[Any], seed: int = 0) -> list[float] | None:
    """95 % interval of the area under the ROC curve, by the bootstrap over responses, whose tokens hang together.

    Args:
        scores: of each response, (T,) from 0 to 1.
        truths: of each response, (T,) bool.
        seed: of the resampling.

    Returns:
        None if no token is true or none is false.
    """
    counts = np.zeros((len(scores), 2, _GRID + 1))
    for row, (score, truth) in enumerate(zip(scores, truths, strict=True)):
        place = np.round(np.asarray(score) * _GRID).astype(np.int64)
        for side in (0, 1):
            counts[row, side] = np.bincount(place[np.asarray(truth) == bool(side)], minlength=_GRID + 1)
    if not counts.sum((0, 2)).all():
        return None
    drawn = np.tensordot(_weights(len(scores), seed, 500), counts, 1)  # (draws, 2, grid)
    false, true = drawn[:, 0], drawn[:, 1]
    below = np.cumsum(false, axis=1) - false / 2  # ties are half
    areas = (true * below).sum(1) / np.maximum(true.sum(1) * false.sum(1), 1)
    return _interval(areas)


def calibration(confidence: Any, right: Any, bins: int = 10) -> dict[str, Any]:
    """Expected calibration error: the gap between how sure and how right, a mean over all, by bins of equal width.

    Args:
        confidence: (N,) probability of what was said.
        right: (N,) bool, whether it was so.
        bins: from 0 to 1.

    Returns:
        ``ece``, and ``bins`` (those that hold any): mean confidence, share right, how many. Guo et al., 2017.
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    n = np.bincount(place, minlength=bins)
    sure, so = (np.bincount(place, weights=x, minlength=bins) for x in (confidence, right))
    held = np.flatnonzero(n)
    return {
        "ece": float(np.abs(sure - so).sum() / max(len(confidence), 1)),
        "bins": [{"confidence": sure[b] / n[b], "accuracy": so[b] / n[b], "n": int(n[b])} for b in held],
    }


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's; None where either does not vary."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 2 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _weights(n: int, seed: int, draws: int = DRAWS) -> Floats:
    """(draws, n): how often each of n is drawn."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws).astype(np.float64)


def _interval(values: Floats) -> list[float]:
    return [float(q) for q in np.quantile(values, [0.025, 0.975])]
