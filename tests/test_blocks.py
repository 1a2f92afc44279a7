"""The block aligner is exact, the same both ways and in any batch, and cuts where a reader would."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import compare, compare_ids, opcodes, project
from tokalign.core import align, diff
from tokalign.core.align import Side, align_blocks
from tokalign.core.diff import AlignOptions, changes

WORDS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=7)
Words = list[tuple[int, bool]]


def side(words: Words) -> Side:
    starts = np.array([i == 0 or s for i, (_, s) in enumerate(words)], dtype=bool)
    return Side(np.array([w for w, _ in words], dtype=np.int32), starts)


def runs(pairs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    out: list[list[tuple[int, int]]] = []
    for i, j in pairs:
        if out and out[-1][-1] == (i - 1, j - 1):
            out[-1].append((i, j))
        else:
            out.append([(i, j)])
    return out


def worth(pairs: list[tuple[int, int]], n: int, m: int, cost: int) -> int:
    """Words kept, less the cost of every run that is at neither end of both texts."""
    free = sum((run[0] == (0, 0)) + (run[-1] == (n - 1, m - 1)) for run in runs(pairs))
    return len(pairs) - cost * (len(runs(pairs)) - free)


def best_worth(a: Side, b: Side, cost: int) -> int:
    """By trying everything."""
    n, m = len(a.ids), len(b.ids)

    @cache
    def rest(i: int, j: int, inside: bool) -> int:
        refund = cost if inside and (i, j) == (n, m) else 0
        if i == n or j == m:
            return refund
        options = [rest(i + 1, j, False), rest(i, j + 1, False)]
        if a.ids[i] == b.ids[j]:
            price = 0 if inside or (i, j) == (0, 0) else cost
            options.append(1 - price + rest(i + 1, j + 1, True))
        return max(options)

    return rest(0, 0, False)


def pairs_of(match: np.ndarray) -> list[tuple[int, int]]:
    return [(int(i), int(match[i])) for i in np.flatnonzero(match >= 0)]


@settings(max_examples=300)
@given(WORDS, WORDS, st.integers(0, 3))
def test_no_alignment_is_worth_more(one: Words, other: Words, cost: int) -> None:
    a, b = side(one), side(other)
    (match,) = align_blocks([(a, b)], cost)
    found = pairs_of(match)
    assert all(a.ids[i] == b.ids[j] for i, j in found), "unequal words are never called equal"
    assert all(p[1] < q[1] for p, q in pairwise(found))
    assert worth(found, len(a.ids), len(b.ids), cost) == best_worth(a, b, cost)


@settings(max_examples=300)
@given(WORDS, WORDS, st.integers(0, 3))
def test_swapped_sides_keep_the_same_words(one: Words, other: Words, cost: int) -> None:
    there, back = align_blocks([(side(one), side(other)), (side(other), side(one))], cost)
    assert pairs_of(there) == [(i, j) for j, i in pairs_of(back)]


@given(st.lists(st.tuples(WORDS, WORDS), max_size=8), st.integers(0, 3), st.sampled_from([1, 40, 10_000]))
def test_a_pair_is_aligned_the_same_in_any_batch(pairs: list[tuple[Words, Words]], cost: int, cells: int) -> None:
    sides = [(side(a), side(b)) for a, b in pairs]
    before, align.CELLS = align.CELLS, cells
    try:
        together = align_blocks(sides, cost)
    finally:
        align.CELLS = before
    assert [m.tolist() for m in together] == [align_blocks([pair], cost)[0].tolist() for pair in sides]


def test_long_texts_need_larger_numbers() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 500, 3000).astype(np.int32)
    a, b = Side(ids, np.arange(3000) == 0), Side(np.delete(ids, [5, 1500, 1501]), np.arange(2997) == 0)
    (match,) = align_blocks([(a, b)], 2)
    assert np.flatnonzero(match < 0).tolist() == [5, 1500, 1501]


CUTS = [
    ("The cat sat. The dog ran.", "The dog ran.", ["The cat sat."], []),
    ("The dog ran. The cat sat.", "The dog ran.", [" The cat sat."], []),
    ("One two. The cat sat. The dog ran.", "One two. The dog ran.", [" The cat sat."], []),
    ("I saw the old man in the park.", "I met a young man at the lake.", ["saw the old man in the park"], None),
    ("Boil it for the usual ten minutes.", "Boil it for five minutes.", [" the usual ten"], [" five"]),
    ("a  b c d e", "a b c d e", ["  "], [" "]),
]


@pytest.mark.parametrize(("original", "edited", "removed", "put_in"), CUTS)
def test_edits_are_those_a_reader_would_name(
    original: str, edited: str, removed: list[str], put_in: list[str] | None
) -> None:
    changed = changes(opcodes(original, edited))
    assert [original[op.i1 : op.i2].strip() for op in changed if op.i1 < op.i2] == [t.strip() for t in removed]
    if put_in is not None:
        assert [edited[op.j1 : op.j2].strip() for op in changed if op.j1 < op.j2] == [t.strip() for t in put_in]


def test_a_word_that_only_moved_to_the_front_of_the_text_is_kept() -> None:
    original, edited = "Well. The dog ran.", "The dog ran."
    offsets = [(0, 4), (4, 5), (5, 9), (9, 18)], [(0, 3), (3, 12)]
    a, b = project(compare(original, edited), original, edited, *offsets)
    assert a.tolist() == [1, 1, 0, 0]
    assert b.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("merge", "whole", "removed"),
    [
        # "old man" is a run of two: kept if a run may be as short; then a sentence of which most changed goes whole.
        (0, diff.NEVER, ["saw the", "in", "cold park"]),
        (2, diff.NEVER, ["saw the old man in the cold park"]),
        (0, 0.5, ["I saw the old man in the cold park."]),
    ],
)
def test_merging_and_whole_sentences(merge: int, whole: float, removed: list[str]) -> None:
    original, edited = "So. I saw the old man in the cold park.", "So. I met an old man at the lake."
    found = changes(opcodes(original, edited, AlignOptions("blocks", merge, whole)))
    assert [original[op.i1 : op.i2].strip() for op in found if op.i1 < op.i2] == removed


def test_where_one_side_of_an_edit_holds_all_of_the_other_nothing_was_removed() -> None:
    original, edited = "Boil it. Then cool.", "Boil it and stir it well at once. Then cool."
    assert [op.tag for op in changes(opcodes(original, edited))] == ["insert"]
    original, edited = "One a two b three.", "One x a y z u two v w s b t three."
    assert {op.tag for op in changes(opcodes(original, edited, AlignOptions("blocks", 2, diff.NEVER)))} == {"insert"}


def test_tokens_are_aligned_in_blocks_too() -> None:
    found = diff.opcodes(compare_ids([1, 2, 9, 3, 4, 5, 6], [1, 2, 7, 8, 3, 4, 5, 6], AlignOptions()))
    assert [tuple(op) for op in found] == [("equal", 0, 2, 0, 2), ("replace", 2, 3, 2, 4), ("equal", 3, 7, 4, 8)]
