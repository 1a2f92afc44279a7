"""Decode token ids and locate each token in the decoded text."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokalign.core.words import joins, split

_CONTEXT = 16
"""Number of preceding tokens that are decoded together with a token, because its text can depend on them."""
_REPLACEMENT = "\ufffd"
"""Replacement character, which the bytes of an incomplete character decode to."""

Places = list[tuple[int, int]]


class Decoder:
    """Decodes response ids and finds the tokens in the text.

    Args:
        backend: the tokenizer.
        hidden: ids without text: special tokens and the tokens that end a response.
        size: number of token ids.
    """

    def __init__(self, backend: Any, hidden: Collection[int], size: int) -> None:
        self._backend, self.hidden, self._size = backend, frozenset(hidden), size
        self._pieces: dict[int, str] = {}
        self._edges: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]] | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without the hidden ones."""
        return str(self._backend.decode([i for i in ids if i not in self.hidden], skip_special_tokens=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Text of each token decoded alone, special tokens included, for display."""
        for i in {*ids} - self._pieces.keys():
            self._pieces[i] = str(self._backend.decode([i], skip_special_tokens=False))
        return [self._pieces[i] for i in ids]

    def places(self, ids: Sequence[int], size: int) -> Places:
        """Locate ids in their text.

        Args:
            ids: T token ids.
            size: length of their text in code points.

        Returns:
            ``[start, end)`` of each id in code points. Each span starts where the previous one ends.
        """
        if not len(ids):
            return []
        ends = self._prefix_lengths(ids, _CONTEXT)
        if ends[-1] != self._lengths([ids])[0]:  # a run of incomplete bytes is longer than the context
            ends = self._prefix_lengths(ids, len(ids))
        places = np.maximum.accumulate(np.minimum(ends, size)).tolist()
        return list(zip([0, *places[:-1]], places, strict=True))

    def _prefix_lengths(self, ids: Sequence[int], context: int) -> NDArray[np.int64]:
        """(T,): length of the text up to and including each id, decoding each with the ``context`` ids before it."""
        starts = [max(n - context, 0) for n in range(len(ids))]
        with_it = self._lengths([ids[s : n + 1] for n, s in enumerate(starts)])
        without = self._lengths([ids[s:n] for n, s in enumerate(starts)])
        return np.cumsum(with_it - without)

    def _lengths(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Lengths of the decoded rows, without an incomplete character at the end."""
        visible = [[i for i in row if i not in self.hidden] for row in rows]
        texts = self._backend.decode_batch(visible, skip_special_tokens=False)
        return np.array([len(text.rstrip(_REPLACEMENT)) for text in texts])

    def word_starts(
        self, ids: NDArray[np.int64], located: Callable[[list[list[int]]], tuple[list[str], list[Places]]]
    ) -> NDArray[np.bool_]:
        """Find the tokens that begin a word, as defined by :mod:`tokalign.core.words`.

        Most rows need only the character classes at the edges of tokens. Rows with a character split over tokens or a
        combining mark at an edge are decoded and split as text.

        Args:
            ids: (B, T) token ids.
            located: returns the texts of rows of ids and the places of the ids in them.

        Returns:
            (B, T) bool: True where a token begins a word.
        """
        if self._edges is None:
            self._edges = self._find_edges()
        last, first, unsure, incomplete = self._edges
        before, now = last[ids[:, :-1]], first[ids[:, 1:]]
        begins = np.concatenate([np.ones((len(ids), 1), dtype=bool), (before != now) | (now == 0)], axis=1)
        rows = np.flatnonzero(unsure[ids].any(axis=1))
        if len(rows):
            begins[rows] = self._by_text(ids[rows].tolist(), incomplete[ids[rows]], *located(ids[rows].tolist()))
        return begins

    def _by_text(
        self, ids: list[list[int]], incomplete: NDArray[np.bool_], texts: list[str], places: list[Places]
    ) -> NDArray[np.bool_]:
        words = split(texts)
        begins = np.ones((len(ids), len(ids[0])), dtype=bool)
        for k, (row, spans) in enumerate(zip(ids, places, strict=True)):
            own = np.arange(words.rows[k], words.rows[k + 1])
            own = own[words.solid[words.bare[own]]]  # tokens of trailing white space begin words, as elsewhere
            bare, ends = words.bare[own] - words.places[k], words.ends[own] - words.places[k]
            starts = np.array([start for start, _ in spans])
            word = np.searchsorted(bare, starts, side="left") - 1  # the last word that begins before the token
            inside = (word >= 0) & (starts < (ends[np.maximum(word, 0)] if len(ends) else 0))
            same = starts[1:] == starts[:-1]
            inside[1:] |= same & incomplete[k, 1:] & incomplete[k, :-1]  # another byte of the same character
            begins[k] = ~inside | np.array([i in self.hidden for i in row])
        return begins

    def _find_edges(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        """Character classes at the edges of all V tokens.

        Returns:
            (V,) each: class of the last character; class of the first character; True if the classes do not decide
            where words begin; True if the first or last character is incomplete.
        """
        anchor = self._backend.encode("a", add_special_tokens=False).ids[-1:]
        # A token decoded alone may lose its leading white space, so decode it after another one.
        lead = len(self._backend.decode(anchor, skip_special_tokens=False))
        ids = [[*anchor, i] for i in range(self._size)]
        pieces = [text[lead:] or " " for text in self._backend.decode_batch(ids, skip_special_tokens=False)]
        last, ends = joins([piece[-1] for piece in pieces])
        first, begins = joins([piece[0] for piece in pieces])
        incomplete = np.array([_REPLACEMENT in (piece[0], piece[-1]) for piece in pieces])
        unsure = begins | ends | incomplete
        unsure[list(self.hidden & set(range(self._size)))] = False
        return last, first, unsure, incomplete
