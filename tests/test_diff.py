"""Opcodes turn one side into the other, and every token gets the label that its characters earned."""

from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokalign.core.diff import (
    Labels,
    Offsets,
    Opcode,
    align,
    apply,
    group_edits,
    label_texts,
    label_tokens,
    project,
    similarity,
    undo,
    word_opcodes,
    words,
)

PIECES = [
    "The",
    " sea",
    "a",
    " a",
    ".",
    ",",
    " ",
    "\r\n",
    "\0",
    "e\u0301",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
]
PIECES += ["שלום", " \u202e", "漢字", "字", "\u00a0", "ß", "_", "\t\t"]
TEXT = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=10).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=15),
)


def label_by_words(original: str, edited: str, a: Offsets, b: Offsets) -> tuple[Labels, Labels]:
    return label_texts(word_opcodes(original, edited), original, edited, a, b)


TOKENS = st.lists(st.integers(0, 3), max_size=7)


def brute_distance(a: list[int], b: list[int]) -> int:
    @cache
    def rest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        if a[i] == b[j]:
            return rest(i + 1, j + 1)
        return 1 + min(rest(i + 1, j), rest(i, j + 1), rest(i + 1, j + 1))

    return rest(0, 0)


def brute_lcs(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    return brute_lcs(a[1:], b[1:]) + 1 if a[0] == b[0] else max(brute_lcs(a[1:], b), brute_lcs(a, b[1:]))


def cost(opcodes: list[Opcode]) -> int:
    return sum(max(op.i2 - op.i1, op.j2 - op.j1) for op in opcodes if op.tag != "equal")


@given(TEXT)
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text
    assert all(words(text))


def test_words_carry_the_white_space_before_them() -> None:
    assert words("The sea, a\r\n\tpage.  ") == ["The", " sea", ",", " a", "\r\n\tpage", ".", "  "]


@given(TEXT, TEXT)
def test_applying_the_opcodes_gives_the_edited_text(original: str, edited: str) -> None:
    assert apply(word_opcodes(original, edited), original, edited) == edited


@given(TEXT, TEXT)
def test_opcodes_cover_both_sides_in_order(original: str, edited: str) -> None:
    opcodes = word_opcodes(original, edited)
    ends = [(0, 0), *[(op.i2, op.j2) for op in opcodes]]
    assert [(op.i1, op.j1) for op in opcodes] == ends[:-1]
    assert ends[-1] == (len(original), len(edited))


@given(TEXT, TEXT)
def test_a_tag_says_what_happens_to_the_text(original: str, edited: str) -> None:
    for tag, i1, i2, j1, j2 in word_opcodes(original, edited):
        before, after = original[i1:i2], edited[j1:j2]
        assert (before == after) == (tag == "equal")
        assert (bool(before), bool(after)) == {"insert": (False, True), "delete": (True, False)}.get(tag, (True, True))


@given(TOKENS, TOKENS)
def test_align_costs_no_more_than_the_optimum(original: list[int], edited: list[int]) -> None:
    assert cost(align(original, edited)) == brute_distance(original, edited)


@given(TOKENS, TOKENS)
def test_align_costs_the_same_both_ways(original: list[int], edited: list[int]) -> None:
    assert cost(align(original, edited)) == cost(align(edited, original))


@given(TOKENS, TOKENS)
def test_swapping_the_sides_of_the_opcodes_swaps_the_signs(original: list[int], edited: list[int]) -> None:
    opcodes = align(original, edited)
    mirror = {"insert": "delete", "delete": "insert"}
    swapped = [Opcode(mirror.get(tag, tag), j1, j2, i1, i2) for tag, i1, i2, j1, j2 in opcodes]  # type: ignore[arg-type]
    a, b = label_tokens(opcodes, len(original), len(edited))
    b_swapped, a_swapped = label_tokens(swapped, len(edited), len(original))
    assert a_swapped.labels.tolist() == (-a.labels).tolist()
    assert b_swapped.labels.tolist() == (-b.labels).tolist()
    assert (a_swapped.spans.tolist(), b_swapped.spans.tolist()) == (a.spans.tolist(), b.spans.tolist())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=10))
