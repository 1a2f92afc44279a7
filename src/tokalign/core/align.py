"""Block alignment: keeps words in long runs, as people do when they edit. Aligns many pairs at a time.

The objective is the number of kept words, minus ``cost`` for every run of kept words. A run at the beginning of both
texts, or at the end of both, is free. Inside an edit, a run of at most ``cost`` words is therefore never kept: someone
who rewrites a sentence does not keep its "the". With ``cost`` 0 this is the longest common subsequence. Ties prefer
runs that begin and end at sentence boundaries: if one sentence of "The cat sat. The dog ran." is removed, the edit is
that sentence.

The optimum is found by dynamic programming, vectorised over a batch of pairs and the diagonals of each row. The
length of a longest common subsequence bounds how far the best alignment is from the diagonal; only that band is
computed.
"""

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel

Places = NDArray[np.int64]
Match = NDArray[np.int32]
"""(n,): for each word of one text, the index of the matching word of the other, or -1; increasing where not -1."""

CELLS = 2_000_000
"""Maximum number of table cells in a batch."""

_WORD = 4
"""Score of a kept word; a run that begins, or ends, at a sentence boundary scores 1 more for each."""


class Side(NamedTuple):
    """The words of one text."""

    ids: NDArray[np.int32]
    """(n,): non-negative ids; equal words have equal ids."""
    starts: NDArray[np.bool_]
    """(n,): True if the word begins a sentence."""

    def part(self, start: int, end: int) -> "Side":
        """Words ``[start, end)``."""
        return Side(self.ids[start:end], self.starts[start:end])

    def part_at(self, places: Places) -> "Side":
        """Words at the indices ``places``."""
        return Side(self.ids.take(places), self.starts.take(places))


class _Middle(NamedTuple):
    """The part of pair ``k`` between its common prefix and suffix.

    ``a`` is never longer than ``b``; ``swapped`` says that ``a`` is part of the second text of the pair. The best
    alignment stays on the diagonals (index in ``b`` minus index in ``a``) ``low`` to ``high``, inclusive.
    """

    k: int
    prefix: int
    """Words in the common prefix."""
    swapped: bool
    a: Side
    b: Side
    low: int
    high: int

    @property
    def width(self) -> int:
        """Number of diagonals in the band."""
        return self.high - self.low + 1


def align_blocks(pairs: Sequence[tuple[Side, Side]], cost: int) -> list[Match]:
    """Align pairs of texts.

    The result is symmetric: swapping the two texts of a pair gives the inverse mapping.

    Args:
        pairs: the two texts of each pair.
        cost: penalty of a run of kept words, in words (see the module docstring).

    Returns:
        For each pair, the index of the matching word of the second text for each word of the first, or -1.
    """
    matches: list[Match] = []
    middles: list[_Middle] = []
    prefixes, suffixes = _common_ends(pairs)
    for k, ((a, b), prefix, suffix) in enumerate(zip(pairs, prefixes.tolist(), suffixes.tolist(), strict=True)):
        n, m = len(a.ids), len(b.ids)
        match = np.full(n, -1, dtype=np.int32)
        match[:prefix] = np.arange(prefix)
        match[n - suffix :] = np.arange(m - suffix, m)
        matches.append(match)
        one, other = a.part(prefix, n - suffix), b.part(prefix, m - suffix)
        if len(one.ids) and len(other.ids):
            # A canonical order of the two texts, so that ties are broken the same way if they are swapped.
            swapped = (len(one.ids), one.ids.tobytes()) > (len(other.ids), other.ids.tobytes())
            short, long = (other, one) if swapped else (one, other)
            middles.append(_Middle(k, prefix, swapped, short, long, *_band(short, long, cost)))
    for batch in _batches(middles):
        for middle, match in zip(batch, _solve(batch, cost), strict=True):
            rows = np.flatnonzero(match >= 0)
            columns = match[rows]
            if middle.swapped:
                rows, columns = columns, rows
            matches[middle.k][middle.prefix + rows] = middle.prefix + columns
    return matches


