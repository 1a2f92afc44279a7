"""Confidence intervals, calibration and correlation: pure functions of numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Number of bootstrap resamples of a mean."""
_AREA_DRAWS = 500
"""Number of bootstrap resamples of an AUROC."""
_GRID = 1000
"""Number of steps to which scores are rounded for the interval of an AUROC."""

Floats = NDArray[np.float64]


def mean_interval(values: Sequence[float], seed: int = 0) -> list[float] | None:
    """95 % interval [low, high] of a mean, by percentile bootstrap over the values; None without values."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return None
    means = _weights(len(x), seed) @ x / len(x)
    return _interval(means)


def auroc_interval(scores: Sequence[Any], truths: Sequence[Any], seed: int = 0) -> list[float] | None:
    """95 % interval [low, high] of the area under the ROC curve over tokens.

    By percentile bootstrap over responses, because tokens of one response are correlated.

    Args:
        scores: (T_i,) scores of the tokens of each response, from 0 to 1.
        truths: (T_i,) bool for each response: True for positive tokens.
        seed: seed of the bootstrap.

    Returns:
        None if there are no positive or no negative tokens.
    """
    counts = np.zeros((len(scores), 2, _GRID + 1))
    for row, (score, truth) in enumerate(zip(scores, truths, strict=True)):
        place = np.round(np.asarray(score) * _GRID).astype(np.int64)
        for side in (0, 1):
            counts[row, side] = np.bincount(place[np.asarray(truth) == bool(side)], minlength=_GRID + 1)
    if not counts.sum((0, 2)).all():
        return None
    drawn = np.tensordot(_weights(len(scores), seed, _AREA_DRAWS), counts, 1)  # (draws, 2, grid)
    false, true = drawn[:, 0], drawn[:, 1]
    below = np.cumsum(false, axis=1) - false / 2  # a tie counts half
    areas = (true * below).sum(1) / np.maximum(true.sum(1) * false.sum(1), 1)
    return _interval(areas)


def calibration(confidence: Any, right: Any, bins: int = 10) -> dict[str, Any]:
    """Expected calibration error with bins of equal width (Guo et al., 2017).

    Args:
        confidence: (N,) probability of the predicted class.
        right: (N,) bool, whether the prediction is correct.
        bins: number of bins between 0 and 1.

    Returns:
        ``ece``; and ``bins``, the non-empty bins, each with mean ``confidence``, ``accuracy`` and number ``n``.
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    n = np.bincount(place, minlength=bins)
    confidences, correct = (np.bincount(place, weights=x, minlength=bins) for x in (confidence, right))
    occupied = np.flatnonzero(n)
    return {
        "ece": float(np.abs(confidences - correct).sum() / max(len(confidence), 1)),
        "bins": [
            {"confidence": confidences[b] / n[b], "accuracy": correct[b] / n[b], "n": int(n[b])} for b in occupied
        ],
    }


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson correlation; None with fewer than two values, or if ``x`` or ``y`` is constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 2 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _weights(n: int, seed: int, draws: int = DRAWS) -> Floats:
    """(draws, n): how often each of n items is drawn in each resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws).astype(np.float64)


def _interval(values: Floats) -> list[float]:
    return [float(q) for q in np.quantile(values, [0.025, 0.975])]
