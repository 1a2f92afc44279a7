"""Win rates are percentages with ties as half, and their errors are those of the statistics module."""

import math
import statistics
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from tokalign.core.winrate import interval, of_orders, paired_difference, together, win_rate

PREFERENCE = st.one_of(st.sampled_from([1.0, 1.5, 2.0]), st.floats(1, 2))


def test_win_rate_of_hand_numbers() -> None:
    # Three wins, one loss: 75 %, sample variance 0.25, error 50 / √4.
    assert win_rate([2, 2, 1, 2]) == {
        "win_rate": 75.0,
        "standard_error": 25.0,
        "n_total": 4,
        "n_wins": 3,
        "n_losses": 1,
        "n_ties": 0,
        "discrete_win_rate": 75.0,
    }


def test_ties_are_half() -> None:
    got = win_rate([1.5, 1.5, 2.0, 1.0, 1.5, 2.0, 2.0, 2.0])
    assert (got["win_rate"], got["discrete_win_rate"]) == (68.75, 68.75)
    assert (got["n_wins"], got["n_losses"], got["n_ties"]) == (4, 1, 3)
    assert win_rate([1.5, 1.5])["win_rate"] == 50.0
    assert win_rate([1.5, 1.5])["standard_error"] == 0.0


def test_discrete_win_rate_rounds_each_comparison() -> None:
    got = win_rate([1.75, 1.25, 1.625, 1.5])
    assert got["win_rate"] == 53.125
    assert got["discrete_win_rate"] == 62.5
    assert (got["n_wins"], got["n_losses"], got["n_ties"]) == (2, 1, 1)


@pytest.mark.parametrize(("preference", "expected"), [(1.0, 0.0), (1.5, 50.0), (2.0, 100.0), (1.25, 25.0)])
def test_a_single_comparison_has_no_error(preference: float, expected: float) -> None:
    got = win_rate([preference])
    assert (got["win_rate"], got["standard_error"], got["n_total"]) == (expected, 0.0, 1)


@given(st.lists(PREFERENCE, min_size=2, max_size=30))
def test_standard_error_has_one_degree_of_freedom_less(preferences: list[float]) -> None:
    got = win_rate(preferences)
    assert got["win_rate"] == pytest.approx(100 * (statistics.fmean(preferences) - 1), abs=1e-9)
    expected = 100 * statistics.stdev(preferences) / math.sqrt(len(preferences))
    assert got["standard_error"] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(PREFERENCE, min_size=1, max_size=30))
def test_swapping_candidate_and_reference_mirrors_the_win_rate(preferences: list[float]) -> None:
    got, swapped = win_rate(preferences), win_rate([3 - p for p in preferences])
    assert got["win_rate"] + swapped["win_rate"] == pytest.approx(100)
    assert got["n_wins"] + got["n_losses"] + got["n_ties"] == got["n_total"] == len(preferences)


@pytest.mark.parametrize("bad", [0.0, 0.999, 2.001, -1.0, 3.0, math.inf, -math.inf, math.nan])
def test_a_preference_outside_1_to_2_is_refused_by_its_value(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"between 1 and 2, got {bad}$"):
        win_rate([1.5, bad, 2.0])


def test_no_preferences_are_refused() -> None:
    with pytest.raises(ValueError, match="without preferences"):
        win_rate([])


def test_paired_difference_of_hand_numbers() -> None:
    # Differences 1, 0, 0.5, 0.5: mean 0.5, sample variance 1/6, error 100 · √(1/24).
    got = paired_difference([2, 1, 2, 1.5], [1, 1, 1.5, 1])
    assert got["difference"] == 50.0
    assert got["standard_error"] == pytest.approx(20.412414523193153, rel=1e-12)


def test_a_constant_difference_has_no_error() -> None:
    got = paired_difference([2, 1.5, 2], [1.5, 1, 1.5])
    assert (got["difference"], got["standard_error"], got["ci95"]) == (50.0, 0.0, [50.0, 50.0])


@given(st.lists(st.tuples(PREFERENCE, PREFERENCE), min_size=2, max_size=30))
def test_paired_difference_is_the_difference_of_win_rates(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    got = paired_difference(a, b)
    assert got["difference"] == pytest.approx(win_rate(a)["win_rate"] - win_rate(b)["win_rate"], abs=1e-9)
    expected = 100 * statistics.stdev(x - y for x, y in pairs) / math.sqrt(len(pairs))
    assert got["standard_error"] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([1.0], [1.0, 2.0, 1.5])])
