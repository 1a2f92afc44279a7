"""Opcodes turn one side into the other, and every token gets the label that its characters earned."""

from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import PIECES, TEXT, WAY, WAYS, compare, compare_ids, nfc, opcodes, project
from tokalign.core import diff, words
from tokalign.core.diff import AlignOptions, Opcode, apply, changes, similarity, undo
from tokalign.core.words import split

LEVENSHTEIN, LCS = AlignOptions("levenshtein"), AlignOptions("lcs")
TOKENS = st.lists(st.integers(0, 3), max_size=7)
MIRROR = {"insert": "delete", "delete": "insert"}


def brute_distance(a: list[int], b: list[int]) -> int:
    @cache
    def rest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        if a[i] == b[j]:
            return rest(i + 1, j + 1)
        return 1 + min(rest(i + 1, j), rest(i, j + 1), rest(i + 1, j + 1))

    return rest(0, 0)


def brute_lcs(a: list[int] | list[str], b: list[int] | list[str]) -> int:
    @cache
    def rest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return rest(i + 1, j + 1) + 1 if a[i] == b[j] else max(rest(i + 1, j), rest(i, j + 1))

    return rest(0, 0)


def cost(found: list[Opcode]) -> int:
    return sum(max(op.i2 - op.i1, op.j2 - op.j1) for op in changes(found))


def kept(found: list[Opcode]) -> int:
    return sum(op.i2 - op.i1 for op in found if op.tag == "equal")


@given(TEXT, TEXT, WAY)
def test_applying_the_opcodes_gives_the_edited_text(original: str, edited: str, way: AlignOptions) -> None:
    made = apply(opcodes(original, edited, way), original, edited)
    assert nfc(made) == nfc(edited)
    if is_composed(original) and is_composed(edited):
        assert made == edited


def is_composed(text: str) -> bool:
    return text == nfc(text)


@given(TOKENS, TOKENS, WAY)
def test_applying_the_opcodes_gives_the_edited_tokens(
    original: list[int], edited: list[int], way: AlignOptions
) -> None:
    texts = ["".join(map(str, ids)) for ids in (original, edited)]
    assert apply(diff.opcodes(compare_ids(original, edited, way)), *texts) == texts[1]


@given(TEXT, TEXT, WAY)
def test_opcodes_cover_both_sides_in_order_and_say_what_happens(original: str, edited: str, way: AlignOptions) -> None:
    found = opcodes(original, edited, way)
    ends = [(0, 0), *[(op.i2, op.j2) for op in found]]
    assert [(op.i1, op.j1) for op in found] == ends[:-1]
    assert ends[-1] == (len(original), len(edited))
    for tag, i1, i2, j1, j2 in found:
        before, after = original[i1:i2], edited[j1:j2]
        assert (tag == "equal") <= (nfc(before) == nfc(after))
        assert (bool(before), bool(after)) == {"insert": (False, True), "delete": (True, False)}.get(tag, (True, True))
    assert all("equal" in (one.tag, other.tag) and one.tag != other.tag for one, other in pairwise(found))


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6), WAY)
def test_a_pair_is_compared_the_same_in_any_company(pairs: list[tuple[str, str]], way: AlignOptions) -> None:
    together = diff.compare_words(split([a for a, _ in pairs]), split([b for _, b in pairs]), way)
    alone = [opcodes(a, b, way) for a, b in pairs]
    assert [diff.opcodes(together, k) for k in range(len(pairs))] == alone
    assert diff.edits(together).tolist() == [len(changes(found)) for found in alone]


@given(TOKENS, TOKENS)
def test_levenshtein_costs_no_more_than_the_optimum(original: list[int], edited: list[int]) -> None:
    assert cost(diff.opcodes(compare_ids(original, edited, LEVENSHTEIN))) == brute_distance(original, edited)


@given(TOKENS, TOKENS)
def test_lcs_keeps_as_much_as_can_be_kept(original: list[int], edited: list[int]) -> None:
    assert kept(diff.opcodes(compare_ids(original, edited, LCS))) == brute_lcs(original, edited)


@given(TEXT, TEXT, WAY)
def test_swapped_texts_swap_the_signs(original: str, edited: str, way: AlignOptions) -> None:
    there, back = opcodes(original, edited, way), opcodes(edited, original, way)
    assert [(MIRROR.get(t, t), j1, j2, i1, i2) for t, i1, i2, j1, j2 in back] == [tuple(op) for op in there]


