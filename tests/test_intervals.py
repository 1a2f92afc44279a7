"""Intervals hold the truth as often as they say; areas and calibration against libraries and hand numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tokalign.core import intervals
from tokalign.core.intervals import auroc_interval, calibration, correlation, mean_interval


@pytest.mark.slow
def test_the_interval_of_a_mean_holds_the_truth_in_95_of_100() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for k in range(200):
        low, high = mean_interval((rng.random(120) < 0.8).astype(float).tolist(), seed=k) or [1, 0]
        held += low <= 0.8 <= high
    assert 0.92 <= held / 200 <= 0.98


def test_the_interval_of_an_area_lies_around_the_area_of_the_library() -> None:
    rng = np.random.default_rng(0)
    truths = [rng.random(50) < 0.3 for _ in range(80)]
    scores = [np.clip(0.35 + 0.2 * t + 0.2 * rng.standard_normal(50), 0, 1) for t in truths]
    area = roc_auc_score(np.concatenate(truths), np.concatenate(scores))
    low, high = auroc_interval(scores, truths) or [1.0, 0.0]
    assert low < area < high
    assert (low + high) / 2 == pytest.approx(area, abs=0.003)
    # DeLong's standard error: tokens here do not hang together.
    truth, score = np.concatenate(truths), np.concatenate(scores)
    wins = (score[truth][:, None] > score[~truth]) + 0.5 * (score[truth][:, None] == score[~truth])
    error = np.sqrt(wins.mean(1).var(ddof=1) / wins.shape[0] + wins.mean(0).var(ddof=1) / wins.shape[1])
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_what_cannot_be_known_is_none() -> None:
    assert mean_interval([]) is None
    assert auroc_interval([[0.1, 0.2]], [[True, True]]) is None
    assert correlation([1.0], [2.0]) is None
    assert correlation([1.0, 1.0], [2.0, 3.0]) is None


def test_calibration_by_hand() -> None:
    found = calibration([0.95, 0.85, 0.95, 0.05], [True, False, False, False])
    # Bins: .9–1 two of .95, half right; .8–.9 one of .85, wrong; 0–.1 one of .05, wrong.
    assert found["ece"] == pytest.approx((abs(1.9 - 1) + 0.85 + 0.05) / 4)
    assert [b["n"] for b in found["bins"]] == [1, 1, 2]
    assert found["bins"][-1] == {"confidence": pytest.approx(0.95), "accuracy": 0.5, "n": 2}
    assert calibration([1.0], [True])["ece"] == 0
    assert calibration([], [])["ece"] == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_calibration_bins_hold_everything_once(rows: list[tuple[float, bool]]) -> None:
    found = calibration([c for c, _ in rows], [r for _, r in rows])
    assert sum(b["n"] for b in found["bins"]) == len(rows)
    gap = sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in found["bins"]) / len(rows)
    assert found["ece"] == pytest.approx(gap)
    assert 0 <= found["ece"] <= 1


def test_correlation_of_hand_numbers() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)


def test_resamples_draw_each_as_often_as_chance_has_it() -> None:
    weights = intervals._weights(10, 0)
    assert (weights.sum(1) == 10).all()
    assert weights.mean(0) == pytest.approx(np.ones(10), abs=0.1)
