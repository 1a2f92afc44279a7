"""Diffs of original and edited texts, and the edit that each token belongs to.

Pure functions (no I/O, torch or tokenizer), vectorised over many pairs. † marks what comes from the paper (Xu et al.,
ACL 2024); the rest is ours.

Texts are aligned by one of two units:

* ``token`` †: token ids (:func:`compare_tokens`).
* ``word``: words (:func:`compare_words`), projected onto tokens by character offsets (:func:`project`). One diff
  serves every tokenizer, and an edited word is labelled as a whole. (Aligned by token, subwords that two different
  words share would be neutral.)

Both give an :class:`Alignment`. :func:`spans` gives the edit of each position, :func:`opcodes` the opcodes of a pair.
"""

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Indel, LCSseq, Levenshtein

from tokalign.core.align import Match, Side, align_blocks
from tokalign.core.words import Ints, Words, bounds, composed, number, split

Tag = Literal["equal", "replace", "insert", "delete"]
Spans = NDArray[np.int32]
BAD, GOOD = -1, 1
NEVER = 2.0
"""Value of :attr:`AlignOptions.whole` that no share of changed words reaches."""


class AlignOptions(NamedTuple):
    """Alignment options.

    ``align``: ``levenshtein`` † minimises the edit distance with unit costs (a word includes the white space before
    it); ``lcs`` is the longest common subsequence; ``blocks`` keeps long runs (see :mod:`tokalign.core.align`). The
    other options apply to ``blocks`` only.
    """

    align: Literal["blocks", "lcs", "levenshtein"] = "blocks"
    merge: int = 2
    """A run of at most this many kept words inside an edit becomes part of the edit."""
    whole: float = 0.8
    """A sentence is edited as a whole if at least this share (0 to 1) of its words changed; above 1: never."""


class Alignment(NamedTuple):
    """The kept pieces of N pairs, in order. An empty piece marks the end of each pair.

    Positions (characters or tokens) count through the joined texts of a side. Whatever lies between two successive
    pieces is an edit.
    """

    a0: Ints
    """(K,): start of each piece in the originals."""
    a1: Ints
    """(K,): its end, exclusive."""
    b0: Ints
    """(K,): start of each piece in the edited texts."""
    b1: Ints
    """(K,): its end, exclusive."""
    stops: Ints
    """(N,): index of the empty piece that ends each pair."""


class Opcode(NamedTuple):
    """``original[i1:i2]`` becomes ``edited[j1:j2]``. The opcodes of a pair are in order and cover both texts."""

    tag: Tag
    i1: int
    i2: int
    j1: int
    j2: int


def words(text: str) -> list[str]:
    """Split ``text`` into words, each with the white space before it. Joined they are ``text``."""
    found = split([text])
    return [text[i:j] for i, j in zip(found.begins.tolist(), found.ends.tolist(), strict=True)]


def similarity(original: str, edited: str) -> float:
    """Word similarity, 0 to 1: ``1 - indel distance / (number of words in both)``; 1 for two empty texts."""
    return similarities(split([original]), split([edited]))[0]


def similarities(originals: Words, editeds: Words) -> list[float]:
    """Similarity of each pair; see :func:`similarity`."""
    sides = (_parts(side.raw, side.rows) for side in (originals, editeds))
    return [
        Indel.normalized_similarity(array("Q", a.tobytes()), array("Q", b.tobytes()))
        for a, b in zip(*sides, strict=True)
    ]


def compare_words(originals: Words, editeds: Words, options: AlignOptions) -> Alignment:
    """Align by words. The pieces of the result are in characters.

    Except with ``levenshtein``, the white space before a word is not part of it: a word is kept even if that differs.
    Words that differ only in Unicode composition (NFC or NFD) are equal, so the two sides of a kept piece can have
    different characters.
    """
    kept = _compare_words(originals, editeds, options)
    if not _are_equal(originals.characters, editeds.characters, kept):  # a hash collision
        a, b = number(originals, editeds)
        kept = _compare_words(a, b, options)
    return kept


def compare_tokens(a: NDArray[Any], rows_a: Ints, b: NDArray[Any], rows_b: Ints, options: AlignOptions) -> Alignment:
    """Align by token ids. The pieces of the result are in tokens; sentence boundaries are not used.

    Args:
        a: (T,) token ids of all originals, joined.
        rows_a: (N + 1,): the ids of original ``k`` are ``a[rows_a[k]:rows_a[k + 1]]``.
        b: token ids of all edited texts, joined.
        rows_b: row bounds of ``b``, as ``rows_a``.
        options: alignment options; ``whole`` has no effect.
    """
    i, j = _match(
        _sides(a, np.zeros(len(a), dtype=bool), rows_a), _sides(b, np.zeros(len(b), dtype=bool), rows_b), options
    )
    return _close(i, i + 1, j, j + 1, rows_a, rows_b)


