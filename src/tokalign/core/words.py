"""Texts cut into words, many at a time: no Python loop runs over words or characters.

A word is a run of letters, digits and ``_`` with the marks that go with them, or a single other character: a
punctuation mark, an emoji with what modifies or is joined to it, a Chinese character (scripts that write no
spaces are cut into characters, and katakana into its runs). White space belongs to the word that follows; where
none does, it is a word of its own. Words are equal where their letters are, however those are composed: an accent may
be a character of its own (NFD) or not (NFC), and hashes are those of the composed form.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Classes of characters. Neighbours of one class are one word, where the class is RUNS or higher.
_SPACE, _SINGLE, _MARK, _RUNS, _KATAKANA, _FLAG = range(6)
_ENDS_SENTENCE = np.zeros(0x110000, dtype=bool)
_ENDS_SENTENCE[[ord(c) for c in ".!?…。！？"]] = True
_JOINER = 0x200D
_AT_ONCE = 20_000
"""Characters worked on at a time: their arrays fit a processor's cache."""
_NO_SPACES = (
    (0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x309F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)  # fmt: skip
"""Thai and Lao, Burmese, Khmer, hiragana, Chinese characters and those that are the same as one of them."""


class Words(NamedTuple):
    """Many texts and their words, one text after the other; places count the characters of all texts joined."""

    characters: NDArray[np.uint32]
    """(C,): code points."""
    solid: NDArray[np.bool_]
    """(C,): the character is no white space."""
    begins: Ints
    """(W,): where each word begins, the white space before it included."""
    bare: Ints
    """(W,): … and without it."""
    ends: Ints
    ids: NDArray[np.uint64]
    """(W,): hash of the word, composed, without its white space. Equal words have equal hashes; others hardly ever."""
    raw: NDArray[np.uint64]
    """(W,): … and with it."""
    starts: NDArray[np.bool_]
    """(W,): a sentence begins with it."""
    rows: Ints
    """(N + 1,): the words of text ``k`` are ``rows[k]:rows[k + 1]``."""
    places: Ints
    """(N + 1,): its characters are ``places[k]:places[k + 1]``."""


def split(texts: Sequence[str]) -> Words:
    """Cut texts into words."""
    groups: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size > _AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(text)
        size += len(text)
    parts = [_split(group) for group in groups]
    if len(parts) == 1:
        return parts[0]
    at = bounds([part.places[-1] for part in parts])[:-1].tolist()
    word = bounds([part.rows[-1] for part in parts])[:-1].tolist()
    moved = [
        p._replace(begins=p.begins + c, bare=p.bare + c, ends=p.ends + c, rows=p.rows[1:] + w, places=p.places[1:] + c)
        for p, c, w in zip(parts, at, word, strict=True)
    ]
    whole = Words(*(np.concatenate(some) for some in zip(*moved, strict=True)))
    return whole._replace(rows=np.insert(whole.rows, 0, 0), places=np.insert(whole.places, 0, 0))


def number(a: Words, b: Words) -> tuple[Words, Words]:
    """The same words, with numbers for hashes: equal for equal words alone. Slow, a loop over words."""
    known: dict[bytes, int] = {}

    def numbers(side: Words, begins: Ints) -> NDArray[np.uint64]:
        characters, cuts = composed(side.characters, np.stack([begins, side.ends], axis=1).ravel())
        pairs = zip(cuts[::2].tolist(), cuts[1::2].tolist(), strict=True)
        found = (known.setdefault(characters[i:j].tobytes(), len(known)) for i, j in pairs)
        return np.fromiter(found, np.uint64, len(begins))

    one, other = (side._replace(ids=numbers(side, side.bare), raw=numbers(side, side.begins)) for side in (a, b))
    return one, other


def joins(characters: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Of each character, a class, 0 where it never goes on, and whether it belongs to whatever it follows.

    One word goes on from character a to b where their classes are the same and not 0, or where b is a mark.
    """
    kinds = _classes().take(np.array([ord(c) for c in characters], dtype=np.int64))
    return np.where(kinds >= _RUNS, kinds, 0).astype(np.uint8), kinds == _MARK


def composed(characters: NDArray[np.uint32], cuts: Ints) -> tuple[NDArray[np.uint32], Ints]:
    """Text in NFC, piece by piece: nothing is composed across a cut.

    Args:
        characters: (C,) code points.
        cuts: (K,) places between pieces, in order.

    Returns:
        The code points in NFC, and where the cuts are among them.
    """
    mark = next(code for code in range(0xD800, 0xE000) if not (characters == code).any())  # composes with nothing
    text = np.insert(characters, cuts, np.uint32(mark)).tobytes().decode("utf-32-le", "surrogatepass")
    made = _code_points(unicodedata.normalize("NFC", text))
    is_mark = made == mark
    return made[~is_mark], np.flatnonzero(is_mark) - np.arange(len(cuts))


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def bounds(lengths: Sequence[int]) -> Ints:
    """(N + 1,): where each of N pieces begins, and where the last ends, when they stand one after the other."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])


def _split(texts: Sequence[str]) -> Words:
    whole = "".join(texts)
    characters = _code_points(whole)
    places = bounds([len(text) for text in texts])
    first = places[:-1][np.diff(places) > 0]  # characters that begin a text
    kinds = _classes().take(characters)
    solid = kinds != _SPACE
    head = solid & ~_joined(characters, kinds, first)
    head[_trailing(solid, places)] = True
    edge = head.copy()  # of a word, or of white space before or between words
    edge[1:] |= ~solid[1:] & solid[:-1]
    edge[first] = True
    edges = np.append(np.flatnonzero(edge), len(characters))
    is_word = head.take(edges[:-1])
    bare, ends = edges[:-1][is_word], edges[1:][is_word]
    begins = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    rows = np.searchsorted(ends, places, side="right")
    starts = np.zeros(len(ends), dtype=bool)
    starts[1:] = (ends - bare)[:-1] == 1
    starts[1:] &= _ENDS_SENTENCE.take(characters[bare[:-1]])
    breaks = characters == 10
    if breaks.any():
        lines = np.concatenate([[0], np.cumsum(breaks, dtype=np.int32)])
        starts |= lines[ends] > lines[begins]
    starts[rows[:-1][np.diff(rows) > 0]] = True
    if whole.isascii() or unicodedata.is_normalized("NFC", whole):
        ids, raw = _hashes(characters, begins, bare, ends)
    else:
        plain, cuts = composed(characters, np.stack([begins, bare], axis=1).ravel())
        ids, raw = _hashes(plain, cuts[::2], cuts[1::2], np.append(cuts[2::2], len(plain)))
    return Words(characters, solid, begins, bare, ends, ids, raw, starts, rows, places)


def _joined(characters: NDArray[Any], kinds: NDArray[np.uint8], first: Ints) -> NDArray[np.bool_]:
    """Which characters belong to the word of the one before; ``first``: those that begin a text."""
    joined = np.zeros(len(kinds), dtype=bool)
    now, mark = kinds[1:], kinds == _MARK
    if mark.any():
        # What a character stands on: itself, or for a mark the last character that is none.
        at = np.arange(len(kinds))
        loose = mark.copy()
        loose[first] = False
        at[loose] = 0
        before = np.where(mark, kinds[np.maximum.accumulate(at)], kinds)[:-1]
        glued = (characters[:-1] == _JOINER) & (before == _SINGLE) & (now == _SINGLE)
        joined[1:] = (before == now) & (now >= _RUNS) | glued | (mark[1:] & (before != _SPACE))
    else:
        np.equal(kinds[:-1], now, out=joined[1:])
        joined[1:] &= now >= _RUNS
    joined[first] = False
    return joined


def _trailing(solid: NDArray[np.bool_], places: Ints) -> Ints:
    """Where the white space begins that ends a text."""
    lasts = places[1:][np.diff(places) > 0] - 1
    if solid[lasts].all():
        return lasts[:0]
    ends = np.concatenate([[0], np.flatnonzero(solid) + 1])
    last = ends[np.searchsorted(ends, places[1:], side="right") - 1]
    starts: Ints = np.maximum(last, places[:-1])
    return starts[starts < places[1:]]


def _hashes(
    characters: NDArray[np.uint32], begins: Ints, bare: Ints, ends: Ints
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Of every word, without and with the white space before it.

    Σ mix(character) · r^place modulo 2^64, folded; what lies between two places is the difference of two sums.
    """
    n = len(characters)
    rising, falling = _powers(1 << max(n, _AT_ONCE).bit_length())
    total = np.zeros(n + 1, dtype=np.uint64)
    np.cumsum(_mixed().take(characters) * rising[:n], out=total[1:])
    at_begin, at_bare, at_end = total.take(begins), total.take(bare), total.take(ends)
    word = (at_end - at_bare) * falling.take(bare)
    space = (at_bare - at_begin) * falling.take(begins)
    return _fold(word), _fold(word + space * np.uint64(0x9E3779B97F4A7C15))


def _fold(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of a hash counts in the lower half too."""
    return hashes ^ (hashes >> np.uint64(32))


@cache
def _mixed() -> NDArray[np.uint64]:
    """A random number for every code point."""
    return np.random.default_rng(0).integers(0, 2**64, 0x110000, dtype=np.uint64)


@cache
def _powers(n: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(n,) powers of an odd number modulo 2^64, and their inverses."""
    base = 0xBF58476D1CE4E5B9
    both = []
    for factor in (base, pow(base, -1, 2**64)):
        powers = np.full(n, factor, dtype=np.uint64)
        powers[0] = 1
        both.append(np.multiply.accumulate(powers))
    return both[0], both[1]


@cache
def _classes() -> NDArray[np.uint8]:
    """The class of every code point."""
    table = np.full(0x110000, _SINGLE, dtype=np.uint8)
    for code in range(0x20000):
        c = chr(code)
        if c.isspace():
            table[code] = _SPACE
        elif unicodedata.category(c)[0] == "M":
            table[code] = _MARK
        elif c.isalnum() or c == "_":
            table[code] = _RUNS
    for low, high in _NO_SPACES:
        part = table[low : high + 1]
        part[part == _RUNS] = _SINGLE
    for low, high in ((0x30A1, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)):
        table[low : high + 1] = _KATAKANA
    table[0x1F1E6:0x1F200] = _FLAG
    table[0x1F3FB:0x1F400] = table[0x200C : _JOINER + 1] = table[0xE0020:0xE0080] = table[0xE0100:0xE01F0] = _MARK
    return table
