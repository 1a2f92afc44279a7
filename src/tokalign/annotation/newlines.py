"""Restores line endings: a browser's text field converts all of them to line feeds."""

from difflib import SequenceMatcher
from itertools import pairwise


def as_in(original: str, text: str) -> str:
    """Return ``text`` with the line endings of ``original``.

    Lines that occur in both texts get their line ending in ``original``; new lines get its most frequent one.
    """
    if "\r" not in original:
        return text
    before, after = _lines(original), _lines(text)
    endings = [ending for _, ending in before if ending]
    usual = max(sorted(set(endings)), key=endings.count)
    if set(endings) == {usual}:
        return text.replace("\n", usual)
    restored = [usual if ending else "" for _, ending in after]
    matcher = SequenceMatcher(None, [line for line, _ in before], [line for line, _ in after], autojunk=False)
    for i, j, n in matcher.get_matching_blocks():
        for k in range(n):
            if before[i + k][1] and after[j + k][1]:
                restored[j + k] = before[i + k][1]
    for k in reversed(range(len(after) - 1)):
        if restored[k] == "\r" and not after[k + 1][0] and restored[k + 1] == "\n":
            restored[k] = "\n"  # CR followed by LF would become one line ending
    return "".join(line + ending for (line, _), ending in zip(after, restored, strict=True))


def _lines(text: str) -> list[tuple[str, str]]:
    """Split a text into (line, line ending) pairs, at CR LF, LF and CR only."""
    stops = [k + 1 for k, c in enumerate(text) if c == "\n" or (c == "\r" and text[k + 1 : k + 2] != "\n")]
    parts = [text[a:b] for a, b in pairwise([0, *stops, len(text)])]
    return [(part.rstrip("\r\n"), part[len(part.rstrip("\r\n")) :]) for part in parts]
