"""Word segmentation, vectorised over the characters of many texts.

A word is a run of letters, digits and ``_`` with their combining marks, a run of katakana, or a single other
character: a punctuation mark, an emoji with its modifiers and joined emoji, a character of a script without spaces
(such as Chinese). White space belongs to the word that follows it; at the end of a text it is a separate word. Hashes
of words are computed in NFC, so words are equal whether an accent is a separate character (NFD) or not.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Classes of characters. Neighbours of the same class form one word if the class is _RUNS or higher.
_SPACE, _SINGLE, _MARK, _RUNS, _KATAKANA, _FLAG = range(6)
_ENDS_SENTENCE = np.zeros(0x110000, dtype=bool)
_ENDS_SENTENCE[[ord(c) for c in ".!?…。！？"]] = True
_JOINER = 0x200D
_CHUNK = 20_000
"""Characters per chunk, so that the arrays of a chunk fit in the CPU cache."""
_NO_SPACES = (
    (0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x309F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)  # fmt: skip
"""Code point ranges of scripts without spaces: Thai and Lao, Burmese, Khmer, hiragana, Chinese characters (with the
compatibility ideographs)."""


class Words(NamedTuple):
    """N texts of C characters and W words, joined. Positions count the characters of the joined texts."""

    characters: NDArray[np.uint32]
    """(C,): code points."""
    solid: NDArray[np.bool_]
    """(C,): True if the character is not white space."""
    begins: Ints
    """(W,): start of each word, including the white space before it."""
    bare: Ints
    """(W,): start of each word, without the white space before it."""
    ends: Ints
    """(W,): end of each word, exclusive."""
    ids: NDArray[np.uint64]
    """(W,): hash of the word in NFC, without the white space before it. Equal words have equal hashes; collisions are
    rare."""
    raw: NDArray[np.uint64]
    """(W,): as ``ids``, with the white space before the word."""
    starts: NDArray[np.bool_]
    """(W,): True if the word begins a sentence."""
    rows: Ints
    """(N + 1,): the words of text ``k`` are ``rows[k]:rows[k + 1]``."""
    places: Ints
    """(N + 1,): the characters of text ``k`` are ``places[k]:places[k + 1]``."""


def split(texts: Sequence[str]) -> Words:
    """Split texts into words."""
    groups: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size > _CHUNK:
            groups.append([])
            size = 0
        groups[-1].append(text)
        size += len(text)
    parts = [_split(group) for group in groups]
    if len(parts) == 1:
        return parts[0]
    at = bounds([part.places[-1] for part in parts])[:-1].tolist()
    word = bounds([part.rows[-1] for part in parts])[:-1].tolist()
    shifted = [
        p._replace(begins=p.begins + c, bare=p.bare + c, ends=p.ends + c, rows=p.rows[1:] + w, places=p.places[1:] + c)
        for p, c, w in zip(parts, at, word, strict=True)
    ]
    whole = Words(*(np.concatenate(some) for some in zip(*shifted, strict=True)))
    return whole._replace(rows=np.insert(whole.rows, 0, 0), places=np.insert(whole.places, 0, 0))


def number(a: Words, b: Words) -> tuple[Words, Words]:
    """Replace the hashes of both sides by consecutive numbers, which are equal only for equal words.

    Slow: loops over words. Use it after a hash collision.
    """
    known: dict[bytes, int] = {}

    def numbers(side: Words, begins: Ints) -> NDArray[np.uint64]:
        characters, cuts = composed(side.characters, np.stack([begins, side.ends], axis=1).ravel())
        pairs = zip(cuts[::2].tolist(), cuts[1::2].tolist(), strict=True)
        found = (known.setdefault(characters[i:j].tobytes(), len(known)) for i, j in pairs)
        return np.fromiter(found, np.uint64, len(begins))

    one, other = (side._replace(ids=numbers(side, side.bare), raw=numbers(side, side.begins)) for side in (a, b))
    return one, other


def joins(characters: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Class of each character (0: never joins its neighbours), and whether it is a combining mark.

    Characters a and b that follow each other are in the same word if their classes are equal and not 0, or if b is a
    mark.

    Args:
        characters: single characters, N of them.

    Returns:
        (N,) classes and (N,) bool.
    """
    kinds = _classes().take(np.array([ord(c) for c in characters], dtype=np.int64))
    return np.where(kinds >= _RUNS, kinds, 0).astype(np.uint8), kinds == _MARK


