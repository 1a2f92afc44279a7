"""Win rate as it would be if both sides wrote equally long answers: a logistic regression on the lengths, read at 0.

After Dubois et al., *Length-Controlled AlpacaEval* (2024), and tatsu-lab/alpaca_eval @ 1020da2, metrics/glm_winrate.py:
P(candidate wins) = σ(θ + φ · tanh(δ / sd δ) + ψ · γ), δ the difference of lengths, γ the instruction's difficulty.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_FOLDS, _GRID, _SEED = 5, np.logspace(-4, 4, 10), 123
"""Of the cross-validation, as there."""
_GAMED = 0.2
"""Weight of the gamed baselines, two of them together, as there."""


class Gamed(NamedTuple):
    """Judged answers of models that game the judge, which tie θ down."""

    wins: Floats
    """(M,): preferences in [0, 1]."""
    lengths: Floats
    """(M,): differences of length, divided by their standard deviation."""
    difficulty: Floats
    """(M,)"""


def minimal(preferences: Sequence[float | None], candidate: Sequence[int], reference: Sequence[int]) -> float:
    """Length-controlled win rate in percent, by the lengths alone.

    Args:
        preferences: (N,) in [1, 2]; None where nothing was judged.
        candidate: (N,) lengths of the candidate's answers, in characters.
        reference: (N,) lengths of the reference's.

    Raises:
        ValueError: nothing was judged.
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
    """Length-controlled win rate in percent, with the difficulty of each instruction, as AlpacaEval 2 has it.

    Args:
        preferences: (N,) in [1, 2]; None where nothing was judged.
        candidate: (N,) lengths of the candidate's answers, in characters.
        reference: (N,) lengths of the reference's.
        difficulty: (N,)
        gamed: answers that the published numbers are regularised with; None: none.

    Raises:
        ValueError: nothing was judged.
    """
    wins, judged = _wins(preferences)
    if gamed is None and (wins.size < 2 or wins.min() == wins.max()):
        return float(100 * wins.mean())  # nothing is to be learnt from rows that are all alike
    delta, hard = -_spread(candidate, reference), np.asarray(difficulty, dtype=np.float64)
    x = np.column_stack([np.tanh(delta), hard, np.ones(delta.size)])[judged]
    weights = np.ones(wins.size)
    if gamed is not None:
        theirs = np.column_stack([np.tanh(gamed.lengths), gamed.difficulty, np.zeros(gamed.wins.size)])
        x, wins = np.concatenate([theirs, x]), np.concatenate([gamed.wins, wins])
        weights = np.concatenate([np.full(gamed.wins.size, _GAMED / 2), weights])
    model = _fit(x, wins, weights, _best_c(x, wins, weights), l1_ratio=1.0, solver="liblinear")
    at_equal_length = np.column_stack([np.zeros(hard.size), hard, np.ones(hard.size)])
    return float(100 * model.predict_proba(at_equal_length)[:, 1].mean())


def _wins(preferences: Sequence[float | None]) -> tuple[Floats, NDArray[np.bool_]]:
    """Preferences in [0, 1], and which comparisons have one."""
    p = np.array([np.nan if q is None else q - 1 for q in preferences])
    judged = ~np.isnan(p)
    if not judged.any():
        raise ValueError("nothing was judged")
    return p[judged], judged


def _spread(candidate: Sequence[int], reference: Sequence[int]) -> Floats:
    """How much longer the candidate's answers are, in standard deviations (ddof 1) of that."""
    delta = np.asarray(candidate, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    sd = float(delta.std(ddof=1)) if delta.size > 1 else 0.0
    return delta / sd if sd else np.zeros(delta.size)


def _fit(x: Floats, wins: Floats, weights: Floats, c: float, *, l1_ratio: float, solver: str) -> Any:
    """A regression on shares: every row stands twice, as won and as lost, weighted by how much it is."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=c, l1_ratio=l1_ratio, solver=solver, fit_intercept=False, random_state=_SEED, max_iter=1000
    )
    y = np.repeat([1, 0], wins.size)
    model.fit(np.concatenate([x, x]), y, sample_weight=np.concatenate([weights * wins, weights * (1 - wins)]))
    return model


def _best_c(x: Floats, wins: Floats, weights: Floats) -> float:
    """The strength of the penalty whose log-loss on left-out rows is least."""
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
