"""A browser's text field makes every end of a line a line feed. Here they become again what they were."""

from difflib import SequenceMatcher
from itertools import pairwise


def as_in(original: str, text: str) -> str:
    """``text`` with its line feeds written as the ends of lines of ``original`` are.

    Lines that both have keep their ends; new ones get the end that is most frequent there.
    """
    if "\r" not in original:
        return text
    theirs, ours = _lines(original), _lines(text)
    ends = [end for _, end in theirs if end]
    usual = max(sorted(set(ends)), key=ends.count)
    if set(ends) == {usual}:
        return text.replace("\n", usual)
    found = [usual if end else "" for _, end in ours]
    matcher = SequenceMatcher(None, [line for line, _ in theirs], [line for line, _ in ours], autojunk=False)
    for i, j, n in matcher.get_matching_blocks():
        for k in range(n):
            if theirs[i + k][1] and ours[j + k][1]:
                found[j + k] = theirs[i + k][1]
    for k in reversed(range(len(ours) - 1)):
        if found[k] == "\r" and not ours[k + 1][0] and found[k + 1] == "\n":
            found[k] = "\n"  # else the two would be one end
    return "".join(line + end for (line, _), end in zip(ours, found, strict=True))


def _lines(text: str) -> list[tuple[str, str]]:
    """Lines with their ends: CR LF, LF or CR; no other character ends one."""
    marks = [k + 1 for k, c in enumerate(text) if c == "\n" or (c == "\r" and text[k + 1 : k + 2] != "\n")]
    parts = [text[a:b] for a, b in pairwise([0, *marks, len(text)])]
    return [(part.rstrip("\r\n"), part[len(part.rstrip("\r\n")) :]) for part in parts]
