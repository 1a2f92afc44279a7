"""Shows one row of an artifact in the terminal.

Good tokens are blue and bad tokens are orange, which colour-blind readers can tell apart. The marks ``[-bad-]`` and
``{+good+}`` show the same without colour.
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
_BACKGROUNDS = (("#fde3d0", "#f9bd94", "#f29458", "#d55e00"), ("#d6e9f5", "#a3cde8", "#5fa8d6", "#3a8fc4"))
"""Background colours for bad (orange) and good (blue), from light to dark, all readable with black text."""
MARKED = 0.5
"""Smallest absolute reward that is marked in the text."""
MIN_FOLDED = 5
"""A run of at most this many words is not folded."""


def show_row(console: Console, kind: str, row: dict[str, Any], context: int | None) -> None:
    """Print a row.

    Args:
        console: where to print.
        kind: kind of the artifact.
        row: the row, as a dictionary of its columns.
        context: number of words to show around each mark of token labels; None: all.
    """
    console.print(Text(safe(f"── {row['id']}" + (f" · sample {row['sample']}" if row.get("sample") else "")), "dim"))
    if "prompt" in row:
        flat = _flat(row["prompt"])
        _print(console, "prompt", Text(flat if context is None else _clip(flat)))
    if kind == "token-labels":
        about = [*row["categories"], f"similarity {row['similarity']:.2f}"]
        _print(console, "edit", Text(safe(", ".join(about))))
        for side in ("original", "edited"):
            text = marked(row[side], row[f"{side}_offsets"], row[f"{side}_labels"], context)
            _print(console, side, text)
    elif kind == "token-rewards":
        _print(console, "reward", heat(row["response"], row["offsets"], row["reward"]))
        mean = "" if is_whole(row) else f"mean {row['score_mean']:+.4f}   sum "
        _print(console, "score", Text(f"{mean}{row['score_sum']:+.3f}"))
        if row["p_bad"] is not None:
            _print(console, "worst", Text(_extremes(row)))
    else:
        for key, value in row.items():
            if key not in ("id", "prompt", "sample") and value not in (None, "", []):
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                _print(console, key, Text(safe(shown)))


def marked(
    text: str,
    offsets: Sequence[Sequence[int]],
    values: Sequence[float],
    context: int | None = None,
    places: list[tuple[int, int]] | None = None,
) -> Text:
    """Mark and colour every run of bad or good tokens in a text.

    Args:
        text: response.
        offsets: ``[start, end)`` in code points for each token; EOS has ``[len, len)``.
        values: label or reward of each token, -1 to 1.
        context: number of words to show on either side of a mark; None: all.
        places: if given, receives a pair for each piece of the text: its start in ``text`` and in the result.
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
        shown = safe(piece[lead:]) if start < end else "end"
        places.append((start + lead, len(out) + len(open_)))
        out.append(f"{open_}{shown}{close}", style if strength > 0.75 else style.removeprefix("bold "))
        at = end
    places.append((at, len(out)))
    out.append_text(_folded(text[at:], context, True, False))
    return out


def heat(text: str, offsets: Sequence[Sequence[int]], values: Sequence[float]) -> Text:
    """Colour the background of every token by its reward, and mark strong rewards as :func:`marked` does.

    Args:
        text: response.
        offsets: ``[start, end)`` in code points for each token.
        values: reward of each token; the colour is darkest at -1 and below, and at 1 and above.
    """
    places: list[tuple[int, int]] = []
    out = marked(text, offsets, values, places=places)
    for (start, end), value in zip(offsets, values, strict=True):
        depth = min(len(_BACKGROUNDS[0]), int(abs(value) * len(_BACKGROUNDS[0]) + 0.5))
        piece = text[start:end].lstrip()
        if depth and (shown := safe(piece.rstrip())):
            first = end - len(piece)
            piece_at, shown_at = places[bisect_right(places, (first, len(out))) - 1]
            begin = shown_at + len(safe(text[piece_at:first]))
            out.stylize(f"black on {_BACKGROUNDS[value > 0][depth - 1]}", begin, begin + len(shown))
    return out


def _folded(text: str, context: int | None, after: bool, before: bool) -> Text:
    """Fold the middle of unmarked text. ``after`` and ``before``: a mark precedes or follows; keep the words there."""
    pieces = words(text)
    head, tail = (context or 0) * after, (context or 0) * before
    if context is None or len(pieces) <= head + tail + MIN_FOLDED:
        return Text(safe(text))
    out = Text(safe("".join(pieces[:head])))
    out.append(f"{' ' * (head > 0)}[… {len(pieces) - head - tail} words …]", "dim")
    return out.append(safe("".join(pieces[len(pieces) - tail :])))


def _runs(offsets: Sequence[Sequence[int]], values: Sequence[float], size: int) -> list[tuple[int, int, int, float]]:
    """Group neighbouring marked tokens of one sign into (start, end, sign, largest absolute value).

    Tokens without characters are ignored, except for EOS at the end of the text.
    """
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


def _print(console: Console, label: str, text: Text) -> None:
    console.print(Text(f"{safe(label):>9}", "dim"))
    console.print(Padding(text, (0, 0, 0, 4)))


def _flat(prompt: Any) -> str:
    return safe(as_text(prompt))


def _clip(text: str, limit: int = 800) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n[… {len(text) - limit} characters …]\n{text[-limit // 2 :]}"
