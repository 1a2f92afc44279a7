"""Texts cut into words, many at a time: no Python loop runs over words or characters.

A word is a run of letters, digits and ``_`` with the marks that go with them, or a single other character: a
punctuation mark, an emoji with what modifies or is joined to it, a Chinese character (scripts that write no
spaces are cut into characters, and katakana into its runs). White space belongs to the word that follows; where
none does, it is a word of its own.
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
_SENTENCE_ENDS = [ord(c) for c in ".!?…。！？"]  # noqa: RUF001
_JOINER = 0x200D
_AT_ONCE = 20_000
"""Characters worked on at a time: their arrays fit a processor's cache."""
_NO_SPACES = ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x309F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF))
"""Thai and Lao, Burmese, Khmer, hiragana, Chinese characters."""


class Words(NamedTuple):
    """The words of many texts, one after the other; places count the characters of all texts joined."""

    begins: Ints
    """(W,): where each begins, the white space before it included."""
    bare: Ints
    """(W,): … and without it."""
    ends: Ints
    ids: Ints
    """(W,): hash of the word without its white space."""
    raw: Ints
    """(W,): … and with it."""
    starts: NDArray[np.bool_]
    """(W,): a sentence begins with it."""
    rows: Ints
    """(N + 1,): the words of text ``k`` are ``rows[k]:rows[k + 1]``."""
    places: Ints
    """(N + 1,): its characters are ``places[k]:places[k + 1]``."""


def codes(texts: Sequence[str]) -> NDArray[np.uint32]:
    """The characters of all texts, joined."""
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def spaces(characters: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which characters are white space."""
    return _classes()[characters] == _SPACE


def split(texts: Sequence[str], seed: int = 0) -> Words:
    """Cut texts into words.

    Args:
        texts: any.
        seed: of the hashes. Equal words have equal hashes; unequal ones have too, about never.
    """
    groups: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size > _AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(text)
        size += len(text)
    parts = [_split(group, seed) for group in groups]
    characters = bounds([part.places[-1] for part in parts])[:-1].tolist()
    words = bounds([part.rows[-1] for part in parts])[:-1].tolist()
    moved = [
        (p.begins + c, p.bare + c, p.ends + c, p.ids, p.raw, p.starts, p.rows[1:] + w, p.places[1:] + c)
        for p, c, w in zip(parts, characters, words, strict=True)
    ]
    *columns, rows, places = (np.concatenate(some) for some in zip(*moved, strict=True))
    return Words(*columns, *(np.concatenate([[0], ends]) for ends in (rows, places)))


def _split(texts: Sequence[str], seed: int) -> Words:
    characters = codes(texts)
    places = bounds([len(text) for text in texts])
    kinds, first = _classes()[characters], np.zeros(len(characters), dtype=bool)
    first[places[:-1][np.diff(places) > 0]] = True
    solid = kinds != _SPACE
    head = solid & ~_joined(characters, kinds, first)
    head[_trailing(solid, places)] = True
    after_word = np.zeros_like(head)
    after_word[1:] = ~solid[1:] & solid[:-1]
    edges = np.flatnonzero(head | first | after_word)  # of words, and of the white space between
    stops = np.append(edges[1:], len(characters))
    is_word = head[edges]
    hashes = _hash(characters, edges, stops, seed)
    bare, ends = edges[is_word], stops[is_word]
    begins = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    before = np.zeros(len(edges), dtype=np.uint64)  # the hash of the white space before
    before[1:] = np.where(is_word[:-1], np.uint64(0), hashes[:-1])
    ids = hashes[is_word]
    raw = ids + before[is_word] * np.uint64(0x9E3779B97F4A7C15)
    rows = np.searchsorted(ends, places, side="right")
    lines = np.concatenate([[0], np.cumsum(characters == 10)])
    starts = np.zeros(len(ends), dtype=bool)
    starts[1:] = (ends - bare)[:-1] == 1
    starts[1:] &= np.isin(characters[bare[:-1]], _SENTENCE_ENDS)
    starts |= lines[ends] > lines[begins]
    starts[rows[:-1][np.diff(rows) > 0]] = True
    return Words(begins, bare, ends, ids.view(np.int64), raw.view(np.int64), starts, rows, places)


def bounds(lengths: Sequence[int]) -> Ints:
    """(N + 1,): where each of N pieces begins, and where the last ends, when they stand one after the other."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])


def _joined(characters: NDArray[Any], kinds: NDArray[np.uint8], first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which characters belong to the word of the one before."""
    n = len(kinds)
    mark = kinds == _MARK
    # What a character stands on: itself, or for a mark the last character that is none.
    at = np.maximum.accumulate(np.where(mark & ~first, 0, np.arange(n)))
    base = np.where(mark, kinds[at], kinds) if n else kinds
    joined = np.zeros(n, dtype=bool)
    before, now = base[:-1], kinds[1:]
    alike = (before == now) & (now >= _RUNS)
    glued = (characters[:-1] == _JOINER) & (before == _SINGLE) & (now == _SINGLE)
    joined[1:] = alike | glued | (mark[1:] & (before != _SPACE))
    return joined & ~first


def _trailing(solid: NDArray[np.bool_], places: Ints) -> Ints:
    """Where the white space begins that ends a text."""
    ends = np.concatenate([[0], np.flatnonzero(solid) + 1])
    last = ends[np.searchsorted(ends, places[1:], side="right") - 1]
    starts = np.maximum(last, places[:-1])
    return starts[starts < places[1:]]


def _hash(characters: NDArray[np.uint32], starts: Ints, stops: Ints, seed: int) -> NDArray[np.uint64]:
    """A hash of every piece of the text; the pieces lie one after the other."""
    lengths = stops - starts
    place = np.arange(len(characters)) - np.repeat(starts, lengths)
    powers = np.full(int(lengths.max(initial=0)) + 1, 0xD6E8FEB86659FD93 + 2 * seed, dtype=np.uint64)
    np.multiply.accumulate(powers, out=powers)
    mixed = characters.astype(np.uint64) + np.uint64(1)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    total = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mixed * powers[place], dtype=np.uint64)])
    return total[stops] - total[starts]


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
