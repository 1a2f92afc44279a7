"""An alignment that follows how people edit: words kept in long runs, many pairs at a time.

What is optimised: the number of words kept, less ``cost`` for every run of kept words that is at neither end of
both texts. A run of ``cost`` words or fewer in the middle of an edit is thus never kept: a person who rewrote a
sentence did not keep its "the". With ``cost`` 0 this is the longest common subsequence. Of alignments that are
equally good, those whose runs begin and end with a sentence come first: of "The cat sat. The dog ran." with a
sentence removed, a whole sentence was removed.

It is solved exactly, by dynamic programming over rows of a whole batch: no Python loop runs over the words of a pair.
A longest common subsequence bounds how far from the diagonal the best alignment can be, and only that band is filled.
"""

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel

Places = NDArray[np.int64]
Match = NDArray[np.int32]
"""(n,): for each word of the one side, its word on the other, -1 for none; rising where it is not -1."""

CELLS = 2_000_000
"""Cells of the table worked on at a time."""

_WORD = 4
"""What a kept word counts in the table; a run that begins, or ends, with a sentence counts 1 more."""


class Side(NamedTuple):
    """One text."""

    ids: NDArray[np.int32]
    """(n,), from 0: equal ids stand for equal words."""
    starts: NDArray[np.bool_]
    """(n,): a sentence begins with the word."""

    def part(self, start: int, end: int) -> "Side":
        """Words ``start`` to ``end``."""
        return Side(self.ids[start:end], self.starts[start:end])

    def part_at(self, places: Places) -> "Side":
        """Words at some places."""
        return Side(self.ids.take(places), self.starts.take(places))


class _Middle(NamedTuple):
    """What is left of pair ``k`` without ``head`` words that both begin with; ``turned``: the sides are swapped.

    ``a`` is not the longer. The best alignment stays on diagonals (place in b less place in a) ``low`` to ``high``.
    """

    k: int
    head: int
    turned: bool
    a: Side
    b: Side
    low: int
    high: int

    @property
    def width(self) -> int:
        """Diagonals in the band."""
        return self.high - self.low + 1


def align_blocks(pairs: Sequence[tuple[Side, Side]], cost: int) -> list[Match]:
    """For each pair, which words of the first are kept, and where.

    Swapping the sides of a pair gives the same words the other way round.

    Args:
        pairs: the two texts of each.
        cost: words that a run must be worth.
    """
    matches: list[Match] = []
    middles: list[_Middle] = []
    heads, tails = _ends(pairs)
    for k, ((a, b), head, tail) in enumerate(zip(pairs, heads.tolist(), tails.tolist(), strict=True)):
        n, m = len(a.ids), len(b.ids)
        match = np.full(n, -1, dtype=np.int32)
        match[:head] = np.arange(head)
        match[n - tail :] = np.arange(m - tail, m)
        matches.append(match)
        one, other = a.part(head, n - tail), b.part(head, m - tail)
        if len(one.ids) and len(other.ids):
            # Of equally good alignments one is taken; which, must not depend on the order of the sides.
            turned = (len(one.ids), one.ids.tobytes()) > (len(other.ids), other.ids.tobytes())
            short, long = (other, one) if turned else (one, other)
            middles.append(_Middle(k, head, turned, short, long, *_band(short, long, cost)))
    for batch in _batches(middles):
        for middle, got in zip(batch, _solve(batch, cost), strict=True):
            rows = np.flatnonzero(got >= 0)
            columns = got[rows]
            if middle.turned:
                rows, columns = columns, rows
            matches[middle.k][middle.head + rows] = middle.head + columns
    return matches


def _ends(pairs: Sequence[tuple[Side, Side]]) -> tuple[Places, Places]:
    """(N,) each: how many words both begin with, and end with, in whole sentences."""
    if not pairs:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    sides = [Side(*(np.concatenate(part) for part in zip(*some, strict=True))) for some in zip(*pairs, strict=True)]
    sizes = np.array([[len(side.ids) for side in pair] for pair in pairs]).T
    first = np.cumsum(sizes, axis=1) - sizes
    same, sentence = _shared(sides, first, sizes.min(axis=0), 1)
    heads = np.where((same == sizes).all(axis=0), same, np.maximum(sentence, 0))
    return heads, _shared(sides, first + sizes - 1, sizes.min(axis=0) - heads, -1)[1] + 1


