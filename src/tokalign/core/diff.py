"""What an edit changed, and the label that every token gets for it.

Pure: no I/O, no torch, no tokenizer; many pairs at a time, and no Python loop over words, characters or tokens.
† marks what is the paper's (Xu et al., ACL 2024); the rest is ours.

Two units of alignment:

* ``token`` †: token ids (:func:`compare_tokens`).
* ``word``: words (:func:`compare_words`), carried over to tokens by character offsets (:func:`project`). One
  diff serves every tokenizer, and an edited word is labelled whole: aligned by token, the subwords that two
  different words happen to share stay neutral.

Either gives a :class:`Alignment`, from which come labels (:func:`spans`), and for one pair :func:`opcodes`.
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
BAD, NEUTRAL, GOOD = -1, 0, 1
NEVER = 2.0
"""A share of a sentence that is never reached."""


class AlignOptions(NamedTuple):
    """How to align.

    ``levenshtein`` † replaces, inserts and removes as little as possible (words with the white space before them);
    ``lcs`` keeps as much as possible; ``blocks`` keeps long runs (see :mod:`tokalign.core.align`). The other two are
    for blocks alone.
    """

    align: Literal["blocks", "lcs", "levenshtein"] = "blocks"
    merge: int = 2
    """A run of so many kept words, or fewer, inside an edit is a part of it."""
    whole: float = 0.8
    """A sentence of which this share changed was changed as a whole; above 1, never."""


class Alignment(NamedTuple):
    """What is kept of N pairs: pieces in order, and after those of each pair an empty one where the pair ends.

    Places (characters or tokens) count through all texts of a side, joined. What lies between one piece and the
    next is an edit, if anything does.
    """

    a0: Ints
    """(K,): where a piece begins in the originals, ``a1``: ends; ``b0``, ``b1``: in the edited texts."""
    a1: Ints
    b0: Ints
    b1: Ints
    stops: Ints
    """(N,): the empty piece that ends each pair."""


class Opcode(NamedTuple):
    """``original[i1:i2]`` becomes ``edited[j1:j2]``; half-open, in order, covering both sides."""

    tag: Tag
    i1: int
    i2: int
    j1: int
    j2: int


def words(text: str) -> list[str]:
    """Words, each with the white space before it; joined they are ``text``."""
    found = split([text])
    return [text[i:j] for i, j in zip(found.begins.tolist(), found.ends.tolist(), strict=True)]


def similarity(original: str, edited: str) -> float:
    """Share of words kept, 0 to 1: ``1 - indel distance / (words of both)``; 1 for two empty texts."""
    return similarities(split([original]), split([edited]))[0]


def similarities(originals: Words, editeds: Words) -> list[float]:
    """:func:`similarity` of many pairs."""
    sides = (_parts(side.raw, side.rows) for side in (originals, editeds))
    return [
        Indel.normalized_similarity(array("Q", a.tobytes()), array("Q", b.tobytes()))
        for a, b in zip(*sides, strict=True)
    ]


def compare_words(originals: Words, editeds: Words, options: AlignOptions) -> Alignment:
    """Which characters each edit kept, from alignments over words.

    But for ``levenshtein``, white space before a word is no part of it: where only that differs, the word is kept.
    A word that only composes its letters otherwise (NFC, NFD) is kept, so that the two sides of what is kept can differ
    in characters.
    """
    kept = _compare_words(originals, editeds, options)
    if not _are_equal(originals.characters, editeds.characters, kept):  # two unequal words have one hash
        a, b = number(originals, editeds)
        kept = _compare_words(a, b, options)
    return kept


def compare_tokens(a: NDArray[Any], rows_a: Ints, b: NDArray[Any], rows_b: Ints, options: AlignOptions) -> Alignment:
    """Which tokens each edit kept; sentences play no part.

    Args:
        a: (T,) ids of all originals, joined.
        rows_a: (N + 1,): the ids of original ``k`` are ``a[rows_a[k]:rows_a[k + 1]]``.
        b: ids of the edited texts.
        rows_b: as ``rows_a``.
        options: how to align.
    """
    i, j = _match(
        _sides(a, np.zeros(len(a), dtype=bool), rows_a), _sides(b, np.zeros(len(b), dtype=bool), rows_b), options
    )
    return _close(i, i + 1, j, j + 1, rows_a, rows_b)


def spans(kept: Alignment) -> tuple[Spans, Spans]:
    """For every place of originals and edited texts, the number (from 1, by pair) of the edit it is part of, or 0.

    † What is part of an edit is bad in the original and good in the edited text. Both sides of a replacement carry
    the same number.
    """
    numbers = np.stack([_numbers(kept), np.zeros(len(kept.a0), dtype=np.int32)], axis=1).ravel()
    a, b = (
        np.repeat(numbers, np.stack([start - _before(end), end - start], axis=1).ravel())
        for start, end in ((kept.a0, kept.a1), (kept.b0, kept.b1))
    )
    return a, b


def edits(kept: Alignment) -> Ints:
    """(N,): how many edits each pair has."""
    return _numbers(kept)[kept.stops].astype(np.int64)


def project(of_characters: Spans, words: Words, offsets: NDArray[Any], tokens: Ints) -> Spans:
    """Spans of characters, carried over to tokens.

    A token belongs to the edit of the first changed character it touches, and to none if it touches none; white
    space counts only in tokens that are nothing else.

    Args:
        of_characters: (C,) :func:`spans` of all texts, joined.
        words: the texts.
        offsets: (T, 2) ``[start, end)`` of every token in its own text, in code points. One that is empty (EOS)
            belongs to no edit.
        tokens: (N + 1,): the tokens of text ``k`` are ``tokens[k]:tokens[k + 1]``.
    """
    first = np.repeat(words.places[:-1].astype(np.int32), np.diff(tokens))
    starts, ends = offsets[:, 0] + first, offsets[:, 1] + first
    found = _first(of_characters, words.solid, starts, ends)
    solid = _up_to(words.solid)
    blank = np.flatnonzero(solid.take(starts) == solid.take(ends))
    found[blank] = _first(of_characters, True, starts[blank], ends[blank])
    return found


def _first(of_characters: Spans, counts: Any, starts: Spans, ends: Spans) -> Spans:
    """(T,): the edit of the first changed character in each token, of those that count; 0: none."""
    changed = (of_characters != 0) & counts
    up_to = _up_to(changed)
    low = up_to.take(starts)
    numbers = np.append(of_characters[changed], np.int32(0))
    return numbers.take(low) * (up_to.take(ends) > low)


def omissions(kept: Alignment, words: Words, offsets: NDArray[Any], tokens: Ints) -> Spans:
    """(T,): the number of the edit that put something in before a token of an original and removed nothing; 0: none.

    These are the tokens of the next character that is no white space, or EOS; the arguments are as for
    :func:`project`, and each text ends with EOS.
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
    """As :func:`omissions`, where tokens were compared."""
    of_tokens = np.zeros(kept.a1[-1], dtype=np.int32)
    piece, numbers = _omitted(kept)
    of_tokens[kept.a0[piece]] = numbers
    return of_tokens


