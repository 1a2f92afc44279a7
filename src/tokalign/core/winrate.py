"""Win-rate statistics: pure functions of numbers.

A preference is a number from 1 (the reference is better) to 2 (the candidate is better); 1.5 is a tie. Win rates are
in percent, differences in percentage points. Random draws are determined by ``seed``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIE = 1.5
DRAWS = 10_000
"""Number of bootstrap resamples, and of random sign assignments of a paired test."""
_MAX_NUMBERS = 4_000_000
"""Maximum number of random numbers in memory at a time."""

Floats = NDArray[np.float64]


def win_rate(preferences: Sequence[float]) -> dict[str, float | int]:
    """Win rate of the candidate. A tie counts half.

    Returns:
        ``win_rate`` and its ``standard_error`` (ddof 1; 0 for a single comparison), ``n_total``,
        ``n_wins``, ``n_losses``, ``n_ties``, and ``discrete_win_rate`` (each comparison rounded to a win,
        tie or loss).

    Raises:
        ValueError: there are no preferences, or one is outside [1, 2].
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
    """95 % interval (low, high) of the win rate, by percentile bootstrap over comparisons.

    Raises:
        ValueError: there are no preferences, or one is outside [1, 2].
    """
    return _bootstrap(_checked(preferences) - 1, np.random.default_rng(seed), draws)


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """Win rate of candidate ``a`` minus that of candidate ``b``, on the same prompts in the same order.

    Returns:
        ``difference`` and its ``standard_error`` (ddof 1), in percentage points; ``ci95``, by percentile bootstrap
        over prompts; ``p_value`` of a two-sided paired randomisation test (the sign of each prompt's difference is
        random under the null hypothesis).

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
    """Combine the preferences of a pair that was judged several times (in both orders): their mean.

    A win in one order and a loss in the other is a tie. None if there are no preferences or one is missing.
    """
    known = [v for v in verdicts if v is not None]
    return sum(known) / len(known) if known and len(known) == len(verdicts) else None


def of_orders(reference_first: Sequence[float | None], candidate_first: Sequence[float | None]) -> dict[str, Any]:
    """Position bias of a judge, from the pairs that it judged in both orders.

    Args:
        reference_first: (N,) preferences with the reference shown first; None: no verdict.
        candidate_first: (N,) preferences for the same pairs with the candidate shown first; None: no verdict.

    Returns:
        ``n_disagreements``: number of pairs with a win in one order and a loss in the other. In percent, None if no
        pair has both verdicts: ``same_position``, the share of pairs that disagree so (the same position
        is preferred); ``agreement``, the share of pairs with the same verdict in both orders; ``prefers_first``, how
        often the response shown first is preferred, with a tie as half.

    Raises:
        ValueError: the lengths differ.
    """
    both = zip(reference_first, candidate_first, strict=True)
    judged = [(r, c) for r, c in both if r is not None and c is not None]
    signs = [(np.sign(r - TIE), np.sign(c - TIE)) for r, c in judged]
    disagreements = sum(bool(r * c < 0) for r, c in signs)
    firsts = [2 - r for r, _ in judged] + [c - 1 for _, c in judged]
    n = len(judged)
    return {
        "n_disagreements": disagreements,
        "agreement": 100 * sum(bool(r == c) for r, c in signs) / n if n else None,
        "same_position": 100 * disagreements / n if n else None,
        "prefers_first": 100 * sum(firsts) / len(firsts) if n else None,
    }


def _checked(preferences: Sequence[float]) -> Floats:
    p = np.asarray(preferences, dtype=np.float64)
    if p.size == 0:
        raise ValueError("cannot compute a win rate without preferences")
    if not ((p >= 1) & (p <= 2)).all():
        raise ValueError(f"preferences must be between 1 and 2, got {p[(p < 1) | (p > 2) | np.isnan(p)][0]}")
    return p


def _bootstrap(values: Floats, rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """95 % interval of ``100 · mean``, by percentile bootstrap."""
    unique, counts = np.unique(values, return_counts=True)
    shares = counts / values.size
    means = [rng.multinomial(values.size, shares, size=n) @ unique for n in _portions(draws, unique.size)]
    low, high = np.quantile(np.concatenate(means) / values.size, [0.025, 0.975])
    return float(100 * low), float(100 * high)


def _sign_flips(d: Floats, rng: np.random.Generator, draws: int) -> float:
    """Two-sided mid-p value of the sum of ``d`` when the signs of its elements are random; equal sums count half."""
    sizes, counts = np.unique(np.abs(d[d != 0]), return_counts=True)
    if not sizes.size:
        return 1.0
    observed, exceeding = abs(float(d.sum())), 0.0
    for n in _portions(draws, sizes.size):
        total = np.abs((2 * rng.binomial(counts, 0.5, size=(n, sizes.size)) - counts) @ sizes)
        exceeding += float((total > observed + 1e-9).sum()) + float((np.abs(total - observed) <= 1e-9).sum()) / 2
    return (1 + exceeding) / (1 + draws)


def _portions(draws: int, width: int) -> Iterator[int]:
    """Split ``draws`` into parts of at most :data:`_MAX_NUMBERS` random numbers; ``width`` numbers per draw."""
    size = max(1, _MAX_NUMBERS // width)
    for start in range(0, draws, size):
        yield min(size, draws - start)
