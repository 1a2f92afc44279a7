"""Win-rate statistics. Pure: numbers in, numbers out.

A preference is a number from 1 (the reference is better) to 2 (the candidate is better); 1.5 is a tie. Rates and
differences are in percent. What is drawn at random is drawn from a seed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIE = 1.5
DRAWS = 10_000
"""Resamples of a bootstrap, and sign flips of a paired test."""
_AT_ONCE = 4_000_000
"""Random numbers held at a time."""

Floats = NDArray[np.float64]


def win_rate(preferences: Sequence[float]) -> dict[str, float | int]:
    """Win rate of the candidate, with ties as half.

    Returns:
        ``win_rate`` and its ``standard_error`` (ddof 1; 0 for a single comparison), ``n_total``,
        ``n_wins``, ``n_losses``, ``n_ties``, ``discrete_win_rate`` (each comparison rounded to win,
        tie or loss).

    Raises:
        ValueError: no preferences, or one outside [1, 2].
    """
    p = _checked(preferences)
    wins, losses = int((p > TIE).sum()), int((p < TIE).sum())
    ties = p.size - wins - losses
    return {
        "win_rate": float(100 * (p - 1).mean()),
        "standard_error": float(100 * p.std(ddof=1) / np.sqrt(p.size)) if p.size > 1 else 0.0,
        "n_total": int(p.size),
        "n_wins": wins,
        "n_losses": losses,
        "n_ties": ties,
        "discrete_win_rate": 100 * (wins + ties / 2) / p.size,
    }


def interval(preferences: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of the win rate: percentile bootstrap over comparisons.

    Raises:
        ValueError: no preferences, or one outside [1, 2].
    """
    return _bootstrap(_checked(preferences) - 1, np.random.default_rng(seed), draws)


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """Win rate of candidate ``a`` less that of ``b`` over the same prompts in the same order.

    Returns:
        ``difference`` and its ``standard_error`` (ddof 1), in points of win rate; ``ci95``, by percentile bootstrap
        over prompts; ``p_value``, two-sided, of the hypothesis that the candidates' names could be swapped prompt by
        prompt (differences with signs drawn at random).

    Raises:
        ValueError: the lengths differ, or there are fewer than two prompts.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"paired preferences need equal lengths of at least 2, got {len(a)} and {len(b)}")
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    rng = np.random.default_rng(seed)
    return {
        "difference": float(100 * d.mean()),
        "standard_error": float(100 * d.std(ddof=1) / np.sqrt(d.size)),
        "ci95": list(_bootstrap(d, rng, draws)),
        "p_value": _sign_flips(d, rng, draws),
    }


def together(verdicts: Sequence[float | None]) -> float | None:
    """The preference of a pair that was judged in several ways: their mean; None where one of them is missing.

    A win one way and a loss the other is a tie.
    """
    known = [v for v in verdicts if v is not None]
    return sum(known) / len(known) if known and len(known) == len(verdicts) else None


def of_orders(reference_first: Sequence[float | None], candidate_first: Sequence[float | None]) -> dict[str, Any]:
    """What judging the same pairs in both orders says of the judge, over those with a verdict both ways.

    Returns:
        ``n_disagreements`` (a win one way, a loss the other) and ``same_position``, their share: the same place was
        preferred; ``agreement``: the same verdict both ways; ``prefers_first``: how often the response shown first is
        preferred, ties as half. Shares are null where nothing was judged.

    Raises:
        ValueError: the lengths differ.
    """
    both = zip(reference_first, candidate_first, strict=True)
    judged = [(r, c) for r, c in both if r is not None and c is not None]
    signs = [(np.sign(r - TIE), np.sign(c - TIE)) for r, c in judged]
    against = sum(bool(r * c < 0) for r, c in signs)
    firsts = [2 - r for r, _ in judged] + [c - 1 for _, c in judged]
    n = len(judged)
    return {
        "n_disagreements": against,
        "agreement": 100 * sum(bool(r == c) for r, c in signs) / n if n else None,
        "same_position": 100 * against / n if n else None,
        "prefers_first": 100 * sum(firsts) / len(firsts) if n else None,
    }


def _checked(preferences: Sequence[float]) -> Floats:
    p = np.asarray(preferences, dtype=np.float64)
    if p.size == 0:
        raise ValueError("no preferences to average")
    if not ((p >= 1) & (p <= 2)).all():
        raise ValueError(f"preferences lie between 1 and 2, got {p[(p < 1) | (p > 2) | np.isnan(p)][0]}")
    return p


def _bootstrap(values: Floats, rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """95 % interval of 100 · mean."""
    unique, counts = np.unique(values, return_counts=True)
    shares = counts / values.size
    means = [rng.multinomial(values.size, shares, size=n) @ unique for n in _portions(draws, unique.size)]
    low, high = np.quantile(np.concatenate(means) / values.size, [0.025, 0.975])
    return float(100 * low), float(100 * high)


def _sign_flips(d: Floats, rng: np.random.Generator, draws: int) -> float:
    """How often differences with random signs add up to more than these do; as much counts half (the mid-p value)."""
    sizes, counts = np.unique(np.abs(d[d != 0]), return_counts=True)
    if not sizes.size:
        return 1.0
    reached, more = abs(float(d.sum())), 0.0
    for n in _portions(draws, sizes.size):
        total = np.abs((2 * rng.binomial(counts, 0.5, size=(n, sizes.size)) - counts) @ sizes)
        more += float((total > reached + 1e-9).sum()) + float((np.abs(total - reached) <= 1e-9).sum()) / 2
    return (1 + more) / (1 + draws)


def _portions(draws: int, width: int) -> Iterator[int]:
    """``draws``, in portions whose random numbers fit into memory."""
    most = max(1, _AT_ONCE // width)
    for start in range(0, draws, most):
        yield min(most, draws - start)
