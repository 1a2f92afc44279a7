"""How one row of an artifact looks in the terminal.

Colour is blue for good and orange for bad, which colour-blind readers tell apart; without colour the marks
``[-bad-]`` and ``{+good+}`` say the same.
"""

import json
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tokalign.core.diff import words
from tokalign.data.conversation import as_text
from tokalign.report.spans import is_whole
from tokalign.report.text import safe

BAD, GOOD = "bold #d55e00", "bold #0072b2"
_GROUNDS = (("#fde3d0", "#f9bd94", "#f29458", "#d55e00"), ("#d6e9f5", "#a3cde8", "#5fa8d6", "#3a8fc4"))
"""Orange for bad, blue for good, from pale to deep; black is readable on all of them."""
MARKED = 0.5
"""A reward at least this strong is marked in the text."""
SPARED = 5
"""Words that are not worth folding away."""


def show_row(console: Console, kind: str, row: dict[str, Any], context: int | None) -> None:
    """Print a row; ``context``: words that stay around what is marked in a long text, ``None``: all."""
    console.print(Text(safe(f"── {row['id']}" + (f" · sample {row['sample']}" if row.get("sample") else "")), "dim"))
    if "prompt" in row:
        flat = _flat(row["prompt"])
        _say(console, "prompt", Text(flat if context is None else _clip(flat)))
    if kind == "token-labels":
        about = [*row["categories"], f"similarity {row['similarity']:.2f}"]
        _say(console, "edit", Text(safe(", ".join(about))))
        for side in ("original", "edited"):
            text = marked(row[side], row[f"{side}_offsets"], row[f"{side}_labels"], context)
            _say(console, side, text)
    elif kind == "token-rewards":
        _say(console, "reward", heat(row["response"], row["offsets"], row["reward"]))
        mean = "" if is_whole(row) else f"mean {row['score_mean']:+.4f}   sum "
        _say(console, "score", Text(f"{mean}{row['score_sum']:+.3f}"))
        if row["p_bad"] is not None:
            _say(console, "worst", Text(_extremes(row)))
    else:
        for key, value in row.items():
            if key not in ("id", "prompt", "sample") and value not in (None, "", []):
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                _say(console, key, Text(safe(shown)))


def marked(
    text: str,
    offsets: Sequence[Sequence[int]],
    values: Sequence[float],
    context: int | None = None,
    places: list[tuple[int, int]] | None = None,
) -> Text:
    """The text with every run of bad or good tokens marked and coloured by its values (-1 … 1).

    Args:
        text: what the tokens are of.
        offsets: of every token, ``[start, end)``; that of EOS is empty and stands at the end.
        values: of every token.
        context: words that stay on either side of what is marked, ``None``: all.
        places: takes, for each piece of the text, where it begins there and where in what is returned.
    """
    out, at = Text(), 0
    places = [] if places is None else places
    for start, end, sign, strength in _runs(offsets, values, len(text)):
        places.append((at, len(out)))
        out.append_text(_folded(text[at:start], context, at > 0, True))
        piece = text[start:end]
        lead = len(piece) - len(piece.lstrip())
        places.append((start, len(out)))
        out.append(safe(piece[:lead]))
        open_, close, style = ("[-", "-]", BAD) if sign < 0 else ("{+", "+}", GOOD)
        said = safe(piece[lead:]) if start < end else "end"
        places.append((start + lead, len(out) + len(open_)))
        out.append(f"{open_}{said}{close}", style if strength > 0.75 else style.removeprefix("bold "))
        at = end
    places.append((at, len(out)))
    out.append_text(_folded(text[at:], context, True, False))
    return out


def heat(text: str, offsets: Sequence[Sequence[int]], values: Sequence[float]) -> Text:
    """The text, every token on a ground that is the deeper the larger its reward; strong ones are marked as well.

    Args:
        text: what the tokens are of.
        offsets: of every token.
        values: their rewards; a ground is at its deepest from -1 and 1.
    """
    places: list[tuple[int, int]] = []
    out = marked(text, offsets, values, places=places)
    for (start, end), value in zip(offsets, values, strict=True):
        depth = min(len(_GROUNDS[0]), int(abs(value) * len(_GROUNDS[0]) + 0.5))
        piece = text[start:end].lstrip()
        if depth and (said := safe(piece.rstrip())):
            first = end - len(piece)
            piece_at, shown_at = places[bisect_right(places, (first, len(out))) - 1]
            begin = shown_at + len(safe(text[piece_at:first]))
            out.stylize(f"black on {_GROUNDS[value > 0][depth - 1]}", begin, begin + len(said))
    return out


def _folded(text: str, context: int | None, after: bool, before: bool) -> Text:
    """Unmarked text, its middle left out if long; ``after`` (``before``) a mark the words next to it stay."""
    cut = words(text)
    head, tail = (context or 0) * after, (context or 0) * before
    if context is None or len(cut) <= head + tail + SPARED:
        return Text(safe(text))
    out = Text(safe("".join(cut[:head])))
    out.append(f"{' ' * (head > 0)}[… {len(cut) - head - tail} words …]", "dim")
    return out.append(safe("".join(cut[len(cut) - tail :])))


def _runs(offsets: Sequence[Sequence[int]], values: Sequence[float], size: int) -> list[tuple[int, int, int, float]]:
    """Neighbouring tokens of one sign, as (start, end, sign, strongest value); an empty one counts at the end alone."""
    runs: list[tuple[int, int, int, float]] = []
    for (start, end), value in zip(offsets, values, strict=True):
        if abs(value) < MARKED or start == end < size:
            continue
        sign = 1 if value > 0 else -1
        if runs and runs[-1][1] >= start and runs[-1][2] == sign:
            first, last, _, strength = runs[-1]
            runs[-1] = (first, max(last, end), sign, max(strength, abs(value)))
        elif not runs or start >= runs[-1][1]:
            runs.append((start, end, sign, abs(value)))
    return runs


def _extremes(row: dict[str, Any]) -> str:
    order = sorted(range(len(row["reward"])), key=lambda i: row["reward"][i])[:3]
    return "  ".join(f"{safe(row['tokens'][i])!r} {row['reward'][i]:+.2f}" for i in order)


def _say(console: Console, label: str, text: Text) -> None:
    console.print(Text(f"{safe(label):>9}", "dim"))
    console.print(Padding(text, (0, 0, 0, 4)))


def _flat(prompt: Any) -> str:
    return safe(as_text(prompt))


def _clip(text: str, most: int = 800) -> str:
    return (
        text if len(text) <= most else f"{text[: most // 2]}\n[… {len(text) - most} characters …]\n{text[-most // 2 :]}"
    )
