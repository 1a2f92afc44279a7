"""The block aligner is exact, the same both ways and in any batch, and cuts where a reader would."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_diff import PIECES, TEXT
from tokalign.core import blocks, diff
from tokalign.core.blocks import Side, align_blocks
from tokalign.core.diff import apply, block_opcodes, label_texts

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
    before, blocks.CELLS = blocks.CELLS, cells
    try:
        together = align_blocks(sides, cost)
    finally:
        blocks.CELLS = before
    assert [m.tolist() for m in together] == [align_blocks([pair], cost)[0].tolist() for pair in sides]


def test_long_texts_need_larger_numbers() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 500, 3000).astype(np.int32)
    a, b = Side(ids, np.arange(3000) == 0), Side(np.delete(ids, [5, 1500, 1501]), np.arange(2997) == 0)
    (match,) = align_blocks([(a, b)], 2)
    assert np.flatnonzero(match < 0).tolist() == [5, 1500, 1501]


@given(TEXT, TEXT, st.integers(0, 3), st.sampled_from([0.5, 0.8, 2.0]))
def test_applying_the_opcodes_gives_the_edited_text(original: str, edited: str, cost: int, whole: float) -> None:
    (opcodes,) = block_opcodes([(original, edited)], cost, whole)
    assert apply(opcodes, original, edited) == edited
    ends = [(0, 0), *[(op.i2, op.j2) for op in opcodes]]
    assert [(op.i1, op.j1) for op in opcodes] == ends[:-1]
    assert ends[-1] == (len(original), len(edited))
    for tag, i1, i2, j1, j2 in opcodes:
        assert (tag == "equal") <= (original[i1:i2] == edited[j1:j2])
        assert (i1 < i2, j1 < j2) == {"insert": (False, True), "delete": (True, False)}.get(tag, (True, True))


@given(TEXT, TEXT)
def test_swapped_texts_swap_the_opcodes(original: str, edited: str) -> None:
    mirror = {"insert": "delete", "delete": "insert"}
    there, back = block_opcodes([(original, edited), (edited, original)])
    assert [(mirror.get(t, t), j1, j2, i1, i2) for t, i1, i2, j1, j2 in back] == [tuple(op) for op in there]


@given(st.lists(st.sampled_from(PIECES[:6]), max_size=30).map("".join))
def test_no_edit_changes_nothing(text: str) -> None:
    (opcodes,) = block_opcodes([(text, text)])
    assert all(op.tag == "equal" for op in opcodes)


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
    (opcodes,) = block_opcodes([(original, edited)])
    changed = [op for op in opcodes if op.tag != "equal"]
    assert [original[op.i1 : op.i2].strip() for op in changed if op.i1 < op.i2] == [t.strip() for t in removed]
    if put_in is not None:
        assert [edited[op.j1 : op.j2].strip() for op in changed if op.j1 < op.j2] == [t.strip() for t in put_in]


def test_a_word_that_only_moved_to_the_front_of_the_text_is_kept() -> None:
    original, edited = "Well. The dog ran.", "The dog ran."
    (opcodes,) = block_opcodes([(original, edited)])
    a, b = label_texts(opcodes, original, edited, [(0, 4), (4, 5), (5, 9), (9, 18)], [(0, 3), (3, 12)])
    assert a.labels.tolist() == [-1, -1, 0, 0]
    assert b.labels.tolist() == [0, 0]


def test_tokens_are_aligned_in_blocks_too() -> None:
    (opcodes,) = diff.align_tokens([([1, 2, 9, 3, 4, 5, 6], [1, 2, 7, 8, 3, 4, 5, 6])], 2)
    assert [tuple(op) for op in opcodes] == [("equal", 0, 2, 0, 2), ("replace", 2, 3, 2, 4), ("equal", 3, 7, 4, 8)]
