"""Texts of every script, and the short way to compare two of them."""

import unicodedata

import numpy as np
from hypothesis import strategies as st

from tokalign.core import diff
from tokalign.core.diff import Alignment, AlignOptions, Opcode, Spans
from tokalign.core.words import split

FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
PIECES = ["The", " sea", "a", " a", ".", ",", " ", "\r\n", "\0", "e\u0301", FAMILY]
PIECES += [
    "\u00e9",
    "\u0301",
    "\u212b",
    "\u1112\u1161\u11ab",
    "\ud55c",
    "\u304b\u3099",
    "\u304c",
    "\u2000",
    "\u037e",
    ";",
]
PIECES += ["\uf900", "\u8c48", "q\u0323\u0307", "q\u0307\u0323", "=\u0338", "\u2260", "\u037e"]
PIECES += ["שלום", " \u202e", "漢字", "字", "カタカナ", "ひら", "\u00a0", "ß", "_", "\t\t", "\U0001f1eb\U0001f1f7"]
TEXT = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=10).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=15),
)
WAYS = [
    AlignOptions("levenshtein"),
    AlignOptions("lcs"),
    *(AlignOptions("blocks", merge, whole) for merge, whole in ((0, diff.NEVER), (1, 0.5), (2, 0.8), (3, diff.NEVER))),
]
WAY = st.sampled_from(WAYS)


def nfc(text: str) -> str:
    """Text with its letters composed: equal for texts that differ in nothing else."""
    return unicodedata.normalize("NFC", text)


def compare(original: str, edited: str, way: AlignOptions = WAYS[4]) -> Alignment:
    """One pair, by words."""
    return diff.compare_words(split([original]), split([edited]), way)


def opcodes(original: str, edited: str, way: AlignOptions = WAYS[4]) -> list[Opcode]:
    """One pair, by words."""
    return diff.opcodes(compare(original, edited, way))


def compare_ids(original: list[int], edited: list[int], way: AlignOptions) -> Alignment:
    """One pair, by token ids."""
    a, b = np.array(original, dtype=np.int32), np.array(edited, dtype=np.int32)
    return diff.compare_tokens(a, np.array([0, len(a)]), b, np.array([0, len(b)]), way)


def project(
    kept: Alignment, original: str, edited: str, a: list[tuple[int, int]], b: list[tuple[int, int]]
) -> list[Spans]:
    """The edits of characters carried over to the tokens of one pair."""
    return [
        diff.project(spans, split([text]), np.array(offsets, np.int32).reshape(-1, 2), np.array([0, len(offsets)]))
        for spans, text, offsets in zip(diff.spans(kept), (original, edited), (a, b), strict=True)
    ]
