"""Length control: what was put in is found again, and AlpacaEval's recipe, as scikit-learn does it."""

import numpy as np
import pytest
import sklearn
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold

from tokalign.core.length_control import Gamed, alpaca_eval, minimal


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def drawn(n: int, theta: float, phi: float, seed: int = 0) -> tuple[list[float], list[int], list[int], np.ndarray]:
    """Verdicts of a judge that likes length: preferences, both lengths, and P(win) at equal length."""
    rng = np.random.default_rng(seed)
    ours, theirs = rng.integers(200, 2000, n), rng.integers(200, 1200, n)
    delta = ours - theirs
    difficulty = rng.normal(size=n)
    p = sigmoid(theta + phi * np.tanh(delta / delta.std(ddof=1)) + 0.5 * difficulty)
    wins = np.where(rng.random(n) < 0.2, p, rng.random(n) < p)  # a judge may say how sure it is
    return (1 + wins).tolist(), ours.tolist(), theirs.tolist(), difficulty


def test_what_the_win_rate_is_at_equal_length_is_found_again() -> None:
    preferences, ours, theirs, difficulty = drawn(20_000, theta=-0.4, phi=1.5)
    truth = 100 * float(sigmoid(-0.4 + 0.5 * difficulty).mean())
    plain = 100 * (np.mean(preferences) - 1)
    assert plain > truth + 5, "length counts here"
    assert minimal(preferences, ours, theirs) == pytest.approx(truth, abs=1.5)
    assert alpaca_eval(preferences, ours, theirs, difficulty.tolist()) == pytest.approx(truth, abs=1.5)


def test_where_lengths_say_nothing_the_win_rate_stays() -> None:
    assert minimal([2.0, 1.0, 2.0, 1.5], [5, 6, 7, 8], [5, 6, 7, 8]) == 62.5
    assert minimal([2.0, 2.0, None], [5, 60, 7], [5, 6, 7]) == 100.0
    assert minimal([1.5], [5], [9]) == 50.0
    rng = np.random.default_rng(1)
    p = (1 + rng.integers(0, 2, 5000)).tolist()
    assert minimal(p, rng.integers(1, 99, 5000).tolist(), [50] * 5000) == pytest.approx(100 * (np.mean(p) - 1), abs=0.2)
    with pytest.raises(ValueError, match="nothing was judged"):
        minimal([None, None], [1, 2], [1, 2])


def test_swapping_sides_mirrors_it() -> None:
    preferences, ours, theirs, _ = drawn(500, theta=0.3, phi=1.0)
    swapped = minimal([3 - p for p in preferences], theirs, ours)
    assert minimal(preferences, ours, theirs) + swapped == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("with_gamed", [False, True])
def test_it_is_the_published_recipe_in_scikit_learns_own_words(with_gamed: bool) -> None:
    """LogisticRegressionCV over shares, as tatsu-lab/alpaca_eval builds it."""
    preferences, ours, theirs, difficulty = drawn(400, theta=0.2, phi=1.0, seed=3)
    preferences[7] = 1.5
    missing: list[float | None] = [None if k == 11 else p for k, p in enumerate(preferences)]
    rng = np.random.default_rng(9)
    gamed = Gamed(rng.random(160), rng.normal(size=160), rng.normal(size=160)) if with_gamed else None

    delta = np.array(theirs) - np.array(ours)
    x = np.column_stack([np.tanh(delta / delta.std(ddof=1)), difficulty, np.ones(400)])
    keep = np.arange(400) != 11
    wins, weights = np.array(preferences)[keep] - 1, np.ones(399)
    train = x[keep]
    if gamed is not None:
        train = np.concatenate([np.column_stack([np.tanh(gamed.lengths), gamed.difficulty, np.zeros(160)]), train])
        wins, weights = np.concatenate([gamed.wins, wins]), np.concatenate([np.full(160, 0.1), weights])

    def score(y: np.ndarray, p: np.ndarray, share: np.ndarray, weight: np.ndarray) -> float:
        share = np.where(y == 1, share, 1 - share)
        return float(np.mean(weight * (share * np.log(p) + (1 - share) * np.log(1 - p))))

    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(score, response_method="predict_proba").set_score_request(share=True, weight=True)
        model = LogisticRegressionCV(
            cv=GroupKFold(5), scoring=scorer, random_state=123, l1_ratios=(1.0,), solver="liblinear",
            fit_intercept=False, Cs=10, use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)  # fmt: skip
        share, weight = np.concatenate([wins, 1 - wins]), np.tile(weights, 2)
        model.fit(
            np.tile(train, (2, 1)), np.repeat([1, 0], len(wins)), sample_weight=share * weight,
            groups=np.tile(np.arange(len(wins)), 2), share=share, weight=weight,
        )  # fmt: skip
    at_equal_length = np.column_stack([np.zeros(400), difficulty, np.ones(400)])
    expected = 100 * model.predict_proba(at_equal_length)[:, 1].mean()
    assert alpaca_eval(missing, ours, theirs, difficulty.tolist(), gamed) == pytest.approx(expected, abs=1e-6)


def test_a_candidate_that_wins_all_wins_all_at_any_length() -> None:
    n = 60
    ours, theirs, hard = list(range(n)), [30] * n, [float(k % 7) for k in range(n)]
    assert alpaca_eval([2.0] * n, ours, theirs, hard) == 100.0
    assert alpaca_eval([2.0] * 5 + [None] * 55, ours, theirs, hard) == 100.0
    assert alpaca_eval([1.0], [1], [2], [0.5]) == 0.0
