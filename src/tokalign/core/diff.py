"""Opcodes between an original and an edited response, and the labels they give to every token.

Pure: no I/O, no torch, no tokenizer. † marks what is the paper's (Xu et al., ACL 2024); the rest is ours.

Two units of alignment:

* ``token`` †: over token ids.
* ``word``: over words with their leading white space, projected onto tokens by character offsets. One
  diff serves every tokenizer, and an edited word is labelled whole: aligned by token, the subwords
  that two different words happen to share stay neutral.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import count, groupby
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel, LCSseq, Levenshtein

from tokalign.core.blocks import Match, Side, align_blocks

Tag = Literal["equal", "replace", "insert", "delete"]
Offsets = Sequence[tuple[int, int]]

BAD, NEUTRAL, GOOD = -1, 0, 1

_WORD = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")
_IS_SPACE = np.array([chr(c).isspace() for c in range(0x3002)])
"""By code point; none above is white space."""
_SENTENCE_ENDS = frozenset(".!?…。！？")


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


def align_tokens(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], cost: int) -> list[list[Opcode]]:
    """Opcodes over token ids that keep long runs (see :mod:`tokalign.core.blocks`); ``cost`` 0: the LCS."""
    sides = [tuple(Side(np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=bool)) for ids in p) for p in pairs]
    found = align_blocks(sides, cost)  # type: ignore[arg-type]
    opcodes = []
    for match, (a, b) in zip(found, pairs, strict=True):
        rows = np.flatnonzero(match >= 0)
        opcodes.append(_between(_pieces(rows, match[rows], np.ones(len(rows), dtype=int)), len(a), len(b)))
    return opcodes


def block_opcodes(pairs: Sequence[tuple[str, str]], cost: int = 2, whole: float = 0.8) -> list[list[Opcode]]:
    """Opcodes over characters, from alignments over words that keep long runs (see :mod:`tokalign.core.blocks`).

    White space before a word is no part of it: where only that differs, the word is kept.

    Args:
        pairs: original and edited of each.
        cost: a run of so many kept words, or fewer, inside an edit is a part of it.
        whole: a sentence of which this share changed was changed as a whole; above 1, never.
    """
    vocabulary: defaultdict[str, int] = defaultdict(count().__next__)
    texts = [(_Text.of(a, vocabulary), _Text.of(b, vocabulary)) for a, b in pairs]
    matches = align_blocks([(a.side, b.side) for a, b in texts], cost)
    opcodes = []
    for match, (a, b), (original, edited) in zip(matches, texts, pairs, strict=True):
        _keep_contained(match, a.side.ids, b.side.ids)
        _drop_sentences(match, a.side.starts, b.side.starts, whole)
        opcodes.append(_between(_kept(match, a, b), len(original), len(edited)))
    return opcodes


class _Text(NamedTuple):
    """The words of a text: what the aligner needs, where each begins, and how much white space is before it."""

    side: Side
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]
    spaces: NDArray[np.int64]
    raw: NDArray[np.int32]
    """Equal for words that are equal with the white space before them."""

    @classmethod
    def of(cls, text: str, vocabulary: Mapping[str, int]) -> "_Text":
        found = words(text)
        bare = [w.lstrip() or w for w in found]
        lengths = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
        spaces = lengths - np.fromiter(map(len, bare), dtype=np.int64, count=len(bare))
        ids, raw = ([*map(vocabulary.__getitem__, some)] for some in (bare, found))
        starts = np.zeros(len(found), dtype=bool)
        starts[:1] = True
        starts[1:] = [w in _SENTENCE_ENDS for w in bare[:-1]]
        starts |= np.array(["\n" in w for w in found], dtype=bool)
        side = Side(np.array(ids, dtype=np.int32), starts)
        return cls(side, np.cumsum(lengths) - lengths, lengths, spaces, np.array(raw, dtype=np.int32))


def _keep_contained(match: Match, a: NDArray[np.int32], b: NDArray[np.int32]) -> None:
    """Where one side of an edit holds all words of the other, in order, nothing was removed (or put in): keep them."""
    rows = np.concatenate([[-1], np.flatnonzero(match >= 0), [len(a)]])
    columns = np.concatenate([[-1], match[rows[1:-1]], [len(b)]])
    for k in np.flatnonzero((np.diff(rows) > 1) & (np.diff(columns) > 1)).tolist():
        i, i2, j, j2 = rows[k] + 1, rows[k + 1], columns[k] + 1, columns[k + 1]
        # Which of several ways the words of the shorter stand in the longer must not depend on who is who.
        turned = i2 - i > j2 - j
        one, other = a[i:i2].tolist(), b[j:j2].tolist()
        short, long = (other, one) if turned else (one, other)
        if LCSseq.similarity(short, long) == len(short):
            opcodes = Indel.opcodes(short, long)
            kept = [(op.src_start, op.dest_start, op.src_end - op.src_start) for op in opcodes if op.tag == "equal"]
            for at_short, at_long, n in kept:
                at_a, at_b = (at_long, at_short) if turned else (at_short, at_long)
                match[i + at_a : i + at_a + n] = np.arange(j + at_b, j + at_b + n)


def _drop_sentences(match: Match, starts_a: NDArray[np.bool_], starts_b: NDArray[np.bool_], whole: float) -> None:
    """Keep nothing of a sentence, on either side, of which the share ``whole`` changed."""
    sentence_a, sentence_b = np.cumsum(starts_a), np.cumsum(starts_b)
    rows = np.flatnonzero(match >= 0)
    if not len(rows):
        return
    columns = match[rows]
    kept_a, kept_b = np.bincount(sentence_a[rows]), np.bincount(sentence_b[columns])
    size_a, size_b = np.bincount(sentence_a)[: len(kept_a)], np.bincount(sentence_b)[: len(kept_b)]
    lost_a, lost_b = 1 - kept_a / np.maximum(size_a, 1) >= whole, 1 - kept_b / np.maximum(size_b, 1) >= whole
    match[rows[lost_a[sentence_a[rows]] | lost_b[sentence_b[columns]]]] = -1


def _kept(match: Match, a: _Text, b: _Text) -> list[tuple[int, int, int]]:
    """Pieces of text that are kept, as (start in original, start in edited, length), in order."""
    rows = np.flatnonzero(match >= 0)
    columns = match[rows]
    same = a.raw[rows] == b.raw[columns]
    space = np.where(same, 0, a.spaces[rows]), np.where(same, 0, b.spaces[columns])
    i, j = a.begins[rows] + space[0], b.begins[columns] + space[1]
    return _pieces(i, j, a.lengths[rows] - space[0])


def _pieces(i: NDArray[Any], j: NDArray[Any], lengths: NDArray[Any]) -> list[tuple[int, int, int]]:
    """Neighbours joined: (start, start, length) of every run that is unbroken on both sides."""
    if not len(i):
        return []
    ends = np.flatnonzero((i[:-1] + lengths[:-1] != i[1:]) | (j[:-1] + lengths[:-1] != j[1:]))
    first = np.concatenate([[0], ends + 1])
    sizes = np.concatenate([i[ends] + lengths[ends], [i[-1] + lengths[-1]]]) - i[first]
    return list(zip(i[first].tolist(), j[first].tolist(), sizes.tolist(), strict=True))


def _between(kept: Iterable[tuple[int, int, int]], n: int, m: int) -> list[Opcode]:
    """Opcodes of two sequences of lengths n and m of which these pieces are kept."""
    opcodes: list[Opcode] = []
    i = j = 0
    for start_i, start_j, length in (*kept, (n, m, 0)):
        if start_i > i or start_j > j:
            tag: Tag = "replace" if start_i > i and start_j > j else "delete" if start_i > i else "insert"
            opcodes.append(Opcode(tag, i, start_i, j, start_j))
        i, j = start_i + length, start_j + length
        if length:
            opcodes.append(Opcode("equal", start_i, i, start_j, j))
    return opcodes


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


def project(chars: Labels, offsets: Offsets, text: str) -> Labels:
    """Labels of the characters of ``text``, carried over to tokens.

    A token takes the label and span of the first changed character it touches, and none if it touches
    none; white space counts only in tokens that are nothing else. ``offsets`` are ``[start, end)`` in
    code points; an empty one (EOS) is neutral.
    """
    if not len(offsets):
        return _blank(0)
    bounds = np.asarray(offsets, dtype=np.int64)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    solid = ~_IS_SPACE[np.minimum(codes, len(_IS_SPACE) - 1)]
    before = np.concatenate([[0], np.cumsum(solid)])
    blank = before[bounds[:, 1]] == before[bounds[:, 0]]
    first = np.where(blank, _first(chars.labels != 0, bounds), _first((chars.labels != 0) & solid, bounds))
    touched = first < bounds[:, 1]
    labels = np.append(chars.labels, np.int8(0))[first] * touched
    spans = np.append(chars.spans, np.int32(0))[first] * touched
    return Labels(labels.astype(np.int8), spans.astype(np.int32))


def _first(changed: NDArray[np.bool_], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first changed character at or after the start of each token; one past the last if there is none."""
    where = np.flatnonzero(changed)
    return np.append(where, len(changed))[np.searchsorted(where, bounds[:, 0])]


def label_texts(
    opcodes: Sequence[Opcode], original: str, edited: str, original_offsets: Offsets, edited_offsets: Offsets
) -> tuple[Labels, Labels]:
    """Token labels of both sides from opcodes over characters."""
    a, b = label_tokens(opcodes, len(original), len(edited))
    return project(a, original_offsets, original), project(b, edited_offsets, edited)


def similarity(original: str, edited: str) -> float:
    """Share of words kept, 0 to 1: ``1 - indel distance / (words of both)``; 1 for two empty texts."""
    return float(Indel.normalized_similarity(words(original), words(edited)))


def _blank(n: int) -> Labels:
    return Labels(np.zeros(n, dtype=np.int8), np.zeros(n, dtype=np.int32))