def test_pure_insertion_labels_what_came_in_and_pure_deletion_what_went(marked: list[tuple[str, bool]]) -> None:
    longer, shorter = [w for w, _ in marked], [w for w, kept in marked if kept]
    extra = Counter(longer) - Counter(shorter)
    before, after = label_tokens(align(shorter, longer), len(shorter), len(longer))
    assert not before.labels.any()
    assert Counter(w for w, z in zip(longer, after.labels, strict=True) if z == 1) == extra
    before, after = label_tokens(align(longer, shorter), len(longer), len(shorter))
    assert not after.labels.any()
    assert Counter(w for w, z in zip(longer, before.labels, strict=True) if z == -1) == extra


@given(TOKENS, TOKENS)
def test_every_token_has_one_label_and_a_span_when_it_changed(original: list[int], edited: list[int]) -> None:
    opcodes = align(original, edited)
    a, b = label_tokens(opcodes, len(original), len(edited))
    assert (len(a.labels), len(b.labels)) == (len(original), len(edited))
    assert set(a.labels.tolist()) <= {-1, 0}
    assert set(b.labels.tolist()) <= {0, 1}
    for side in (a, b):
        assert ((side.spans > 0) == (side.labels != 0)).all()
        assert side.labels.dtype == np.int8
        assert side.spans.dtype == np.int32
    used = {*a.spans.tolist(), *b.spans.tolist()} - {0}
    assert used == set(range(1, len(group_edits(opcodes)) + 1))


def test_labels_of_hand_written_opcodes() -> None:
    opcodes = [
        Opcode("replace", 0, 1, 0, 2),
        Opcode("delete", 1, 2, 2, 2),
        Opcode("equal", 2, 4, 2, 4),
        Opcode("insert", 4, 4, 4, 5),
        Opcode("equal", 4, 5, 5, 6),
        Opcode("replace", 5, 6, 6, 7),
    ]
    original, edited = label_tokens(opcodes, 6, 7)
    assert original.labels.tolist() == [-1, -1, 0, 0, 0, -1]
    assert original.spans.tolist() == [1, 1, 0, 0, 0, 3]
    assert edited.labels.tolist() == [1, 1, 0, 0, 1, 0, 1]
    assert edited.spans.tolist() == [1, 1, 0, 0, 2, 0, 3]
    assert group_edits(opcodes) == [opcodes[:2], opcodes[3:4], opcodes[5:]]


@given(TOKENS, TOKENS)
def test_edits_are_runs_of_changes_parted_by_equal_text(original: list[int], edited: list[int]) -> None:
    opcodes = align(original, edited)
    edits = group_edits(opcodes)
    assert [op for edit in edits for op in edit] == [op for op in opcodes if op.tag != "equal"]
    assert all(left[-1].i2 < right[0].i1 and left[-1].j2 < right[0].j1 for left, right in pairwise(edits))


@given(TEXT, TEXT)
def test_undoing_every_edit_from_the_last_to_the_first_gives_the_original(original: str, edited: str) -> None:
    text = edited
    for edit in reversed(group_edits(word_opcodes(original, edited))):
        text = undo(original, text, edit)
    assert text == original


@given(TEXT, TEXT, TEXT, TEXT)
def test_undoing_the_only_edit_gives_the_original(head: str, old: str, new: str, tail: str) -> None:
    original, edited = head + old + tail, head + new + tail
    edits = group_edits(word_opcodes(original, edited))
    if len(edits) == 1:
        assert undo(original, edited, edits[0]) == original
    assert bool(edits) == (original != edited)


def test_undo_takes_back_one_edit_and_leaves_the_others() -> None:
    original, edited = "The old cat sat down.", "The young cat sat."
    first, second = group_edits(word_opcodes(original, edited))
    assert undo(original, edited, first) == "The old cat sat."
    assert undo(original, edited, second) == "The young cat sat down."


@given(
    st.lists(st.sampled_from([-1, 0, 0, 1]), max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=10),
)
def test_project_marks_a_token_exactly_when_it_touches_a_changed_character(
    chars: list[int], drawn: list[tuple[int, int]]
) -> None:
    n = len(chars)
    offsets = [(min(start, n), min(start + width, n)) for start, width in drawn]
    spans = [10 + i if z else 0 for i, z in enumerate(chars)]
    got = project(Labels(np.array(chars, np.int8), np.array(spans, np.int32)), offsets, "x" * n)
    expected = [next(((chars[i], spans[i]) for i in range(*o) if chars[i]), (0, 0)) for o in offsets]
    assert list(zip(got.labels.tolist(), got.spans.tolist(), strict=True)) == expected