@given(TOKENS, TOKENS, WAY)
def test_swapped_tokens_swap_the_signs(original: list[int], edited: list[int], way: AlignOptions) -> None:
    a, b = diff.spans(compare_ids(original, edited, way))
    b_swapped, a_swapped = diff.spans(compare_ids(edited, original, way))
    assert (a.tolist(), b.tolist()) == (a_swapped.tolist(), b_swapped.tolist())


@given(TEXT, WAY)
def test_no_edit_leaves_everything_neutral(text: str, way: AlignOptions) -> None:
    same = compare(text, text, way)
    assert not any(spans.any() for spans in diff.spans(same))
    assert diff.edits(same).tolist() == [0]
    assert changes(diff.opcodes(same)) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=10), st.sampled_from(WAYS[:2]))
def test_pure_insertion_marks_what_came_in_and_pure_deletion_what_went(
    marked: list[tuple[int, bool]], way: AlignOptions
) -> None:
    longer, shorter = [w for w, _ in marked], [w for w, stays in marked if stays]
    extra = Counter(longer) - Counter(shorter)
    for a, b in ((shorter, longer), (longer, shorter)):
        spans = dict(zip("ab", diff.spans(compare_ids(a, b, way)), strict=True))
        short, long = (spans["a"], spans["b"]) if a is shorter else (spans["b"], spans["a"])
        assert not short.any()
        assert Counter(w for w, s in zip(longer, long, strict=True) if s) == extra


@given(TOKENS, TOKENS, WAY)
def test_every_token_has_one_span_number_and_edits_are_numbered_in_order(
    original: list[int], edited: list[int], way: AlignOptions
) -> None:
    pair = compare_ids(original, edited, way)
    found = changes(diff.opcodes(pair))
    a, b = diff.spans(pair)
    expected = np.zeros(len(original), np.int32), np.zeros(len(edited), np.int32)
    for number, op in enumerate(found, 1):
        expected[0][op.i1 : op.i2] = expected[1][op.j1 : op.j2] = number
    assert (a.tolist(), b.tolist()) == (expected[0].tolist(), expected[1].tolist())
    assert a.dtype == b.dtype == np.int32


@given(TEXT, TEXT, WAY)
def test_what_is_neutral_on_either_side_is_the_same_text(original: str, edited: str, way: AlignOptions) -> None:
    sides = zip((original, edited), diff.spans(compare(original, edited, way)), strict=True)
    neutral = ["".join(c for c, s in zip(text, spans, strict=True) if not s) for text, spans in sides]
    assert nfc(neutral[0]) == nfc(neutral[1])
    if is_composed(original) and is_composed(edited):
        assert neutral[0] == neutral[1]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("alike", [0, 1])
def test_words_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch, way: AlignOptions, alike: int) -> None:
    original, edited = "The cat sat on the mat. It was old.", "The dog sat in the sun. It was bad."
    expected = [op.tag for op in opcodes(original, edited, way)]
    # Every word of one length has one hash; then every word whatever.
    monkeypatch.setattr(words, "_mixed", lambda: np.full(0x110000, alike, dtype=np.uint64))
    monkeypatch.setattr(words, "_powers", lambda n: (np.ones(n, np.uint64), np.ones(n, np.uint64)))
    assert len(set(split([original]).ids.tolist())) < len(set(original.split()))
    found = opcodes(original, edited, way)
    assert apply(found, original, edited) == edited
    assert all(original[op.i1 : op.i2] == edited[op.j1 : op.j2] for op in found if op.tag == "equal")
    assert [op.tag for op in found] == expected


# Taking edits back.


@given(TEXT, TEXT, WAY)
def test_undoing_every_edit_from_the_last_to_the_first_gives_the_original(
    original: str, edited: str, way: AlignOptions
) -> None:
    text = edited
    for edit in reversed(changes(opcodes(original, edited, way))):
        text = undo(original, text, edit)
    assert nfc(text) == nfc(original)
    if is_composed(original) and is_composed(edited):
        assert text == original