def composed(characters: NDArray[np.uint32], cuts: Ints) -> tuple[NDArray[np.uint32], Ints]:
    """Normalise pieces of text to NFC; nothing is composed across a cut.

    Args:
        characters: (C,) code points.
        cuts: (K,) positions between pieces, in order.

    Returns:
        The code points in NFC, and the (K,) positions of the cuts in them.
    """
    # A surrogate that is not in the text separates the pieces: NFC leaves it alone.
    separator = next(code for code in range(0xD800, 0xE000) if not (characters == code).any())
    text = np.insert(characters, cuts, np.uint32(separator)).tobytes().decode("utf-32-le", "surrogatepass")
    normalised = _code_points(unicodedata.normalize("NFC", text))
    is_cut = normalised == separator
    return normalised[~is_cut], np.flatnonzero(is_cut) - np.arange(len(cuts))


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def bounds(lengths: Sequence[int]) -> Ints:
    """(N + 1,): bounds of N joined pieces of the given lengths; piece ``k`` is ``bounds[k]:bounds[k + 1]``."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])


def _split(texts: Sequence[str]) -> Words:
    whole = "".join(texts)
    characters = _code_points(whole)
    places = bounds([len(text) for text in texts])
    first_of_text = places[:-1][np.diff(places) > 0]  # first characters of texts
    kinds = _classes().take(characters)
    solid = kinds != _SPACE
    head = solid & ~_joined(characters, kinds, first_of_text)
    head[_trailing(solid, places)] = True
    edge = head.copy()  # start of a word, or of a run of white space
    edge[1:] |= ~solid[1:] & solid[:-1]
    edge[first_of_text] = True
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
    """(C,): whether each character is in the same word as the one before; ``first``: first characters of texts."""
    joined = np.zeros(len(kinds), dtype=bool)
    current, mark = kinds[1:], kinds == _MARK
    if mark.any():
        # Base of each character: itself, or for a mark the last character before it that is not a mark.
        at = np.arange(len(kinds))
        base_before = mark.copy()
        base_before[first] = False
        at[base_before] = 0
        base_kind = np.where(mark, kinds[np.maximum.accumulate(at)], kinds)[:-1]
        zwj_joined = (characters[:-1] == _JOINER) & (base_kind == _SINGLE) & (current == _SINGLE)
        joined[1:] = (base_kind == current) & (current >= _RUNS) | zwj_joined | (mark[1:] & (base_kind != _SPACE))
    else:
        np.equal(kinds[:-1], current, out=joined[1:])
        joined[1:] &= current >= _RUNS
    joined[first] = False
    return joined


def _trailing(solid: NDArray[np.bool_], places: Ints) -> Ints:
    """Start of the trailing white space of each text that has any."""
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
    """Hashes of all words, without and with the white space before them.

    The polynomial hash Σ mix(character) · r^position modulo 2^64, folded. A range is the difference of two prefix sums.
    """
    n = len(characters)
    rising, falling = _powers(1 << max(n, _CHUNK).bit_length())
    total = np.zeros(n + 1, dtype=np.uint64)
    np.cumsum(_mixed().take(characters) * rising[:n], out=total[1:])
    at_begin, at_bare, at_end = total.take(begins), total.take(bare), total.take(ends)
    word = (at_end - at_bare) * falling.take(bare)
    space = (at_bare - at_begin) * falling.take(begins)
    return _fold(word), _fold(word + space * np.uint64(0x9E3779B97F4A7C15))


def _fold(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the upper half of each hash into the lower half."""
    return hashes ^ (hashes >> np.uint64(32))


@cache
def _mixed() -> NDArray[np.uint64]:
    """A fixed random number for every code point."""
    return np.random.default_rng(0).integers(0, 2**64, 0x110000, dtype=np.uint64)


@cache
def _powers(n: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(n,) powers of an odd base modulo 2^64, and (n,) powers of its inverse."""
    base = 0xBF58476D1CE4E5B9
    tables = []
    for factor in (base, pow(base, -1, 2**64)):
        powers = np.full(n, factor, dtype=np.uint64)
        powers[0] = 1
        tables.append(np.multiply.accumulate(powers))
    return tables[0], tables[1]


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
