"""Length-controlled win rate: a logistic regression on the length difference, evaluated at equal lengths.

After Dubois et al., *Length-Controlled AlpacaEval* (2024), and tatsu-lab/alpaca_eval @ 1020da2, metrics/glm_winrate.py:
P(candidate wins) = σ(θ + φ · tanh(δ / sd δ) + ψ · γ), where δ is the difference of the response lengths and γ the
difficulty of the instruction.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_FOLDS, _GRID, _SEED = 5, np.logspace(-4, 4, 10), 123
"""Folds, inverse regularisation strengths and seed of the cross-validation, as in alpaca_eval."""
_GAMED = 0.2
"""Total weight of the two gamed baselines, as in alpaca_eval."""


class Gamed(NamedTuple):
    """Judged responses of baselines that game the judge. They regularise θ."""

    wins: Floats
    """(M,): preferences in [0, 1]."""
    lengths: Floats
    """(M,): length differences, divided by their standard deviation."""
    difficulty: Floats
    """(M,): difficulty of the instructions."""


def minimal(preferences: Sequence[float | None], candidate: Sequence[int], reference: Sequence[int]) -> float:
    """Length-controlled win rate in percent, without instruction difficulty (ψ = 0).

    If the lengths never differ, or all preferences are equal, it is the plain win rate.

    Args:
        preferences: (N,) in [1, 2]; None: not judged.
        candidate: (N,) lengths of the candidate's responses, in characters.
        reference: (N,) lengths of the reference's responses, in characters.

    Raises:
        ValueError: no comparison was judged.
    """
    wins, judged = _wins(preferences)
    delta = _spread(candidate, reference)
    if not delta.any() or wins.min() == wins.max():
        return float(100 * wins.mean())
    x = np.column_stack([np.tanh(delta[judged]), np.ones(wins.size)])
    model = _fit(x, wins, np.ones(wins.size), 100.0, l1_ratio=0.0, solver="lbfgs")
    return float(100 * model.predict_proba([[0.0, 1.0]])[0, 1])


def alpaca_eval(
    preferences: Sequence[float | None],
    candidate: Sequence[int],
    reference: Sequence[int],
    difficulty: Sequence[float],
    gamed: Gamed | None = None,
) -> float:
    """Length-controlled win rate in percent, as in AlpacaEval 2: with instruction difficulty.

    Without ``gamed``, and with fewer than two judged comparisons or equal preferences, it is the plain win rate.

    Args:
        preferences: (N,) in [1, 2]; None: not judged.
        candidate: (N,) lengths of the candidate's responses, in characters.
        reference: (N,) lengths of the reference's responses, in characters.
        difficulty: (N,) difficulty γ of each instruction.
        gamed: gamed baselines, which the published numbers are regularised with; None: none.

    Raises:
        ValueError: no comparison was judged.
    """
    wins, judged = _wins(preferences)
    if gamed is None and (wins.size < 2 or wins.min() == wins.max()):
        return float(100 * wins.mean())  # with equal outcomes there is nothing to fit
    delta, difficulties = -_spread(candidate, reference), np.asarray(difficulty, dtype=np.float64)
    x = np.column_stack([np.tanh(delta), difficulties, np.ones(delta.size)])[judged]
    weights = np.ones(wins.size)
    if gamed is not None:
        gamed_rows = np.column_stack([np.tanh(gamed.lengths), gamed.difficulty, np.zeros(gamed.wins.size)])
        x, wins = np.concatenate([gamed_rows, x]), np.concatenate([gamed.wins, wins])
        weights = np.concatenate([np.full(gamed.wins.size, _GAMED / 2), weights])
    model = _fit(x, wins, weights, _best_c(x, wins, weights), l1_ratio=1.0, solver="liblinear")
    at_equal_length = np.column_stack([np.zeros(difficulties.size), difficulties, np.ones(difficulties.size)])
    return float(100 * model.predict_proba(at_equal_length)[:, 1].mean())


def _wins(preferences: Sequence[float | None]) -> tuple[Floats, NDArray[np.bool_]]:
    """(M,) preferences of the judged comparisons in [0, 1], and (N,) bool: True if judged."""
    p = np.array([np.nan if q is None else q - 1 for q in preferences])
    judged = ~np.isnan(p)
    if not judged.any():
        raise ValueError("nothing was judged")
    return p[judged], judged


def _spread(candidate: Sequence[int], reference: Sequence[int]) -> Floats:
    """(N,): length of candidate minus reference, divided by its standard deviation (ddof 1); 0 if it is constant."""
    delta = np.asarray(candidate, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    sd = float(delta.std(ddof=1)) if delta.size > 1 else 0.0
    return delta / sd if sd else np.zeros(delta.size)


def _fit(x: Floats, wins: Floats, weights: Floats, c: float, *, l1_ratio: float, solver: str) -> Any:
    """Fit a logistic regression on fractional outcomes: each row is used as a win and a loss, weighted by ``wins``."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=c, l1_ratio=l1_ratio, solver=solver, fit_intercept=False, random_state=_SEED, max_iter=1000
    )
    y = np.repeat([1, 0], wins.size)
    model.fit(np.concatenate([x, x]), y, sample_weight=np.concatenate([weights * wins, weights * (1 - wins)]))
    return model


def _best_c(x: Floats, wins: Floats, weights: Floats) -> float:
    """Inverse regularisation strength with the lowest log-loss in cross-validation; 1 if no fold can be fitted."""
    from sklearn.model_selection import GroupKFold

    rows = np.arange(wins.size)
    losses, tested = np.zeros(_GRID.size), 0
    for train, test in GroupKFold(min(_FOLDS, wins.size)).split(np.tile(rows, 2), groups=np.tile(rows, 2)):
        fit, held = train[train < wins.size], test[test < wins.size]
        if wins[fit].min() == wins[fit].max():
            continue
        tested += 1
        for k, c in enumerate(_GRID):
            p = _fit(x[fit], wins[fit], weights[fit], c, l1_ratio=1.0, solver="liblinear").predict_proba(x[held])[:, 1]
            p = np.clip(p, 1e-15, 1 - 1e-15)
            loss = -(wins[held] * np.log(p) + (1 - wins[held]) * np.log(1 - p))
            losses[k] += float((weights[held] * loss).mean())
    return float(_GRID[int(losses.argmin())]) if tested else 1.0