def test_undo_takes_back_one_edit_and_leaves_the_others() -> None:
    original, edited = "The old cat sat down.", "The young cat sat."
    first, second = changes(opcodes(original, edited, LCS))
    assert undo(original, edited, first) == "The old cat sat."
    assert undo(original, edited, second) == "The young cat sat down."


# From characters to tokens.


def brute_project(spans: list[int], text: str, offsets: list[tuple[int, int]]) -> list[int]:
    """White space counts only in tokens that are nothing else."""
    found = []
    for start, end in offsets:
        places = range(start, end)
        solid = [i for i in places if not text[i].isspace()]
        found.append(next((spans[i] for i in solid or places if spans[i]), 0))
    return found


@given(
    st.lists(st.tuples(st.text("ab \n", max_size=8), st.integers(0, 5)), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), max_size=10),
    st.randoms(use_true_random=False),
)
def test_a_token_is_marked_exactly_when_it_touches_a_changed_character(
    drawn: list[tuple[str, int]], tokens: list[tuple[int, int]], rng: np.random.Generator
) -> None:
    texts = [text for text, _ in drawn]
    spans = [[rng.choice([0, 0, n + 1]) for _ in text] for text, n in drawn]
    offsets = [[(min(i, len(t)), min(i + width, len(t))) for i, width in tokens] for t in texts]
    got = diff.project(
        np.array([s for side in spans for s in side], np.int32),
        split(texts),
        np.array([o for side in offsets for o in side], np.int32).reshape(-1, 2),
        np.arange(len(texts) + 1) * len(tokens),
    )
    expected = [brute_project(*side) for side in zip(spans, texts, offsets, strict=True)]
    assert got.tolist() == [s for side in expected for s in side]


def test_an_edited_word_is_marked_whole_whatever_its_subwords_share() -> None:
    # "un|kind| words|!" becomes "un|wise| words|!": by words, the shared "un" changes with its word.
    original, edited = "unkind words!", "unwise words!"
    offsets = [(0, 2), (2, 6), (6, 12), (12, 13), (13, 13)]
    a, b = project(compare(original, edited), original, edited, offsets, offsets)
    assert a.tolist() == b.tolist() == [1, 1, 0, 0, 0]
    by_token = diff.spans(compare_ids([7, 1, 2, 3], [7, 9, 2, 3], LEVENSHTEIN))
    assert [s.tolist() for s in by_token] == [[0, 1, 0, 0], [0, 1, 0, 0]]


def test_all_tokens_on_one_character_are_marked_and_a_token_across_a_word_edge_too() -> None:
    # 漢 is three byte-level tokens with the offsets of one character; "b so" is one token.
    original, edited = "A 漢 b c", "A 字 b so c"
    a, b = project(
        compare(original, edited, LCS),
        original,
        edited,
        [(0, 1), (1, 3), (2, 3), (2, 3), (3, 5), (5, 7), (7, 7)],
        [(0, 1), (1, 3), (3, 8), (8, 10)],
    )
    assert a.tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert b.tolist() == [0, 1, 2, 0]


# What was left out.


def omitted(original: str, edited: str, offsets: list[tuple[int, int]]) -> list[int]:
    """The text ends with EOS."""
    tokens = np.array([*offsets, (len(original), len(original))], np.int32)
    found = diff.omissions(compare(original, edited, LCS), split([original]), tokens, np.array([0, len(tokens)]))
    return found.tolist()


def test_the_token_after_an_omission_is_marked() -> None:
    offsets = [(0, 1), (1, 3), (3, 5)]
    assert omitted("a b c", "a x b c", offsets) == [0, 1, 0, 0]
    assert omitted("a b c", "x a b c", offsets) == [1, 0, 0, 0]
    assert omitted("a b c", "a b c x", offsets) == [0, 0, 0, 1], "EOS came too early"
    assert omitted("a b c", "a x b y z c", offsets) == [0, 1, 2, 0]
    assert omitted("a b c", "a x c", offsets) == [0, 0, 0, 0], "b was replaced: nothing was left out"
    assert omitted("a b c", "a c", offsets) == [0, 0, 0, 0]
    assert omitted("", "a", []) == [1]


