"""Whether a reward model is better than chance on what it was not trained on. Pure: numbers in, a finding out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

FEWEST = 6
"""Pairs below which even a model that is always right is not above chance: 2 · 0.5⁵ is more than 5 %."""
HALF = 0.5
_SAID = {"chosen": "chosen over rejected", "edited": "edited over original", "both": "edited over original"}


class Finding(NamedTuple):
    """What there is to say."""

    above: bool | None
    """None: there is too little to tell by."""
    why: str


def against_chance(stats: Mapping[str, Any], pairs: str = "edited") -> Finding:
    """Compare held-out metrics with a coin.

    A token-level model is above chance if its interval of edited over original, or both of its areas under the ROC
    curve, are above a half; a sequence-level one if the interval of the pairs that it was trained on is.

    Args:
        stats: of a reward model, as its manifest has them.
        pairs: what a sequence-level one was trained on: ``chosen``, ``edited``, ``both``.
    """
    token = stats["level"] == "token"
    said = _SAID["edited" if token else pairs]
    found = stats[said.replace(" ", "_")]
    areas = stats.get("auroc", {}) if token else {}
    lows = [area["ci95"][0] for area in areas.values() if area.get("ci95")]
    if token and len(lows) == len(areas) == 2 and min(lows) > HALF and found["pairs"] >= FEWEST:
        return Finding(True, "its areas under the ROC curve are above .5 by their intervals")
    if found["pairs"] < FEWEST or not found.get("ci95"):
        return Finding(None, f"{found['pairs']} held-out pairs ({said}) are too few to tell it from chance")
    low, high = found["ci95"]
    shown = f"{said} {found['mean']:.3f} [{low:.3f}, {high:.3f}] of {found['pairs']} held-out pairs"
    return Finding(low > HALF, f"{shown} is {'above' if low > HALF else 'not above'} chance (.5) by its interval")