def _common_ends(pairs: Sequence[tuple[Side, Side]]) -> tuple[Places, Places]:
    """(N,) each: words in the common prefix and in the common suffix of each pair, both in whole sentences."""
    if not pairs:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    sides = [Side(*(np.concatenate(part) for part in zip(*some, strict=True))) for some in zip(*pairs, strict=True)]
    sizes = np.array([[len(side.ids) for side in pair] for pair in pairs]).T
    first = np.cumsum(sizes, axis=1) - sizes
    same, sentence = _common_run(sides, first, sizes.min(axis=0), 1)
    prefixes = np.where((same == sizes).all(axis=0), same, np.maximum(sentence, 0))
    return prefixes, _common_run(sides, first + sizes - 1, sizes.min(axis=0) - prefixes, -1)[1] + 1


def _common_run(sides: Sequence[Side], first: Places, limits: Places, step: int) -> tuple[Places, Places]:
    """Count equal words from given positions on.

    Args:
        sides: the words of the first texts, joined, and of the second texts, joined.
        first: (2, N): where to start in each side.
        limits: (N,): number of words to compare.
        step: 1 to go forwards, -1 to go backwards.

    Returns:
        (N,) length of each run of equal words; and (N,) distance from ``first`` of the last word of the run that
        begins a sentence in both texts, or -1.
    """
    ends = np.cumsum(limits)
    begins = ends - limits
    along = step * np.arange(ends[-1])
    a, b = (side.part_at(along + np.repeat(at - step * begins, limits)) for side, at in zip(sides, first, strict=True))
    differ = np.append(np.flatnonzero(a.ids != b.ids), ends[-1])
    same = np.minimum(differ[np.searchsorted(differ, begins)], ends) - begins
    starts = np.append(-1, np.flatnonzero(a.starts & b.starts))
    sentence = starts[np.searchsorted(starts, begins + same) - 1] - begins
    return same, np.maximum(sentence, -1)


def _band(a: Side, b: Side, cost: int) -> tuple[int, int]:
    """Lowest and highest diagonal that the best alignment can touch.

    A longest common subsequence is an alignment, so the best one scores at least as much. An alignment that goes d
    diagonals beyond those of the two corners keeps at most ``len(a) - d`` words.
    """
    n, m = len(a.ids), len(b.ids)
    floor = 0
    for op in Indel.opcodes(array("i", a.ids.tobytes()), array("i", b.ids.tobytes())):
        if op.tag == "equal":
            outer = (op.src_start == op.dest_start == 0) + (op.src_end == n and op.dest_end == m)
            floor += max(0, _WORD * (op.src_end - op.src_start) - _WORD * cost * (1 - outer))
    bonus = 4 if cost else 2 * int(a.starts.sum()) + 2  # upper bound of the scores for sentence boundaries
    reach = n + (bonus - floor) // _WORD
    return max(-reach, 1 - n), min(m - n + reach, m - 1)


