"""An alignment that follows how people edit: words kept in long runs, many pairs at a time.

What is optimised: the number of words kept, less ``cost`` for every run of kept words that is at neither end of
both texts. A run of ``cost`` words or fewer in the middle of an edit is thus never kept: a person who rewrote a
sentence did not keep its "the". With ``cost`` 0 this is the longest common subsequence. Of alignments that are
equally good, those whose runs begin and end with a sentence come first: of "The cat sat. The dog ran." with a
sentence removed, a whole sentence was removed.

It is solved exactly, by dynamic programming over rows of a whole batch: no Python loop runs over the words of a pair.
A longest common subsequence bounds how far from the diagonal the best alignment can be, and only that band is filled.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel

Match = NDArray[np.int32]
"""(n,): for each word of the one side, its word on the other, -1 for none; rising where it is not -1."""

CELLS = 2_000_000
"""Cells of the table worked on at a time."""

_WORD = 4
"""What a kept word counts in the table; a run that begins, or ends, with a sentence counts 1 more."""


class Side(NamedTuple):
    """One text. ``ids`` (n,) int64: equal ids stand for equal words. ``starts`` (n,) bool: it begins a sentence."""

    ids: NDArray[np.int64]
    starts: NDArray[np.bool_]

    def part(self, start: int, end: int) -> "Side":
        """Words ``start`` to ``end``."""
        return Side(self.ids[start:end], self.starts[start:end])


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


def _band(a: Side, b: Side, cost: int) -> tuple[int, int]:
    """The lowest and the highest diagonal that the best alignment can touch.

    A longest common subsequence is an alignment, so the best is worth no less; one that leaves the diagonals between
    the corners by d words keeps at most ``len(a) - d``.
    """
    n, m = len(a.ids), len(b.ids)
    floor = 0
    for op in Indel.opcodes(a.ids.tolist(), b.ids.tolist()):
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


def _laid(rows: Sequence[NDArray[Any]], leads: Sequence[int], width: int, fill: int, kind: Any) -> NDArray[Any]:
    """(B, width): each row after so many places, ``fill`` around it."""
    out = np.full((len(rows), width), fill, dtype=kind)
    for line, row, lead in zip(out, rows, leads, strict=True):
        line[lead : lead + len(row)] = row[: width - lead]
    return out


def _solve(batch: list[_Middle], cost: int) -> Match:
    """(B, n): the best alignment of each pair."""
    short, long = [x.a for x in batch], [x.b for x in batch]
    lens_a, lens_b = (np.array([len(x.ids) for x in some]) for some in (short, long))
    lows = np.array([x.low for x in batch])
    size, n, width = len(batch), int(lens_a.max()), max(x.width for x in batch)
    small = (_WORD + 2) * (n + 2) + _WORD * cost < 2**13
    number: Any = np.int16 if small else np.int32
    never, price = number(-(2**14) if small else -(2**30)), number(_WORD * cost)
    # Cell (i, c) of pair k is for words i of a and j = i + lows[k] + c of b: b is laid so that j stands at i + c.
    leads, flat = (-lows).tolist(), [0] * size
    a, b = _laid([x.ids for x in short], flat, n, 0, np.int64), _laid([x.ids for x in long], leads, n + width, 0, np.int64)
    inside = _laid([np.ones(len(x.ids)) for x in long], leads, n + width, 0, bool)
    begins_a, begins_b = _laid([x.starts for x in short], flat, n, 0, number), _laid(
        [x.starts for x in long], leads, n + width, 0, number
    )
    ends_a = _laid([np.append(x.starts[1:], True) for x in short], flat, n, 0, number)
    ends_b = _laid([np.append(x.starts[1:], True) for x in long], leads, n + width, 0, number)
    # best: of the words up to i and up to j; run: the same, where the last word of both is kept.
    best = np.zeros((size, width), dtype=number)
    run = np.full((size, width), never, dtype=number)
    over = np.full((size, width), never, dtype=number)  # best without word i of a
    kept = np.ones((n, size, width), dtype=bool)  # the best alignment up to here needs word j
    longer = np.zeros((n, size, width), dtype=bool)  # … and the word before is of the same run
    above = np.zeros((n, size, width), dtype=bool)  # … or it does without word i
    which = np.arange(size)
    for i in range(n):
        part = slice(i, i + width)
        # Bonus of a run that begins, or ends, with a sentence; at both beginnings, and both ends, a run is free.
        start = best + (begins_b[:, part] & begins_a[:, i, None])
        start -= price
        if i == 0:
            start[which, -lows] += price
        np.greater(run, start, out=longer[i])
        np.maximum(run, start, out=run)
        run += number(_WORD)
        run[(b[:, part] != a[:, i, None]) | ~inside[:, part]] = never
        done = run + (ends_b[:, part] & ends_a[:, i, None])
        last = np.flatnonzero(lens_a == i + 1)
        done[last, (lens_b - lens_a - lows)[last]] += price
        over[:, :-1] = best[:, 1:]
        np.maximum(over, done, out=best)
        np.maximum.accumulate(best, axis=1, out=best)
        np.equal(over, best, out=above[i])
        np.less(best[:, :-1], best[:, 1:], out=kept[i, :, 1:])
    return _trace(kept, longer, above, lens_a, lens_b, lows)


def _trace(
    kept: NDArray[np.bool_],
    longer: NDArray[np.bool_],
    above: NDArray[np.bool_],
    lens_a: NDArray[np.int64],
    lens_b: NDArray[np.int64],
    lows: NDArray[np.int64],
) -> Match:
    """Walk back from the end of every pair of the batch, all at once."""
    n, size, _ = kept.shape
    match = np.full((size, n), -1, dtype=np.int32)
    which = np.arange(size)
    i, c = lens_a - 1, lens_b - lens_a - lows
    inside = np.zeros(size, dtype=bool)  # in a run: the word at (i, j) is kept
    while len(which):
        up = ~inside & above[i, which, c]
        keep = inside | (~up & kept[i, which, c])
        match[which[keep], i[keep]] = (i + lows + c)[keep]
        inside = keep & longer[i, which, c]
        i, c = i - (keep | up), c + up - ~(keep | up)
        left = (i >= 0) & (i + lows + c >= 0)
        if not left.all():
            which, i, c, inside, lows = which[left], i[left], c[left], inside[left], lows[left]
    return match
