"""Win-rate statistics. Pure: numbers in, numbers out.

A preference is a number from 1 (the reference is better) to 2 (the candidate is better); 1.5 is a tie.
"""

from collections.abc import Sequence

import numpy as np

TIE = 1.5


def win_rate(preferences: Sequence[float]) -> dict[str, float | int]:
    """Win rate of the candidate, in percent, with ties as half.

    Returns:
        ``win_rate`` and its ``standard_error`` (ddof 1; 0 for a single comparison), ``n_total``,
        ``n_wins``, ``n_losses``, ``n_ties``, ``discrete_win_rate`` (each comparison rounded to win,
        tie or loss).

    Raises:
        ValueError: no preferences, or one outside [1, 2].
    """
    p = np.asarray(preferences, dtype=np.float64)
    if p.size == 0:
        raise ValueError("no preferences to average")
    if not ((p >= 1) & (p <= 2)).all():
        raise ValueError(f"preferences lie between 1 and 2, got {p[(p < 1) | (p > 2) | np.isnan(p)][0]}")
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


def paired_difference(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Win rate of candidate ``a`` less that of ``b`` over the same prompts in the same order.

    Returns:
        ``difference`` and its ``standard_error``, in points of win rate (ddof 1).

    Raises:
        ValueError: the lengths differ, or there are fewer than two prompts.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"paired preferences need equal lengths of at least 2, got {len(a)} and {len(b)}")
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return {
        "difference": float(100 * d.mean()),
        "standard_error": float(100 * d.std(ddof=1) / np.sqrt(d.size)),
    }
