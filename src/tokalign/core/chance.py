"""Comparison of a reward model's held-out metrics with chance. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

FEWEST = 6
"""Minimum number of pairs. With 5, a model that is always right is not significantly above chance: 2 · 0.5⁵ > 5 %."""
HALF = 0.5
_METRICS = {"chosen": "chosen over rejected", "edited": "edited over original", "both": "edited over original"}


class Finding(NamedTuple):
    """Result of the comparison."""

    above: bool | None
    """Whether the model is above chance; None: too few pairs to tell."""
    why: str
    """The evidence, as a phrase for a message."""


def against_chance(stats: Mapping[str, Any], pairs: str = "edited") -> Finding:
    """Compare the held-out metrics of a reward model with chance (0.5), by their 95 % intervals.

    A token-level model is above chance if the interval of edited over original is above 0.5, or the intervals of both
    areas under the ROC curve are. A sequence-level model is above chance if the interval of its training pairs is (of
    edited over original, if it was trained on both).

    Args:
        stats: ``stats`` of the reward model's manifest.
        pairs: training pairs of a sequence-level model: ``chosen``, ``edited`` or ``both``.
    """
    token = stats["level"] == "token"
    metric = _METRICS["edited" if token else pairs]
    found = stats[metric.replace(" ", "_")]
    areas = stats.get("auroc", {}) if token else {}
    lows = [area["ci95"][0] for area in areas.values() if area.get("ci95")]
    if token and len(lows) == len(areas) == 2 and min(lows) > HALF and found["pairs"] >= FEWEST:
        return Finding(True, "the 95 % intervals of both areas under the ROC curve are above chance (0.5)")
    if found["pairs"] < FEWEST or not found.get("ci95"):
        return Finding(None, f"{found['pairs']} held-out pairs are too few to compare {metric} with chance")
    low, high = found["ci95"]
    shown = f"{metric} is {found['mean']:.3f} (95 %: {low:.3f} to {high:.3f}) on {found['pairs']} held-out pairs"
    return Finding(low > HALF, f"{shown}, {'above' if low > HALF else 'not above'} chance (0.5)")
