"""Splits texts into spans with CSS classes, for the templates of the report."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokalign.report.text import safe

LEVELS = 4
"""Number of colour levels for bad and for good."""
MAX_CHARACTERS = 4000
"""Maximum number of characters shown of a text."""


class Span(NamedTuple):
    """A part of a text and its CSS class: ``b1`` … ``b4`` bad, ``g1`` … ``g4`` good, "" neither."""

    text: str
    mark: str


def marked(text: str, offsets: Sequence[Sequence[int]], values: Sequence[float], strongest: float = 1.0) -> list[Span]:
    """Split a text into spans at the tokens where the CSS class changes.

    Args:
        text: response.
        offsets: ``[start, end)`` in code points for each token; characters outside all tokens have no class.
        values: label or reward of each token; negative: bad, positive: good.
        strongest: absolute value with the strongest colour.
    """
    found: list[Span] = []

    def add(piece: str, mark: str) -> None:
        if piece and found and found[-1].mark == mark:
            found[-1] = Span(found[-1].text + safe(piece), mark)
        elif piece:
            found.append(Span(safe(piece), mark))

    at = 0
    for (start, end), value in zip(offsets, values, strict=True):
        add(text[at:start], "")
        add(text[max(at, start) : end], mark_of(value, strongest))
        at = max(at, end)
    add(text[at:], "")
    return found


def rewarded(row: dict[str, Any]) -> list[Span]:
    """Return the response of a ``token-rewards`` row as spans by the rewards of its tokens."""
    if is_whole(row):
        return clipped(row["response"], [], [])
    # Rewards of token classifiers are from -1 to 1. Other rewards are scaled by the largest one in the response.
    strongest = 1.0 if row.get("p_bad") is not None else max(map(abs, row["reward"]), default=0.0)
    return clipped(row["response"], row["offsets"], row["reward"], strongest)


def is_whole(row: dict[str, Any]) -> bool:
    """Whether a row has a single score, at its last token, instead of a reward for every token."""
    return row.get("p_bad") is None and not any(row["reward"][:-1])


def clipped(text: str, offsets: Sequence[Sequence[int]], values: Sequence[float], strongest: float = 1.0) -> list[Span]:
    """Call :func:`marked` on a text; of a long one, only on a part from shortly before the first mark."""
    if len(text) <= MAX_CHARACTERS:
        return marked(text, offsets, values, strongest)
    starts = (start for (start, _), value in zip(offsets, values, strict=True) if mark_of(value, strongest))
    first = min(max(0, next(starts, 0) - MAX_CHARACTERS // 4), len(text) - MAX_CHARACTERS)
    last = first + MAX_CHARACTERS
    within = [
        ([start - first, end - first], value)
        for (start, end), value in zip(offsets, values, strict=True)
        if first <= start and end <= last
    ]
    shown = marked(text[first:last], [o for o, _ in within], [v for _, v in within], strongest)
    before, after = first, len(text) - last
    return [
        *([Span(f"[… {before} characters …] ", "")] if before else []),
        *shown,
        *([Span(f" [… {after} characters …]", "")] if after else []),
    ]


def mark_of(value: float, strongest: float) -> str:
    """Return the CSS class of a value; "" if it is at most an eighth of ``strongest``."""
    share = min(1.0, abs(value) / strongest) if strongest else 0.0
    level = round(share * LEVELS)
    return "" if not level else f"{'g' if value > 0 else 'b'}{level}"
