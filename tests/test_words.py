"""A text is cut into words without a rest, the same in any company, and equal words have equal hashes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.texts import FAMILY, TEXT, nfc
from tokalign.core import words
from tokalign.core.diff import words as cut
from tokalign.core.words import number, split


@given(TEXT)
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(cut(text)) == text
    assert all(cut(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The sea, a\r\n\tpage.  ", ["The", " sea", ",", " a", "\r\n\tpage", ".", "  "]),
        ("don't stop", ["don", "'", "t", " stop"]),
        ("x_1 2.5", ["x_1", " 2", ".", "5"]),
        ("  ", ["  "]),
        ("", []),
        ("cafe\u0301 e\u0301", ["cafe\u0301", " e\u0301"]),
        (f"{FAMILY}{FAMILY} ok", [FAMILY, FAMILY, " ok"]),
        ("\U0001f44d\U0001f3fd\U0001f44d", ["\U0001f44d\U0001f3fd", "\U0001f44d"]),
        ("漢字 カタカナひら", ["漢", "字", " カタカナ", "ひ", "ら"]),
        ("שלום עולם", ["שלום", " עולם"]),
        ("a\0b", ["a", "\0", "b"]),
        ("ab漢cd", ["ab", "漢", "cd"]),
        ("...", [".", ".", "."]),
    ],
)
def test_hand_cut_words(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


@given(st.lists(TEXT, max_size=6), st.sampled_from([1, 10, 20_000]))
def test_a_text_is_cut_the_same_in_any_company(texts: list[str], at_once: int) -> None:
    before, words._CHUNK = words._CHUNK, at_once
    try:
        together = split(texts)
    finally:
        words._CHUNK = before
    assert "".join(map(chr, together.characters)) == "".join(texts)
    assert together.solid.tolist() == [not c.isspace() for c in "".join(texts)]
    assert (len(together.rows), len(together.places)) == (len(texts) + 1, len(texts) + 1)
    for k, text in enumerate(texts):
        alone, place = split([text]), together.places[k]
        part = slice(together.rows[k], together.rows[k + 1])
        assert together.places[k + 1] - place == len(text)
        for name in ("begins", "bare", "ends"):
            assert (getattr(together, name)[part] - place).tolist() == getattr(alone, name).tolist()
        for name in ("ids", "raw", "starts"):
            assert getattr(together, name)[part].tolist() == getattr(alone, name).tolist()


@given(TEXT, TEXT)
def test_equal_words_and_no_others_have_one_hash(one: str, other: str) -> None:
    sides = split([one]), split([other])
    for a, b in (sides, number(*sides)):
        for raw in (False, True):
            texts, hashes = [], []
            for side in (a, b):
                begins, ids = (side.begins, side.raw) if raw else (side.bare, side.ids)
                spans = zip(begins, side.ends, strict=True)
                texts += [nfc("".join(map(chr, side.characters[i:j]))) for i, j in spans]
                hashes += ids.tolist()
            assert len(set(zip(texts, hashes, strict=True))) == len(set(texts)) == len(set(hashes))


def test_sentences_begin_after_a_full_stop_and_on_a_new_line() -> None:
    text = "One two. Three? Four\nfive 2.5 (six.) Seven"
    found = split([text, "eight"])
    starts = [text[i:j] for i, j in zip(found.bare, found.ends, strict=True)]
    begun = [w for w, s in zip([*starts[:-1], "eight"], found.starts, strict=True) if s]
    assert begun == ["One", "Three", "Four", "five", "5", ")", "eight"]


def test_texts_longer_than_the_table_of_powers() -> None:
    text = "word " * 9000
    assert len(set(split([text]).ids.tolist())) == 2, "the word, and the white space at the end"
    assert np.array_equal(split([text, text]).ids[:9001], split([text]).ids)


@pytest.mark.parametrize(
    ("decomposed", "plain"),
    [
        ("cafe\u0301 noir", "café noir"), ("\u212bngstro\u0308m", "Ångström"), ("q\u0307\u0323 x", "q\u0323\u0307 x"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"), ("\u304b\u3099\u304d", "がき"), ("\uf900\uf900", "豈豈"),
        ("a =\u0338 b", "a ≠ b"), ("x\u2000y", "x\u2002y"), ("\u0958", "\u0915\u093c"), ("Vie\u0323\u0302t", "Việt"),
    ],
)  # fmt: skip
def test_words_are_equal_however_their_letters_are_composed(decomposed: str, plain: str) -> None:
    one, other = split([decomposed, "x"]), split([plain, "x"])
    assert one.rows.tolist() == other.rows.tolist()
    for name in ("ids", "raw", "starts"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert "".join(map(chr, one.characters)) == f"{decomposed}x", "places are those of the text as it is"
    a, b = number(one, other)
    assert (a.ids.tolist(), a.raw.tolist()) == (b.ids.tolist(), b.raw.tolist())
