"""Statistics of the experiment on restaurant reviews (real.py): win rates with intervals over seeds and prompts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SAMPLES = 3
"""Number of responses to each test prompt."""
DRAWS = 10_000
"""Number of bootstrap resamples."""
NEAR = 2
"""Responses are of matched length if their numbers of words differ by at most this."""


def wins(a: Sequence[float], b: Sequence[float]) -> Floats:
    """(P, n, n): whether each response of ``a`` is better than each of ``b`` to the same prompt; a tie is a half.

    Args:
        a: (P · n,) scores, with the n = SAMPLES responses to a prompt next to each other.
        b: as ``a``.
    """
    first, second = (np.asarray(x, np.float64).reshape(-1, SAMPLES) for x in (a, b))
    return (np.sign(first[:, :, None] - second[:, None, :]) + 1) / 2


def near(a: Sequence[int], b: Sequence[int]) -> Floats:
    """(P, n, n): 1 where responses to the same prompt differ by at most ``NEAR`` words, else 0; see :func:`wins`."""
    first, second = (np.asarray(x, np.float64).reshape(-1, SAMPLES) for x in (a, b))
    return (np.abs(first[:, :, None] - second[:, None, :]) <= NEAR).astype(np.float64)


def ratio(numerators: Floats, denominators: Floats | None = None, seed: int = 0) -> dict[str, Any]:
    """Percentage with its 95 % interval, by percentile bootstrap over seeds and prompts.

    Every resample draws seeds and, independently, prompts, both with replacement: all seeds answer the same prompts.

    Args:
        numerators: (S, P) sums of a seed and prompt.
        denominators: (S, P) weights; 1 if None.
        seed: random seed.

    Returns:
        ``percent``, ``ci95`` and the percentage of each seed.
    """
    below = np.ones_like(numerators) if denominators is None else denominators
    draw, (seeds, prompts) = np.random.default_rng(seed), numerators.shape
    of_seeds = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS).astype(np.float64)
    of_prompts = draw.multinomial(prompts, np.full(prompts, 1 / prompts), size=DRAWS).astype(np.float64)
    drawn = [np.einsum("ds,sp,dp->d", of_seeds, x, of_prompts, optimize=True) for x in (numerators, below)]
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return {
        "percent": round(100 * float(numerators.sum() / below.sum()), 1),
        "ci95": [round(100 * float(low), 1), round(100 * float(high), 1)],
        "seeds": [round(100 * float(x), 1) for x in numerators.sum(1) / below.sum(1)],
    }


def compare(arms: Sequence[dict[str, Any]], a: str, b: str, key: str = "stars") -> dict[str, Any]:
    """Compare two arms over seeds, in percent and percentage points.

    Args:
        arms: figures of all arms, one of each seed (:func:`real_measure.arms`).
        a: name of an arm.
        b: name of the other.
        key: the scores that decide.

    Returns:
        ``head_to_head``: win rate of ``a`` over ``b``; ``matched``: over pairs of matched length; ``difference``: win
        rate of ``a`` over ``sft`` minus that of ``b``.
    """
    won = _over(arms, a, b, key)
    same = np.stack([near(seed[a]["words"], seed[b]["words"]) for seed in arms])
    return {
        "head_to_head": ratio(won.mean((2, 3))),
        "matched": ratio((won * same).sum((2, 3)), same.sum((2, 3))),
        "difference": ratio((_over(arms, a, "sft", key) - _over(arms, b, "sft", key)).mean((2, 3))),
    }


def win_rate(arms: Sequence[dict[str, Any]], arm: str, key: str = "stars") -> dict[str, Any]:
    """Win rate of an arm over ``sft``, over seeds. See :func:`compare`."""
    return ratio(_over(arms, arm, "sft", key).mean((2, 3)))


def _over(arms: Sequence[dict[str, Any]], a: str, b: str, key: str) -> Floats:
    return np.stack([wins(seed[a][key], seed[b][key]) for seed in arms])
