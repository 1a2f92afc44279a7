"""Win rates are percentages with ties as half, and their errors are those of the statistics module."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokalign.core.winrate import paired_difference, win_rate

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
    with pytest.raises(ValueError, match="no preferences"):
        win_rate([])


def test_paired_difference_of_hand_numbers() -> None:
    # Differences 1, 0, 0.5, 0.5: mean 0.5, sample variance 1/6, error 100 · √(1/24).
    got = paired_difference([2, 1, 2, 1.5], [1, 1, 1.5, 1])
    assert got["difference"] == 50.0
    assert got["standard_error"] == pytest.approx(20.412414523193153, rel=1e-12)


def test_a_constant_difference_has_no_error() -> None:
    assert paired_difference([2, 1.5, 2], [1.5, 1, 1.5]) == {"difference": 50.0, "standard_error": 0.0}


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
