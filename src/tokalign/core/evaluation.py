"""Statistics of ``winrates/1`` from judgements. Pure."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from tokalign.core import winrate

Control = Callable[[Sequence[float | None], Sequence[int], Sequence[int]], float]
"""Length-controlled win rate in percent, from preferences, candidate lengths and reference lengths (all (N,))."""


class Judged(NamedTuple):
    """Judgements of one candidate on N prompts, in the order of the prompts."""

    keys: Sequence[str]
    """(N,): identity of each prompt. Two candidates can be compared if they have the same keys."""
    preferences: Sequence[float | None]
    """(N,): from 1 (reference) to 2 (candidate); None: no verdict."""
    lengths: Sequence[int]
    """(N,): characters of the candidate's responses; empty if unknown."""
    reference_lengths: Sequence[int]
    """(N,): characters of the reference's responses; empty if unknown."""
    orders: Mapping[str, Any] = {}
    """Result of :func:`tokalign.core.winrate.of_orders`; empty if each pair was judged in one order."""


def candidates(judged: Mapping[str, Judged], seed: int, control: Control | None) -> dict[str, dict[str, Any]]:
    """Statistics of each candidate for ``winrates/1``, by name. Rates are None if no comparison was judged.

    Args:
        judged: judgements by candidate name.
        seed: seed of the bootstrap.
        control: computes the length-controlled win rate; None: leave it out.
    """
    return {name: _candidate(j, seed, control) for name, j in judged.items()}


def _candidate(j: Judged, seed: int, control: Control | None) -> dict[str, Any]:
    preferences = [p for p in j.preferences if p is not None]
    known = bool(j.lengths) and bool(preferences)
    rates: dict[str, Any] = dict.fromkeys(("win_rate", "standard_error", "discrete_win_rate", "ci95"))
    rates |= dict.fromkeys(("n_total", "n_wins", "n_losses", "n_ties"), 0)
    if preferences:
        rates = {**winrate.win_rate(preferences), "ci95": list(winrate.interval(preferences, seed))}
    return {
        **rates,
        "length_controlled_winrate": control(j.preferences, j.lengths, j.reference_lengths)
        if control and known
        else None,
        "avg_length": sum(j.lengths) / len(j.lengths) if j.lengths else None,
        "n_unjudged": sum(p is None for p in j.preferences),
        **j.orders,
    }


def paired(judged: Mapping[str, Judged], seed: int) -> list[dict[str, Any]]:
    """Paired differences for every two candidates with the same prompts: the later minus the earlier candidate.

    Each is computed on the prompts for which both have a verdict; pairs with fewer than two such prompts are left out.

    Returns:
        For each pair of candidates, the names ``a`` (later) and ``b`` (earlier), the number of prompts ``n``, and the
        result of :func:`tokalign.core.winrate.paired_difference`.
    """
    found = []
    for a, b in combinations(judged, 2):
        preferences_a, preferences_b = (dict(zip(j.keys, j.preferences, strict=True)) for j in (judged[a], judged[b]))
        if preferences_a.keys() != preferences_b.keys():
            continue
        pairs = [(x, y) for key, x in preferences_a.items() if x is not None and (y := preferences_b[key]) is not None]
        if len(pairs) > 1:
            difference = winrate.paired_difference([y for _, y in pairs], [x for x, _ in pairs], seed)
            found.append({"a": b, "b": a, "n": len(pairs), **difference})
    return found