def spans(kept: Alignment) -> tuple[Spans, Spans]:
    """Edit numbers of all positions of the joined originals, and of the joined edited texts.

    Edits are numbered from 1 in each pair; 0 is no edit. Both sides of a replacement have the same number. † Positions
    in an edit are bad in the original and good in the edited text.
    """
    numbers = np.stack([_numbers(kept), np.zeros(len(kept.a0), dtype=np.int32)], axis=1).ravel()
    a, b = (
        np.repeat(numbers, np.stack([start - _before(end), end - start], axis=1).ravel())
        for start, end in ((kept.a0, kept.a1), (kept.b0, kept.b1))
    )
    return a, b


def edits(kept: Alignment) -> Ints:
    """(N,): number of edits of each pair."""
    return _numbers(kept)[kept.stops].astype(np.int64)


def project(of_characters: Spans, words: Words, offsets: NDArray[Any], tokens: Ints) -> Spans:
    """Project edit numbers from characters onto tokens.

    A token gets the edit of the first changed character it overlaps, or 0. White space counts only in tokens that
    consist of white space.

    Args:
        of_characters: (C,) edit numbers of the characters, from :func:`spans`.
        words: the texts.
        offsets: (T, 2) ``[start, end)`` of each token in its own text, in code points. A token with an empty range
            (EOS) belongs to no edit.
        tokens: (N + 1,): the tokens of text ``k`` are ``tokens[k]:tokens[k + 1]``.

    Returns:
        (T,): edit number of each token; 0: none.
    """
    first = np.repeat(words.places[:-1].astype(np.int32), np.diff(tokens))
    starts, ends = offsets[:, 0] + first, offsets[:, 1] + first
    found = _first(of_characters, words.solid, starts, ends)
    solid = _up_to(words.solid)
    blank = np.flatnonzero(solid.take(starts) == solid.take(ends))
    found[blank] = _first(of_characters, True, starts[blank], ends[blank])
    return found


def _first(of_characters: Spans, counts: Any, starts: Spans, ends: Spans) -> Spans:
    """(T,): edit of the first changed character in ``[starts, ends)`` at which ``counts`` is True; 0: none."""
    changed = (of_characters != 0) & counts
    up_to = _up_to(changed)
    low = up_to.take(starts)
    numbers = np.append(of_characters[changed], np.int32(0))
    return numbers.take(low) * (up_to.take(ends) > low)


def omissions(kept: Alignment, words: Words, offsets: NDArray[Any], tokens: Ints) -> Spans:
    """(T,): for the tokens of the originals, the number of the pure insertion right before the token; 0: none.

    The token is the one with the next character that is not white space, or EOS at the end of the text. Arguments are
    as for :func:`project`; each text ends with EOS.
    """
    piece, numbers = _omitted(kept)
    pair = np.searchsorted(kept.stops, piece)
    at = _next(words.solid)[kept.a0[piece]]
    inside = at < words.places[pair + 1]
    of_characters = np.zeros(len(words.characters), dtype=np.int32)
    of_characters[at[inside]] = numbers[inside]
    of_tokens = project(of_characters, words, offsets, tokens)
    of_tokens[tokens[pair[~inside] + 1] - 1] = numbers[~inside]
    return of_tokens


def token_omissions(kept: Alignment) -> Spans:
    """(T,): as :func:`omissions`, for an alignment by token."""
    of_tokens = np.zeros(kept.a1[-1], dtype=np.int32)
    piece, numbers = _omitted(kept)
    of_tokens[kept.a0[piece]] = numbers
    return of_tokens


def opcodes(kept: Alignment, pair: int = 0) -> list[Opcode]:
    """The opcodes of one pair. Each edit is a single opcode."""
    low = int(kept.stops[pair - 1]) + 1 if pair else 0
    part = slice(low, int(kept.stops[pair]) + 1)
    base_a, base_b = (int(kept.a1[low - 1]), int(kept.b1[low - 1])) if low else (0, 0)
    sides = [(x[part] - base).tolist() for x, base in zip(kept[:4], (base_a, base_a, base_b, base_b), strict=True)]
    found: list[Opcode] = []
    i = j = 0
    for start_a, end_a, start_b, end_b in zip(*sides, strict=True):
        if start_a > i or start_b > j:
            tag: Tag = "replace" if start_a > i and start_b > j else "delete" if start_a > i else "insert"
            found.append(Opcode(tag, i, start_a, j, start_b))
        if end_a > start_a:
            found.append(Opcode("equal", start_a, end_a, start_b, end_b))
        i, j = end_a, end_b
    return found