def test_omissions_of_many_texts_stay_in_their_own() -> None:
    originals, editeds = ["a b", "", "c d", "e"], ["a b x", "y", "c x d", "e"]
    a = split(originals)
    offsets = np.array([(0, 1), (1, 3), (3, 3), (0, 0), (0, 1), (1, 3), (3, 3), (0, 1), (1, 1)], np.int32)
    found = diff.omissions(diff.compare_words(a, split(editeds), LCS), a, offsets, np.array([0, 3, 4, 7, 9]))
    assert found.tolist() == [0, 0, 1, 1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("original", "edited", "expected"),
    [([1, 2, 9], [1, 7, 2, 9], [0, 1, 0]), ([1, 9], [1, 7, 9], [0, 1]), ([1, 2, 9], [1, 3, 9], [0, 0, 0])],
)
def test_omissions_by_token(original: list[int], edited: list[int], expected: list[int]) -> None:
    assert diff.token_omissions(compare_ids(original, edited, LEVENSHTEIN)).tolist() == expected


# How similar two texts are.


@settings(max_examples=50)
@given(st.lists(st.sampled_from(PIECES[:4]), max_size=6), st.lists(st.sampled_from(PIECES[:4]), max_size=6))
def test_similarity_is_the_share_of_words_in_the_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    one, two = diff.words("".join(a)), diff.words("".join(b))
    got = similarity("".join(a), "".join(b))
    assert got == pytest.approx(2 * brute_lcs(one, two) / (len(one) + len(two)) if one or two else 1.0)


@given(TEXT, TEXT)
def test_similarity_lies_between_0_and_1_and_is_1_for_equal_texts_alone(a: str, b: str) -> None:
    assert 0 <= similarity(a, b) <= 1
    assert (similarity(a, b) == 1) == (nfc(a) == nfc(b))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [("", "", 1.0), ("", "sea", 0.0), ("sea", "sky", 0.0), ("a b c", "a b d", 2 / 3), ("a b c", "a c", 0.8)],
)
def test_similarity_of_hand_counted_words(a: str, b: str, expected: float) -> None:
    assert similarity(a, b) == pytest.approx(expected)


# Letters that are composed otherwise.

NFD, NFC = "Le cafe\u0301 est de\u0301licieux.", "Le café est délicieux."


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_words_that_compose_their_letters_otherwise_are_kept(way: AlignOptions) -> None:
    for one, other in ((NFD, NFC), (NFC, NFD)):
        found = opcodes(one, other, way)
        assert [tuple(op) for op in found] == [("equal", 0, len(one), 0, len(other))]
        assert similarity(one, other) == 1
        assert not any(spans.any() for spans in diff.spans(compare(one, other, way)))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_edit_among_them_is_found_where_it_stands_on_either_side(way: AlignOptions) -> None:
    edited = "Le café est délicieux, merci."
    (edit,) = changes(opcodes(NFD, edited, way))
    assert (edit.tag, edited[edit.j1 : edit.j2]) == ("insert", ", merci")
    assert NFD[edit.i1 :] == "."
    assert undo(NFD, edited, edit) == NFC


@pytest.mark.parametrize("alike", [0, 1])
def test_among_words_that_share_a_hash_they_are_found_too(monkeypatch: pytest.MonkeyPatch, alike: int) -> None:
    monkeypatch.setattr(words, "_mixed", lambda: np.full(0x110000, alike, dtype=np.uint64))
    monkeypatch.setattr(words, "_powers", lambda n: (np.ones(n, np.uint64), np.ones(n, np.uint64)))
    (edit,) = changes(opcodes(NFD, NFC.replace("est", "fut")))
    assert (NFD[edit.i1 : edit.i2].strip(), edit.tag) == ("est", "replace")


def test_a_mark_that_begins_a_token_stays_within_its_word() -> None:
    original, edited = "Un cafe\u0301 noir", "Un the\u0301 noir"
    a, b = split([original]), split([edited])
    of_a, of_b = diff.spans(diff.compare_words(a, b, AlignOptions()))
    # "Un", " cafe", the mark, " no", "ir": the mark is a token of its own.
    offsets = np.array([[0, 2], [2, 7], [7, 8], [8, 11], [11, 13]])
    assert diff.project(of_a, a, offsets, np.array([0, 5])).tolist() == [0, 1, 1, 0, 0]
    offsets = np.array([[0, 2], [2, 6], [6, 7], [7, 12]])
    assert diff.project(of_b, b, offsets, np.array([0, 4])).tolist() == [0, 1, 1, 0]
