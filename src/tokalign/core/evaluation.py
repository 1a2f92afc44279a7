"""From judgements to the numbers of an evaluation. Pure."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from tokalign.core import winrate

Control = Callable[[Sequence[float | None], Sequence[int], Sequence[int]], float]
"""Length-controlled win rate in percent, of preferences, the candidate's lengths and the reference's."""


class Judged(NamedTuple):
    """What became of one candidate, prompt by prompt, in the order of the prompts."""

    keys: Sequence[str]
    """What tells the prompts apart; candidates are compared where these are equal."""
    preferences: Sequence[float | None]
    """None: no verdict."""
    lengths: Sequence[int]
    """Characters of its responses; empty if they are not known."""
    reference_lengths: Sequence[int]
    orders: Mapping[str, Any] = {}
    """See :func:`tokalign.core.winrate.of_orders`; empty where each pair was shown once."""


def candidates(judged: Mapping[str, Judged], seed: int, control: Control | None) -> dict[str, dict[str, Any]]:
    """The numbers of each candidate, by name: those of ``winrates/1``; rates are null where nothing was judged."""
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
    """Every two candidates that answered the same prompts: the later less the earlier, on what both were judged on."""
    found = []
    for a, b in combinations(judged, 2):
        ours, theirs = (dict(zip(j.keys, j.preferences, strict=True)) for j in (judged[a], judged[b]))
        if ours.keys() != theirs.keys():
            continue
        pairs = [(x, y) for key, x in ours.items() if x is not None and (y := theirs[key]) is not None]
        if len(pairs) > 1:
            difference = winrate.paired_difference([y for _, y in pairs], [x for x, _ in pairs], seed)
            found.append({"a": b, "b": a, "n": len(pairs), **difference})
    return found