def opcodes(kept: Alignment, pair: int = 0) -> list[Opcode]:
    """The opcodes of one pair; where something changed, it is one opcode."""
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
    """Text that the opcodes (over characters) make of ``original``, taking what is new from ``edited``.

    It is ``edited``, but that kept words are composed as they were in ``original``.
    """
    return "".join(original[i1:i2] if tag == "equal" else edited[j1:j2] for tag, i1, i2, j1, j2 in ops)


def undo(original: str, edited: str, edit: Opcode) -> str:
    """``edited`` with one edit (over characters) taken back."""
    return edited[: edit.j1] + original[edit.i1 : edit.i2] + edited[edit.j2 :]


def _compare_words(a: Words, b: Words, options: AlignOptions) -> Alignment:
    by_raw = options.align == "levenshtein"
    ids_a, ids_b = (a.raw, b.raw) if by_raw else (a.ids, b.ids)
    i, j = _match(_sides(ids_a, a.starts, a.rows), _sides(ids_b, b.starts, b.rows), options)
    if options.align == "blocks":
        i, j = _keep_contained(_close(i, i + 1, j, j + 1, a.rows, b.rows), i, j, a.ids, b.ids)
        stay = ~(_lost(a.starts, i, options.whole) | _lost(b.starts, j, options.whole))
        i, j = i[stay], j[stay]
    same = a.raw[i] == b.raw[j]
    a0, b0 = np.where(same, a.begins[i], a.bare[i]), np.where(same, b.begins[j], b.bare[j])
    return _close(a0, a.ends[i], b0, b.ends[j], a.places, b.places)


