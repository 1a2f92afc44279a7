"""Opcodes between an original and an edited response, and the labels they give to every token.

Pure: no I/O, no torch, no tokenizer. † marks what is the paper's (Xu et al., ACL 2024); the rest is ours.

Two units of alignment:

* ``token`` †: over token ids.
* ``word``: over words with their leading white space, projected onto tokens by character offsets. One
  diff serves every tokenizer, and an edited word is labelled whole: aligned by token, the subwords
  that two different words happen to share stay neutral.
"""

import re
from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel, Levenshtein

Tag = Literal["equal", "replace", "insert", "delete"]
Offsets = Sequence[tuple[int, int]]

BAD, NEUTRAL, GOOD = -1, 0, 1

_WORD = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


class Opcode(NamedTuple):
    """``original[i1:i2]`` becomes ``edited[j1:j2]``; half-open, in order, covering both sides."""

    tag: Tag
    i1: int
    i2: int
    j1: int
    j2: int


class Labels(NamedTuple):
    """Labels of one side, one entry a token.

    ``labels`` (T,) int8: -1 bad, 0 neutral, +1 good. ``spans`` (T,) int32: the number, from 1, of the
    edit that a token belongs to; 0 for none. Both sides of a replacement carry the same number.
    """

    labels: NDArray[np.int8]
    spans: NDArray[np.int32]


def words(text: str) -> list[str]:
    """Words and punctuation marks, each with the white space before it; joined they are ``text``."""
    return _WORD.findall(text)


def align(original: Sequence[Hashable], edited: Sequence[Hashable]) -> list[Opcode]:
    """A minimal Levenshtein alignment † (unit costs), as opcodes."""
    return [
        Opcode(op.tag, op.src_start, op.src_end, op.dest_start, op.dest_end)  # type: ignore[arg-type]
        for op in Levenshtein.opcodes(original, edited)
    ]


def word_opcodes(original: str, edited: str) -> list[Opcode]:
    """Opcodes over characters, from an alignment over words."""
    a, b = words(original), words(edited)
    starts_a = np.cumsum([0, *map(len, a)]).tolist()
    starts_b = np.cumsum([0, *map(len, b)]).tolist()
    return [Opcode(tag, starts_a[i1], starts_a[i2], starts_b[j1], starts_b[j2]) for tag, i1, i2, j1, j2 in align(a, b)]


def group_edits(opcodes: Sequence[Opcode]) -> list[list[Opcode]]:
    """The edits: runs of neighbouring opcodes that are not ``equal``."""
    return [list(run) for changed, run in groupby(opcodes, lambda op: op.tag != "equal") if changed]


def apply(opcodes: Sequence[Opcode], original: str, edited: str) -> str:
    """Text that the opcodes (over characters) make of ``original``, taking what is new from ``edited``."""
    return "".join(original[i1:i2] if tag == "equal" else edited[j1:j2] for tag, i1, i2, j1, j2 in opcodes)


def undo(original: str, edited: str, edit: Sequence[Opcode]) -> str:
    """``edited`` with one edit (over characters) taken back."""
    return edited[: edit[0].j1] + original[edit[0].i1 : edit[-1].i2] + edited[edit[-1].j2 :]


def label_tokens(opcodes: Sequence[Opcode], n_original: int, n_edited: int) -> tuple[Labels, Labels]:
    """Labels † from opcodes over tokens.

    ``delete`` and the source of ``replace`` are bad; ``insert`` and the destination of ``replace`` are
    good; the rest is neutral.
    """
    original, edited = _blank(n_original), _blank(n_edited)
    for span, group in enumerate(group_edits(opcodes), 1):
        for _, i1, i2, j1, j2 in group:
            original.labels[i1:i2], original.spans[i1:i2] = BAD, span
            edited.labels[j1:j2], edited.spans[j1:j2] = GOOD, span
    return original, edited


def project(chars: Labels, offsets: Offsets) -> Labels:
    """Labels of characters, carried over to tokens.

    A token takes the label and span of the first changed character it touches, and none if it touches
    none. ``offsets`` are ``[start, end)`` in code points; an empty one (EOS) is neutral.
    """
    if not len(offsets):
        return _blank(0)
    bounds = np.asarray(offsets, dtype=np.int64)
    changed = np.flatnonzero(chars.labels)
    # The first changed character at or after the start of each token; in it if before its end.
    at = np.searchsorted(changed, bounds[:, 0])
    first = np.append(changed, len(chars.labels))[at]
    touched = first < bounds[:, 1]
    labels = np.append(chars.labels, np.int8(0))[first] * touched
    spans = np.append(chars.spans, np.int32(0))[first] * touched
    return Labels(labels.astype(np.int8), spans.astype(np.int32))


def label_by_words(
    original: str, edited: str, original_offsets: Offsets, edited_offsets: Offsets
) -> tuple[Labels, Labels]:
    """Token labels of both sides from an alignment over words."""
    a, b = label_tokens(word_opcodes(original, edited), len(original), len(edited))
    return project(a, original_offsets), project(b, edited_offsets)


def similarity(original: str, edited: str) -> float:
    """Share of words kept, 0 to 1: ``1 - indel distance / (words of both)``; 1 for two empty texts."""
    return float(Indel.normalized_similarity(words(original), words(edited)))


def _blank(n: int) -> Labels:
    return Labels(np.zeros(n, dtype=np.int8), np.zeros(n, dtype=np.int32))