def test_zero_width_tokens_are_neutral_and_tokens_on_one_character_are_all_marked() -> None:
    chars = Labels(np.array([0, -1, -1], np.int8), np.array([0, 4, 5], np.int32))
    got = project(chars, [(0, 1), (1, 1), (1, 2), (1, 2), (1, 2), (0, 3), (2, 3), (3, 3)], "abc")
    assert got.labels.tolist() == [0, 0, -1, -1, -1, -1, -1, 0]
    assert got.spans.tolist() == [0, 0, 4, 4, 4, 4, 5, 0]


def test_white_space_counts_only_in_tokens_that_are_nothing_else() -> None:
    chars = Labels(np.array([0, -1, 0, -1], np.int8), np.array([0, 1, 0, 2], np.int32))
    got = project(chars, [(0, 1), (1, 3), (1, 2), (2, 4), (3, 4)], "a b ")
    assert got.labels.tolist() == [0, 0, -1, 0, -1]
    assert got.spans.tolist() == [0, 0, 1, 0, 2]


def test_projection_of_no_tokens_is_empty() -> None:
    assert len(project(Labels(np.array([1], np.int8), np.array([1], np.int32)), [], "a").labels) == 0


def test_an_edited_word_is_labelled_whole_whatever_its_subwords_share() -> None:
    # "un|kind| words|!" becomes "un|wise| words|!": by words, the shared "un" changes with its word.
    offsets = [(0, 2), (2, 6), (6, 12), (12, 13), (13, 13)]
    original, edited = label_by_words("unkind words!", "unwise words!", offsets, offsets)
    assert original.labels.tolist() == [-1, -1, 0, 0, 0]
    assert edited.labels.tolist() == [1, 1, 0, 0, 0]
    assert original.spans.tolist() == edited.spans.tolist() == [1, 1, 0, 0, 0]


def test_both_sides_of_a_replacement_share_a_span_and_an_insertion_has_its_own() -> None:
    # 漢 is three byte-level tokens with the offsets of one character.
    original, edited = label_by_words(
        "A 漢 b c",
        "A 字 b so c",
        [(0, 1), (1, 3), (2, 3), (2, 3), (3, 5), (5, 7), (7, 7)],
        [(0, 1), (1, 3), (3, 8), (8, 10)],
    )
    assert original.labels.tolist() == [0, -1, -1, -1, 0, 0, 0]
    assert original.spans.tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert edited.labels.tolist() == [0, 1, 1, 0]
    assert edited.spans.tolist() == [0, 1, 2, 0]


@given(TEXT)
def test_no_edit_leaves_every_token_neutral(text: str) -> None:
    offsets = [(i, i + 1) for i in range(len(text))] + [(len(text), len(text))]
    for side in label_by_words(text, text, offsets, offsets):
        assert side.labels.tolist() == side.spans.tolist() == [0] * len(offsets)
    assert group_edits(word_opcodes(text, text)) == []


@given(TEXT, TEXT)
def test_what_is_not_bad_in_the_original_is_what_is_not_good_in_the_edited(original: str, edited: str) -> None:
    a, b = label_by_words(
        original, edited, [(i, i + 1) for i in range(len(original))], [(i, i + 1) for i in range(len(edited))]
    )
    kept = ["".join(c for c, z in zip(t, s.labels, strict=True) if not z) for t, s in ((original, a), (edited, b))]
    assert kept[0] == kept[1]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(PIECES[:4]), max_size=6), st.lists(st.sampled_from(PIECES[:4]), max_size=6))
def test_similarity_is_the_share_of_words_in_the_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    one, two = words("".join(a)), words("".join(b))
    got = similarity("".join(a), "".join(b))
    assert got == pytest.approx(2 * brute_lcs(one, two) / (len(one) + len(two)) if one or two else 1.0)


@given(TEXT, TEXT)
def test_similarity_lies_between_0_and_1_and_is_1_for_equal_texts_alone(a: str, b: str) -> None:
    assert 0 <= similarity(a, b) <= 1
    assert (similarity(a, b) == 1) == (a == b)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [("", "", 1.0), ("", "sea", 0.0), ("sea", "sky", 0.0), ("a b c", "a b d", 2 / 3), ("a b c", "a c", 0.8)],
)
def test_similarity_of_hand_counted_words(a: str, b: str, expected: float) -> None:
    assert similarity(a, b) == pytest.approx(expected)