def _sides(ids: NDArray[Any], starts: NDArray[np.bool_], rows: Ints) -> list[Side]:
    low = ids.astype(np.uint32).view(np.int32) & np.int32(0x7FFFFFFF)  # hashes that are told apart by this much
    cut = zip(_parts(low, rows), _parts(starts, rows), strict=True)
    return [Side(*side) for side in cut]


def _parts(values: NDArray[Any], rows: Ints) -> list[NDArray[Any]]:
    cuts = rows.tolist()
    return [values[i:j] for i, j in pairwise(cuts)]


def _match(a: list[Side], b: list[Side], options: AlignOptions) -> tuple[Ints, Ints]:
    """Which words (or tokens) are kept, and as which; numbers count through all texts of a side."""
    pairs = list(zip(a, b, strict=True))
    cost = options.merge if options.align == "blocks" else 0
    matches = [_levenshtein(*pair) for pair in pairs] if options.align == "levenshtein" else align_blocks(pairs, cost)
    match = np.concatenate([*matches, np.zeros(0, dtype=np.int32)])
    first = bounds([len(side.ids) for side in b])[:-1]
    i = np.flatnonzero(match >= 0)
    return i, match[i] + np.repeat(first, [len(side.ids) for side in a])[i]


def _levenshtein(a: Side, b: Side) -> Match:
    """† Unit costs."""
    match = np.full(len(a.ids), -1, dtype=np.int32)
    one, other = (array("i", side.ids.tobytes()) for side in (a, b))
    turned = (len(one), one) > (len(other), other)  # which of several optima must not depend on who is who
    for op in Levenshtein.opcodes(other, one) if turned else Levenshtein.opcodes(one, other):
        if op.tag == "equal":
            i, j = (op.dest_start, op.src_start) if turned else (op.src_start, op.dest_start)
            match[i : i + op.src_end - op.src_start] = np.arange(j, j + op.src_end - op.src_start)
    return match


def _keep_contained(kept: Alignment, i: Ints, j: Ints, a: NDArray[Any], b: NDArray[Any]) -> tuple[Ints, Ints]:
    """Where one side of an edit holds all words of the other, in order, nothing was removed (or put in): keep them.

    Args:
        kept: over words.
        i: words that are kept of the originals.
        j: … of the edited texts.
        a: ids of the words of the originals.
        b: … of the edited texts.
    """
    before_a, before_b = _before(kept.a1), _before(kept.b1)
    more: list[tuple[int, int]] = []
    for k in np.flatnonzero((kept.a0 > before_a) & (kept.b0 > before_b)).tolist():
        one, other = a[before_a[k] : kept.a0[k]].tolist(), b[before_b[k] : kept.b0[k]].tolist()
        # Which of several ways the words of the shorter stand in the longer must not depend on who is who.
        turned = len(one) > len(other)
        short, long = (other, one) if turned else (one, other)
        if short[0] in long and LCSseq.similarity(short, long) == len(short):
            for op in Indel.opcodes(short, long):
                if op.tag == "equal":
                    at = (op.dest_start, op.src_start) if turned else (op.src_start, op.dest_start)
                    n = op.src_end - op.src_start
                    more += [(before_a[k] + at[0] + x, before_b[k] + at[1] + x) for x in range(n)]
    if not more:
        return i, j
    i, j = np.append(i, [x for x, _ in more]), np.append(j, [y for _, y in more])
    order = np.argsort(i)
    return i[order], j[order]