def _batches(middles: list[_Middle]) -> list[list[_Middle]]:
    """Group pairs of similar size, with at most :data:`CELLS` table cells per batch."""
    batches: list[list[_Middle]] = []
    high = wide = 0
    for middle in sorted(middles, key=lambda x: (len(x.a.ids) // 32, x.width)):
        high, wide = max(high, len(middle.a.ids)), max(wide, middle.width)
        if not batches or (len(batches[-1]) + 1) * high * wide > CELLS:
            batches.append([])
            high, wide = len(middle.a.ids), middle.width
        batches[-1].append(middle)
    return batches


def _columns(rows: Sequence[NDArray[Any]], offsets: Sequence[int], height: int, fill: int, dtype: Any) -> NDArray[Any]:
    """(height, B): column k has ``rows[k]`` from index ``offsets[k]`` on, and ``fill`` elsewhere."""
    out = np.full((len(rows), height), fill, dtype=dtype)
    for line, row, offset in zip(out, rows, offsets, strict=True):
        line[offset : offset + len(row)] = row[: height - offset]
    return np.ascontiguousarray(out.T)


def _solve(batch: list[_Middle], cost: int) -> Match:
    """(B, n): the best alignment of each pair, as a :data:`Match`."""
    short, long = [x.a for x in batch], [x.b for x in batch]
    lens_a, lens_b = (np.array([len(x.ids) for x in some]) for some in (short, long))
    lows = np.array([x.low for x in batch])
    size, n, width = len(batch), int(lens_a.max()), max(x.width for x in batch)
    dtype: Any = np.int16 if (_WORD + 2) * (n + 2) + _WORD * cost < 2**13 else np.int32
    minus_infinity = dtype(-(2**14) if dtype is np.int16 else -(2**30))
    penalty, word = dtype(_WORD * cost), dtype(_WORD)
    # Cell (c, k) of row i compares word i of a with word j = i + lows[k] + c of b; b is shifted so that j is at i + c.
    zeros, offsets, height = [0] * size, (-lows).tolist(), n + width
    a, b = (
        _columns([x.ids for x in short], zeros, n, -1, np.int32),
        _columns([x.ids for x in long], offsets, height, -2, np.int32),
    )
    begins_a, ends_a = (_columns(x, zeros, n, 0, dtype) for x in _edges(short))
    begins_b, ends_b = (_columns(x, offsets, height, 0, dtype) for x in _edges(long))
    # best: score of the words up to i and up to j; run: the same, if words i and j are kept.
    best = np.zeros((width, size), dtype=dtype)
    run = np.full((width, size), minus_infinity, dtype=dtype)
    skip_a = np.zeros((width, size), dtype=dtype)  # best without word i of a
    start, buffer, flags = np.empty_like(best), np.empty_like(best), np.empty((width, size), dtype=bool)
    moves = np.empty((n, width, size), dtype=np.uint8)
    which = np.arange(size)
    for i in range(n):
        band = slice(i, i + width)
        # 1 for a run that begins (ends) at a sentence boundary; no penalty at the beginning (end) of both texts.
        np.bitwise_and(begins_b[band], begins_a[i], out=start)
        start += best
        start -= penalty
        if i == 0:
            start[-lows, which] += penalty
        move = moves[i]
        np.greater(run, start, out=flags)
        np.multiply(flags, _EXTEND, out=move)
        np.maximum(run, start, out=run)
        run += word
        np.not_equal(b[band], a[i], out=flags)
        np.copyto(run, minus_infinity, where=flags)
        done = np.bitwise_and(ends_b[band], ends_a[i], out=start)
        done += run
        last = np.flatnonzero(lens_a == i + 1)
        done[(lens_b - lens_a - lows)[last], last] += penalty
        skip_a[:-1] = best[1:]
        np.maximum(skip_a, done, out=best)
        best, buffer = _running_max(best, buffer)
        move += np.equal(skip_a, best, out=flags)
        skip_a[-1] = minus_infinity  # outside the band; for i = 0 it stays 0, the score of no words
        np.less(best[:-1], best[1:], out=flags[1:])
        flags[0] = True
        move += np.multiply(flags, _NEED_B, dtype=np.uint8)
    return _trace(moves, lens_a, lens_b, lows)


def _running_max(table: NDArray[Any], buffer: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Running maximum along axis 0, in doubling steps (twice as fast as ``accumulate``).

    Overwrites both arrays. Returns the result and the array that is free again.
    """
    step = 1
    while step < len(table):
        np.maximum(table[step:], table[:-step], out=buffer[step:])
        buffer[:step] = table[:step]
        table, buffer = buffer, table
        step *= 2
    return table, buffer


_SKIP_A, _NEED_B, _EXTEND = np.uint8(1), np.uint8(2), np.uint8(4)
"""Bits of a cell: a best alignment up to it skips the word of a; every best one uses the word of b; if both words are
kept, they extend the run of the previous words."""


def _edges(sides: list[Side]) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """For every word of each text, whether it begins a sentence; and whether it ends one."""
    return [x.starts for x in sides], [np.append(x.starts[1:], True) for x in sides]


def _trace(
    moves: NDArray[np.uint8], lens_a: NDArray[np.int64], lens_b: NDArray[np.int64], lows: NDArray[np.int64]
) -> Match:
    """(B, n): backtrack from the end of all pairs of the batch at once."""
    n, width, size = moves.shape
    match = np.full((size, n), -1, dtype=np.int32)
    moves, flat = moves.reshape(-1), match.reshape(-1)
    which = np.arange(size)
    i, c = lens_a - 1, lens_b - lens_a - lows
    inside = np.zeros(size, dtype=bool)  # inside a run: the words at (i, c) are kept
    while len(which):
        move = moves[(i * width + c) * size + which]
        keep = inside | (move & (_SKIP_A | _NEED_B) == _NEED_B)
        up = ~inside & (move & _SKIP_A > 0)
        j = i + c + lows
        flat[(which * n + i)[keep]] = j[keep]
        inside = keep & (move >= _EXTEND)
        back = keep | up
        i, c = i - back, c + up - ~back
        active = (i >= 0) & (i + c + lows >= 0)
        if not active.all():
            which, i, c, inside, lows = which[active], i[active], c[active], inside[active], lows[active]
    return match