def changes(ops: Sequence[Opcode]) -> list[Opcode]:
    """The edits: opcodes that are not ``equal``."""
    return [op for op in ops if op.tag != "equal"]


def apply(ops: Sequence[Opcode], original: str, edited: str) -> str:
    """Apply opcodes over characters to ``original``, taking inserted text from ``edited``.

    The result is ``edited``, except that kept words have the Unicode composition of ``original``.
    """
    return "".join(original[i1:i2] if tag == "equal" else edited[j1:j2] for tag, i1, i2, j1, j2 in ops)


def undo(original: str, edited: str, edit: Opcode) -> str:
    """``edited`` with one edit (an opcode over characters) undone."""
    return edited[: edit.j1] + original[edit.i1 : edit.i2] + edited[edit.j2 :]


def _compare_words(a: Words, b: Words, options: AlignOptions) -> Alignment:
    by_raw = options.align == "levenshtein"
    ids_a, ids_b = (a.raw, b.raw) if by_raw else (a.ids, b.ids)
    i, j = _match(_sides(ids_a, a.starts, a.rows), _sides(ids_b, b.starts, b.rows), options)
    if options.align == "blocks":
        i, j = _keep_contained(_close(i, i + 1, j, j + 1, a.rows, b.rows), i, j, a.ids, b.ids)
        stay = ~(_in_rewritten(a.starts, i, options.whole) | _in_rewritten(b.starts, j, options.whole))
        i, j = i[stay], j[stay]
    same = a.raw[i] == b.raw[j]
    a0, b0 = np.where(same, a.begins[i], a.bare[i]), np.where(same, b.begins[j], b.bare[j])
    return _close(a0, a.ends[i], b0, b.ends[j], a.places, b.places)


def _sides(ids: NDArray[Any], starts: NDArray[np.bool_], rows: Ints) -> list[Side]:
    low = ids.astype(np.uint32).view(np.int32) & np.int32(0x7FFFFFFF)  # 31 bits; collisions are checked later
    cut = zip(_parts(low, rows), _parts(starts, rows), strict=True)
    return [Side(*side) for side in cut]


def _parts(values: NDArray[Any], rows: Ints) -> list[NDArray[Any]]:
    cuts = rows.tolist()
    return [values[i:j] for i, j in pairwise(cuts)]


def _match(a: list[Side], b: list[Side], options: AlignOptions) -> tuple[Ints, Ints]:
    """Indices of the kept words (or tokens) in the joined originals, and of their matches in the edited texts."""
    pairs = list(zip(a, b, strict=True))
    cost = options.merge if options.align == "blocks" else 0
    matches = [_levenshtein(*pair) for pair in pairs] if options.align == "levenshtein" else align_blocks(pairs, cost)
    match = np.concatenate([*matches, np.zeros(0, dtype=np.int32)])
    first = bounds([len(side.ids) for side in b])[:-1]
    i = np.flatnonzero(match >= 0)
    return i, match[i] + np.repeat(first, [len(side.ids) for side in a])[i]


def _levenshtein(a: Side, b: Side) -> Match:
    """† Levenshtein alignment with unit costs."""
    match = np.full(len(a.ids), -1, dtype=np.int32)
    one, other = (array("i", side.ids.tobytes()) for side in (a, b))
    swapped = (len(one), one) > (len(other), other)  # ties must not depend on the order of the sides
    for op in Levenshtein.opcodes(other, one) if swapped else Levenshtein.opcodes(one, other):
        if op.tag == "equal":
            i, j = (op.dest_start, op.src_start) if swapped else (op.src_start, op.dest_start)
            match[i : i + op.src_end - op.src_start] = np.arange(j, j + op.src_end - op.src_start)
    return match