def _lost(starts: NDArray[np.bool_], kept: Ints, whole: float) -> NDArray[np.bool_]:
    """Which of the kept words are of a sentence of which the share ``whole`` changed."""
    sentence = np.cumsum(starts)
    size = np.bincount(sentence, minlength=1)
    left = np.bincount(sentence[kept], minlength=len(size))
    lost: NDArray[np.bool_] = 1 - left / np.maximum(size, 1) >= whole
    return lost[sentence[kept]]


def _close(a0: Ints, a1: Ints, b0: Ints, b1: Ints, rows_a: Ints, rows_b: Ints) -> Alignment:
    """Pieces (none is empty), joined where nothing lies between, and where each pair begins and ends on either side."""
    at = np.searchsorted(a0, rows_a[1:])
    fresh = np.ones(len(a0) + 1, dtype=bool)
    fresh[1:-1] = (a0[1:] > a1[:-1]) | (b0[1:] > b1[:-1])
    fresh[at] = True
    begin, last = np.flatnonzero(fresh[:-1]), np.flatnonzero(fresh[1:])
    at = np.searchsorted(begin, at)
    a0, a1 = (np.insert(x, at, rows_a[1:]) for x in (a0[begin], a1[last]))
    b0, b1 = (np.insert(x, at, rows_b[1:]) for x in (b0[begin], b1[last]))
    return Alignment(a0, a1, b0, b1, at + np.arange(len(at)))


def _before(ends: Ints) -> Ints:
    """Where the piece before each ends."""
    return np.concatenate([[0], ends[:-1]])


def _numbers(kept: Alignment) -> Spans:
    """(K,): how many edits its pair has up to each piece."""
    changed = (kept.a0 > _before(kept.a1)) | (kept.b0 > _before(kept.b1))
    total = np.cumsum(changed)
    earlier = np.concatenate([[0], total[kept.stops]])[:-1]
    numbers: Ints = total - np.repeat(earlier, np.diff(kept.stops, prepend=-1))
    return numbers.astype(np.int32)


def _omitted(kept: Alignment) -> tuple[Ints, Spans]:
    """Pieces before which something was put in and nothing removed, and the numbers of these edits."""
    piece = np.flatnonzero((kept.a0 == _before(kept.a1)) & (kept.b0 > _before(kept.b1)))
    return piece, _numbers(kept)[piece]


def _are_equal(a: NDArray[np.uint32], b: NDArray[np.uint32], kept: Alignment) -> bool:
    """Whether what is kept is the same on both sides, composed or not."""
    in_a, in_b = spans(kept)
    same_a, same_b = a[in_a == 0], b[in_b == 0]
    lengths_a, lengths_b = kept.a1 - kept.a0, kept.b1 - kept.b0
    if np.array_equal(lengths_a, lengths_b) and np.array_equal(same_a, same_b):
        return True
    one, cuts_one = composed(same_a, bounds(lengths_a.tolist()))
    other, cuts_other = composed(same_b, bounds(lengths_b.tolist()))
    return np.array_equal(cuts_one, cuts_other) and np.array_equal(one, other)


def _up_to(marks: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(C + 1,): how many are marked before each place."""
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(marks, dtype=np.int32)])


def _next(marks: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(C + 1,): the first marked place at or after each; C if there is none."""
    at = np.append(np.flatnonzero(marks), len(marks)).astype(np.int32)
    return np.repeat(at, np.diff(at, prepend=np.int32(-1)))
