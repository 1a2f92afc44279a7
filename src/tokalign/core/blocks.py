"""An alignment that follows how people edit: words kept in long runs, many pairs at a time.

What is optimised: the number of words kept, less ``cost`` for every run of kept words that is at neither end of
both texts. A run of ``cost`` words or fewer in the middle of an edit is thus never kept: a person who rewrote a
sentence did not keep its "the". With ``cost`` 0 this is the longest common subsequence. Of alignments that are
equally good, those whose runs begin and end with a sentence come first: of "The cat sat. The dog ran." with a
sentence removed, a whole sentence was removed.

It is solved exactly, by dynamic programming over rows of a whole batch: no Python loop runs over the words of a pair.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Match = NDArray[np.int32]
"""(n,): for each word of the one side, its word on the other, -1 for none; rising where it is not -1."""

CELLS = 600_000
"""Cells of the table worked on at a time."""

_WORD = 4
"""What a kept word counts in the table; a run that begins, or ends, with a sentence counts 1 more."""


class Side(NamedTuple):
    """One text. ``ids`` (n,) int32: equal ids stand for equal words. ``starts`` (n,) bool: it begins a sentence."""

    ids: NDArray[np.int32]
    starts: NDArray[np.bool_]

    def part(self, start: int, end: int) -> "Side":
        """Words ``start`` to ``end``."""
        return Side(self.ids[start:end], self.starts[start:end])


class _Middle(NamedTuple):
    """What is left of pair ``k`` without ``head`` words that both begin with; ``turned``: the sides are swapped."""

    k: int
    head: int
    turned: bool
    a: Side
    b: Side


def align_blocks(pairs: Sequence[tuple[Side, Side]], cost: int) -> list[Match]:
    """For each pair, which words of the first are kept, and where.

    Swapping the sides of a pair gives the same words the other way round.

    Args:
        pairs: the two texts of each.
        cost: words that a run must be worth.
    """
    matches: list[Match] = []
    middles: list[_Middle] = []
    for k, (a, b) in enumerate(pairs):
        n, m = len(a.ids), len(b.ids)
        match = np.full(n, -1, dtype=np.int32)
        head = _head(a, b)
        tail = _tail(a.part(head, n), b.part(head, m))
        match[:head] = np.arange(head)
        match[n - tail :] = np.arange(m - tail, m)
        matches.append(match)
        one, other = a.part(head, n - tail), b.part(head, m - tail)
        if len(one.ids) and len(other.ids):
            # Of equally good alignments one is taken; which, must not depend on the order of the sides.
            turned = (len(one.ids), one.ids.tobytes()) > (len(other.ids), other.ids.tobytes())
            middles.append(_Middle(k, head, turned, *((other, one) if turned else (one, other))))
    for batch in _batches(middles):
        for middle, got in zip(batch, _solve(batch, cost), strict=True):
            rows = np.flatnonzero(got >= 0)
            columns = got[rows]
            if middle.turned:
                rows, columns = columns, rows
            matches[middle.k][middle.head + rows] = middle.head + columns
    return matches


def _head(a: Side, b: Side) -> int:
    """How many words both begin with, in whole sentences where the two differ further on."""
    n = min(len(a.ids), len(b.ids))
    differ = np.flatnonzero(a.ids[:n] != b.ids[:n])
    same = int(differ[0]) if len(differ) else n
    if same == len(a.ids) == len(b.ids):
        return same
    whole = np.flatnonzero(a.starts[:same] & b.starts[:same])
    return int(whole[-1]) if len(whole) else 0


def _tail(a: Side, b: Side) -> int:
    """How many words both end with, in whole sentences."""
    n = min(len(a.ids), len(b.ids))
    if not n:
        return 0
    differ = np.flatnonzero(a.ids[-n:] != b.ids[-n:])
    same = n - 1 - int(differ[-1]) if len(differ) else n
    whole = np.flatnonzero(a.starts[len(a.ids) - same :] & b.starts[len(b.ids) - same :])
    return same - int(whole[0]) if len(whole) else 0


def _batches(middles: list[_Middle]) -> list[list[_Middle]]:
    """Pairs of similar size together, no more than :data:`CELLS` in a batch."""
    batches: list[list[_Middle]] = []
    high = wide = 0
    for middle in sorted(middles, key=lambda x: (len(x.a.ids), len(x.b.ids))):
        high, wide = max(high, len(middle.a.ids)), max(wide, len(middle.b.ids))
        if not batches or (len(batches[-1]) + 1) * high * wide > CELLS:
            batches.append([])
            high, wide = len(middle.a.ids), len(middle.b.ids)
        batches[-1].append(middle)
    return batches


def _padded(rows: Sequence[NDArray[Any]], fill: int) -> NDArray[np.int32]:
    out = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _solve(batch: list[_Middle], cost: int) -> Match:
    """(B, n): the best alignment of each pair."""
    sides = [x.a for x in batch], [x.b for x in batch]
    # Padding, -1 against -2, is equal to nothing.
    a, b = _padded([x.ids for x in sides[0]], -1), _padded([x.ids for x in sides[1]], -2)
    lens_a, lens_b = (np.array([len(x.ids) for x in some]) for some in sides)
    size, n, m = len(batch), a.shape[1], b.shape[1]
    small = (_WORD + 2) * min(n, m) < 2**13
    number: Any = np.int16 if small else np.int32
    never, price = number(-(2**13) if small else -(2**30)), number(_WORD * cost)
    # Bonus of a run that begins, or ends, at word i of a and j of b; at both ends of both texts it is free.
    begins_a, begins_b = (_padded([x.starts for x in some], 0).astype(number) for some in sides)
    ends_a, ends_b = (_padded([np.append(x.starts[1:], True) for x in some], 0).astype(number) for some in sides)
    # best[j]: of the words so far and b[:j]; run[j]: the same, where the last word of both is kept.
    best = np.zeros((size, m + 1), dtype=number)
    run = np.full((size, m + 1), never, dtype=number)
    kept = np.zeros((n, size, m), dtype=bool)  # the best alignment of the two beginnings needs the word of b
    longer = np.zeros((n, size, m), dtype=bool)  # … and the word before is of the same run
    above = np.zeros((n, size, m), dtype=bool)  # … or it does without the word of a
    last = np.arange(size), lens_b - 1
    for i in range(n):
        start = best[:, :-1] + (begins_b & begins_a[:, i, None]) - price
        if i == 0:
            start[:, 0] += price
        longer[i] = run[:, :-1] > start
        run[:, 1:] = np.where(b == a[:, i, None], np.maximum(run[:, :-1], start) + number(_WORD), never)
        done = run[:, 1:] + (ends_b & ends_a[:, i, None])
        done[last] += np.where(lens_a - 1 == i, price, number(0))
        row = np.maximum(best[:, 1:], done)
        np.maximum.accumulate(row, axis=1, out=row)
        above[i] = best[:, 1:] == row
        best[:, 1:] = row
        kept[i] = best[:, :-1] < row
    return _trace(kept, longer, above, lens_a, lens_b)


def _trace(
    kept: NDArray[np.bool_],
    longer: NDArray[np.bool_],
    above: NDArray[np.bool_],
    lens_a: NDArray[np.int64],
    lens_b: NDArray[np.int64],
) -> Match:
    """Walk back from the end of every pair of the batch, all at once."""
    n, size, _ = kept.shape
    match = np.full((size, n), -1, dtype=np.int32)
    which = np.arange(size)
    i, j = lens_a - 1, lens_b - 1
    inside = np.zeros(size, dtype=bool)  # in a run: the word at (i, j) is kept
    while len(which):
        up = ~inside & above[i, which, j]
        keep = inside | (~up & kept[i, which, j])
        match[which[keep], i[keep]] = j[keep]
        inside = keep & longer[i, which, j]
        i, j = i - (keep | up), j - ~up
        left = (i >= 0) & (j >= 0)
        if not left.all():
            which, i, j, inside = which[left], i[left], j[left], inside[left]
    return match
