"""Texts as runs of equally marked characters, for the page's templates."""

from collections.abc import Sequence
from typing import NamedTuple

from tokalign.report.text import safe

LEVELS = 4
"""Depths of colour on each side."""


class Span(NamedTuple):
    """A run of a text, and its class: ``b1`` … ``b4`` bad, ``g1`` … ``g4`` good, "" neither."""

    text: str
    mark: str


def marked(text: str, offsets: Sequence[Sequence[int]], values: Sequence[float], strongest: float = 1.0) -> list[Span]:
    """The text, cut where its tokens' values change.

    Args:
        text: what the tokens are of.
        offsets: of every token, ``[start, end)`` in characters; what no token stands on is not marked.
        values: of every token, bad below 0, good above.
        strongest: the size at which the colour is at its deepest.
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


def mark_of(value: float, strongest: float) -> str:
    """The class of a value; what is within an eighth of nothing has none."""
    share = min(1.0, abs(value) / strongest) if strongest else 0.0
    level = round(share * LEVELS)
    return "" if not level else f"{'g' if value > 0 else 'b'}{level}"