def _shared(sides: Sequence[Side], first: Places, most: Places, step: int) -> tuple[Places, Places]:
    """(N,) each: how many words in a row are the same, and the last of them with which both begin a sentence, or -1.

    Args:
        sides: the words of all pairs.
        first: (2, N): where to begin on either side.
        most: (N,): how far to look.
        step: 1: onwards, -1: backwards.
    """
    ends = np.cumsum(most)
    begins = ends - most
    along = step * np.arange(ends[-1])
    a, b = (side.part_at(along + np.repeat(at - step * begins, most)) for side, at in zip(sides, first, strict=True))
    differ = np.append(np.flatnonzero(a.ids != b.ids), ends[-1])
    same = np.minimum(differ[np.searchsorted(differ, begins)], ends) - begins
    starts = np.append(-1, np.flatnonzero(a.starts & b.starts))
    sentence = starts[np.searchsorted(starts, begins + same) - 1] - begins
    return same, np.maximum(sentence, -1)


def _band(a: Side, b: Side, cost: int) -> tuple[int, int]:
    """The lowest and the highest diagonal that the best alignment can touch.

    A longest common subsequence is an alignment, so the best is worth no less; one that leaves the diagonals between
    the corners by d words keeps at most ``len(a) - d``.
    """
    n, m = len(a.ids), len(b.ids)
    floor = 0
    for op in Indel.opcodes(array("i", a.ids.tobytes()), array("i", b.ids.tobytes())):
        if op.tag == "equal":
            outer = (op.src_start == op.dest_start == 0) + (op.src_end == n and op.dest_end == m)
            floor += max(0, _WORD * (op.src_end - op.src_start) - _WORD * cost * (1 - outer))
    bonus = 4 if cost else 2 * int(a.starts.sum()) + 2  # the most that sentences can add to what words are worth
    off = n + (bonus - floor) // _WORD
    return max(-off, 1 - n), min(m - n + off, m - 1)


