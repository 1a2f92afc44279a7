"""Texts as runs of equally marked characters, for the page's templates."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokalign.report.text import safe

LEVELS = 4
"""Depths of colour on each side."""
MOST = 4000
"""Characters of a text that are shown."""


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


def rewarded(row: dict[str, Any]) -> list[Span]:
    """A row of ``token-rewards``, or a sample of a policy: the response with the rewards of its tokens."""
    if is_whole(row):
        return clipped(row["response"], [], [])
    # A model of classes pays from -1 to 1; what others pay is seen beside the most that they paid here.
    strongest = 1.0 if row.get("p_bad") is not None else max(map(abs, row["reward"]), default=0.0)
    return clipped(row["response"], row["offsets"], row["reward"], strongest)


def is_whole(row: dict[str, Any]) -> bool:
    """Whether a response has one score, which lies at its last token, instead of a reward for every token."""
    return row.get("p_bad") is None and not any(row["reward"][:-1])


def clipped(text: str, offsets: Sequence[Sequence[int]], values: Sequence[float], strongest: float = 1.0) -> list[Span]:
    """As :func:`marked`; of a long text a part from shortly before the first mark, and how much is left out."""
    if len(text) <= MOST:
        return marked(text, offsets, values, strongest)
    marks = (start for (start, _), value in zip(offsets, values, strict=True) if mark_of(value, strongest))
    first = min(max(0, next(marks, 0) - MOST // 4), len(text) - MOST)
    within = [
        ([start - first, end - first], value)
        for (start, end), value in zip(offsets, values, strict=True)
        if first <= start and end <= first + MOST
    ]
    shown = marked(text[first : first + MOST], [o for o, _ in within], [v for _, v in within], strongest)
    before, after = first, len(text) - MOST - first
    return [
        *([Span(f"[… {before} characters …] ", "")] if before else []),
        *shown,
        *([Span(f" [… {after} characters …]", "")] if after else []),
    ]


def mark_of(value: float, strongest: float) -> str:
    """The class of a value; what is within an eighth of nothing has none."""
    share = min(1.0, abs(value) / strongest) if strongest else 0.0
    level = round(share * LEVELS)
    return "" if not level else f"{'g' if value > 0 else 'b'}{level}"