def _keep_contained(kept: Alignment, i: Ints, j: Ints, a: NDArray[Any], b: NDArray[Any]) -> tuple[Ints, Ints]:
    """Turn replacements into pure insertions or deletions where one side contains the words of the other in order.

    Args:
        kept: alignment over words.
        i: indices of the kept words of the originals.
        j: indices of the kept words of the edited texts.
        a: word ids of the originals.
        b: word ids of the edited texts.

    Returns:
        ``i`` and ``j`` with the contained words added.
    """
    before_a, before_b = _before(kept.a1), _before(kept.b1)
    added: list[tuple[int, int]] = []
    for k in np.flatnonzero((kept.a0 > before_a) & (kept.b0 > before_b)).tolist():
        one, other = a[before_a[k] : kept.a0[k]].tolist(), b[before_b[k] : kept.b0[k]].tolist()
        # Ties must not depend on the order of the sides.
        swapped = len(one) > len(other)
        short, long = (other, one) if swapped else (one, other)
        if short[0] in long and LCSseq.similarity(short, long) == len(short):
            for op in Indel.opcodes(short, long):
                if op.tag == "equal":
                    at = (op.dest_start, op.src_start) if swapped else (op.src_start, op.dest_start)
                    n = op.src_end - op.src_start
                    added += [(before_a[k] + at[0] + x, before_b[k] + at[1] + x) for x in range(n)]
    if not added:
        return i, j
    i, j = np.append(i, [x for x, _ in added]), np.append(j, [y for _, y in added])
    order = np.argsort(i)
    return i[order], j[order]


def _in_rewritten(starts: NDArray[np.bool_], kept: Ints, whole: float) -> NDArray[np.bool_]:
    """For each kept word, whether at least the share ``whole`` of its sentence changed."""
    sentence = np.cumsum(starts)
    size = np.bincount(sentence, minlength=1)
    kept_words = np.bincount(sentence[kept], minlength=len(size))
    rewritten: NDArray[np.bool_] = 1 - kept_words / np.maximum(size, 1) >= whole
    return rewritten[sentence[kept]]


def _close(a0: Ints, a1: Ints, b0: Ints, b1: Ints, rows_a: Ints, rows_b: Ints) -> Alignment:
    """Build an alignment from non-empty pieces: join adjacent ones, and add the empty piece that ends each pair."""
    at = np.searchsorted(a0, rows_a[1:])
    new_piece = np.ones(len(a0) + 1, dtype=bool)
    new_piece[1:-1] = (a0[1:] > a1[:-1]) | (b0[1:] > b1[:-1])
    new_piece[at] = True
    begin, last = np.flatnonzero(new_piece[:-1]), np.flatnonzero(new_piece[1:])
    at = np.searchsorted(begin, at)
    a0, a1 = (np.insert(x, at, rows_a[1:]) for x in (a0[begin], a1[last]))
    b0, b1 = (np.insert(x, at, rows_b[1:]) for x in (b0[begin], b1[last]))
    return Alignment(a0, a1, b0, b1, at + np.arange(len(at)))


def _before(ends: Ints) -> Ints:
    """End of the previous piece, for each piece; 0 for the first."""
    return np.concatenate([[0], ends[:-1]])


def _numbers(kept: Alignment) -> Spans:
    """(K,): number of edits before each piece in its pair."""
    changed = (kept.a0 > _before(kept.a1)) | (kept.b0 > _before(kept.b1))
    total = np.cumsum(changed)
    earlier = np.concatenate([[0], total[kept.stops]])[:-1]
    numbers: Ints = total - np.repeat(earlier, np.diff(kept.stops, prepend=-1))
    return numbers.astype(np.int32)


def _omitted(kept: Alignment) -> tuple[Ints, Spans]:
    """Indices of the pieces that follow a pure insertion, and the numbers of these edits."""
    piece = np.flatnonzero((kept.a0 == _before(kept.a1)) & (kept.b0 > _before(kept.b1)))
    return piece, _numbers(kept)[piece]


def _are_equal(a: NDArray[np.uint32], b: NDArray[np.uint32], kept: Alignment) -> bool:
    """Whether the kept text is equal on both sides, up to Unicode composition."""
    in_a, in_b = spans(kept)
    same_a, same_b = a[in_a == 0], b[in_b == 0]
    lengths_a, lengths_b = kept.a1 - kept.a0, kept.b1 - kept.b0
    if np.array_equal(lengths_a, lengths_b) and np.array_equal(same_a, same_b):
        return True
    one, cuts_one = composed(same_a, bounds(lengths_a.tolist()))
    other, cuts_other = composed(same_b, bounds(lengths_b.tolist()))
    return np.array_equal(cuts_one, cuts_other) and np.array_equal(one, other)


def _up_to(marks: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(C + 1,): number of True marks before each position."""
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(marks, dtype=np.int32)])


def _next(marks: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(C + 1,): position of the first True mark at or after each position; C if there is none."""
    at = np.append(np.flatnonzero(marks), len(marks)).astype(np.int32)
    return np.repeat(at, np.diff(at, prepend=np.int32(-1)))