def _batches(middles: list[_Middle]) -> list[list[_Middle]]:
    """Pairs of similar size together, no more than :data:`CELLS` in a batch."""
    batches: list[list[_Middle]] = []
    high = wide = 0
    for middle in sorted(middles, key=lambda x: (len(x.a.ids) // 32, x.width)):
        high, wide = max(high, len(middle.a.ids)), max(wide, middle.width)
        if not batches or (len(batches[-1]) + 1) * high * wide > CELLS:
            batches.append([])
            high, wide = len(middle.a.ids), middle.width
        batches[-1].append(middle)
    return batches


def _laid(rows: Sequence[NDArray[Any]], leads: Sequence[int], height: int, fill: int, kind: Any) -> NDArray[Any]:
    """(height, B): a column for each row, after so many places, ``fill`` around it."""
    out = np.full((len(rows), height), fill, dtype=kind)
    for line, row, lead in zip(out, rows, leads, strict=True):
        line[lead : lead + len(row)] = row[: height - lead]
    return np.ascontiguousarray(out.T)


def _solve(batch: list[_Middle], cost: int) -> Match:
    """(B, n): the best alignment of each pair."""
    short, long = [x.a for x in batch], [x.b for x in batch]
    lens_a, lens_b = (np.array([len(x.ids) for x in some]) for some in (short, long))
    lows = np.array([x.low for x in batch])
    size, n, width = len(batch), int(lens_a.max()), max(x.width for x in batch)
    number: Any = np.int16 if (_WORD + 2) * (n + 2) + _WORD * cost < 2**13 else np.int32
    never, price, word = number(-(2**14) if number is np.int16 else -(2**30)), number(_WORD * cost), number(_WORD)
    # Cell (c, k) of row i is for words i of a and j = i + lows[k] + c of b: b is laid so that j stands at i + c.
    none, leads, height = [0] * size, (-lows).tolist(), n + width
    a, b = (
        _laid([x.ids for x in short], none, n, -1, np.int32),
        _laid([x.ids for x in long], leads, height, -2, np.int32),
    )
    begins_a, ends_a = (_laid(x, none, n, 0, number) for x in _edges(short))
    begins_b, ends_b = (_laid(x, leads, height, 0, number) for x in _edges(long))
    # best: of the words up to i and up to j; run: the same, where the last word of both is kept.
    best = np.zeros((width, size), dtype=number)
    run = np.full((width, size), never, dtype=number)
    over = np.zeros((width, size), dtype=number)  # best without word i of a
    start, spare, other = np.empty_like(best), np.empty_like(best), np.empty((width, size), dtype=bool)
    moves = np.empty((n, width, size), dtype=np.uint8)
    which = np.arange(size)
    for i in range(n):
        part = slice(i, i + width)
        # Bonus of a run that begins, or ends, with a sentence; at both beginnings, and both ends, a run is free.
        np.bitwise_and(begins_b[part], begins_a[i], out=start)
        start += best
        start -= price
        if i == 0:
            start[-lows, which] += price
        move = moves[i]
        np.greater(run, start, out=other)
        np.multiply(other, _LONGER, out=move)
        np.maximum(run, start, out=run)
        run += word
        np.not_equal(b[part], a[i], out=other)
        np.copyto(run, never, where=other)
        done = np.bitwise_and(ends_b[part], ends_a[i], out=start)
        done += run
        last = np.flatnonzero(lens_a == i + 1)
        done[(lens_b - lens_a - lows)[last], last] += price
        over[:-1] = best[1:]
        np.maximum(over, done, out=best)
        best, spare = _highest(best, spare)
        move += np.equal(over, best, out=other)
        over[-1] = never  # out of the band, but for the first row, which has nothing above it
        np.less(best[:-1], best[1:], out=other[1:])
        other[0] = True
        move += np.multiply(other, _KEPT, dtype=np.uint8)
    return _trace(moves, lens_a, lens_b, lows)


def _highest(table: NDArray[Any], spare: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The highest so far in every column, in doubling steps (``accumulate`` takes twice as long). Overwrites both."""
    step = 1
    while step < len(table):
        np.maximum(table[step:], table[:-step], out=spare[step:])
        spare[:step] = table[:step]
        table, spare = spare, table
        step *= 2
    return table, spare


_OVER, _KEPT, _LONGER = np.uint8(1), np.uint8(2), np.uint8(4)
"""Of a cell: the best alignment up to it does without the word of a; else it needs the word of b; and if the two are
kept, the words before are of the same run."""


def _edges(sides: list[Side]) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """Where sentences begin, and where they end."""
    return [x.starts for x in sides], [np.append(x.starts[1:], True) for x in sides]


def _trace(
    moves: NDArray[np.uint8], lens_a: NDArray[np.int64], lens_b: NDArray[np.int64], lows: NDArray[np.int64]
) -> Match:
    """Walk back from the end of every pair of the batch, all at once."""
    n, width, size = moves.shape
    match = np.full((size, n), -1, dtype=np.int32)
    moves, flat = moves.reshape(-1), match.reshape(-1)
    which = np.arange(size)
    i, c = lens_a - 1, lens_b - lens_a - lows
    inside = np.zeros(size, dtype=bool)  # in a run: the words at (i, c) are kept
    while len(which):
        move = moves[(i * width + c) * size + which]
        keep = inside | (move & (_OVER | _KEPT) == _KEPT)
        up = ~inside & (move & _OVER > 0)
        j = i + c + lows
        flat[(which * n + i)[keep]] = j[keep]
        inside = keep & (move >= _LONGER)
        back = keep | up
        i, c = i - back, c + up - ~back
        left = (i >= 0) & (i + c + lows >= 0)
        if not left.all():
            which, i, c, inside, lows = which[left], i[left], c[left], inside[left], lows[left]
    return match