def test_pairs_of_other_lengths_or_fewer_than_two_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=f"got {len(a)} and {len(b)}"):
        paired_difference(a, b)


def test_the_interval_is_that_of_scipy() -> None:
    p = [1.0] * 30 + [2.0] * 60 + [1.5] * 25 + [1.25] * 10
    low, high = interval(p, draws=40_000)
    expected = bootstrap((np.array(p),), np.mean, method="percentile", n_resamples=40_000, rng=0).confidence_interval
    assert (low, high) == pytest.approx((100 * (expected.low - 1), 100 * (expected.high - 1)), abs=0.15)
    assert interval(p) == interval(p) != interval(p, seed=1)
    assert interval([1.75]) == (75.0, 75.0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    shares, values, runs = [0.35, 0.15, 0.5], np.array([1.0, 1.5, 2.0]), 2000
    truth = 100 * (float(values @ shares) - 1)
    within = same = 0
    for run in range(runs):
        p = rng.choice(values, size=200, p=shares).tolist()
        low, high = interval(p, seed=run, draws=1000)
        within += low <= truth <= high
        half = 1.96 * float(win_rate(p)["standard_error"])
        same += abs(float(win_rate(p)["win_rate"]) - truth) <= half
    assert 0.93 <= within / runs <= 0.97
    assert 0.93 <= same / runs <= 0.97


@pytest.mark.slow
def test_the_paired_test_is_wrong_as_often_as_it_says() -> None:
    """Two candidates of which neither is better, whose verdicts on a prompt go together."""
    rng, runs = np.random.default_rng(6), 1000
    values = np.array([1.0, 1.5, 2.0])
    false = covered = 0
    for run in range(runs):
        hard = rng.random(200) < 0.4  # both find these prompts hard
        a, b = (np.where(hard, 1.0, rng.choice(values, size=200)) for _ in range(2))
        found = paired_difference(a.tolist(), b.tolist(), seed=run, draws=2000)
        false += bool(found["p_value"] < 0.05)
        low, high = found["ci95"]
        covered += low <= 0 <= high
    assert 0.04 <= false / runs <= 0.06
    assert 0.93 <= covered / runs <= 0.97


def test_the_p_value_is_that_of_all_signs() -> None:
    d = [1.0, 1.0, 0.5, 0.5, -0.5, 1.0, 0.25, 0.0]
    totals = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in product((1, -1), repeat=len(d))]
    exact = sum((t > abs(sum(d))) + (t == abs(sum(d))) / 2 for t in totals) / len(totals)
    found = paired_difference([1 + max(x, 0) for x in d], [1 + max(-x, 0) for x in d], draws=200_000)
    assert found["p_value"] == pytest.approx(exact, abs=0.004)
    assert paired_difference([1.5, 2], [1.5, 2])["p_value"] == 1.0


def test_both_orders_are_brought_together_by_hand() -> None:
    first, second = [2.0, 1.0, 2.0, 1.5, None, 1.0], [2.0, 1.0, 1.0, 2.0, 1.0, 2.0]
    assert [together(pair) for pair in zip(first, second, strict=True)] == [2.0, 1.0, 1.5, 1.75, None, 1.5]
    assert (together([2.0]), together([None]), together([])) == (2.0, None, None)
    # The third prefers the second place twice, the last the first place twice.
    assert of_orders(first, second) == {
        "n_disagreements": 2, "agreement": 40.0, "same_position": 40.0,
        "prefers_first": pytest.approx(100 * (0 + 1 + 0 + 0.5 + 1 + 1 + 0 + 0 + 1 + 1) / 10),
    }  # fmt: skip
    assert of_orders([None], [1.0])["agreement"] is None


def test_a_judge_that_always_prefers_the_first_gives_half_and_is_found_out() -> None:
    preferences = [together([1.0, 2.0])] * 40
    assert win_rate([p for p in preferences if p is not None])["win_rate"] == 50.0
    found = of_orders([1.0] * 40, [2.0] * 40)
    assert found["prefers_first"] == found["same_position"] == 100.0
    assert found["agreement"] == 0.0
