"""Ids to text, and where in the text each of them stands."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokalign.core.words import joins, split

SEEN = 16
"""Tokens before one that are read to see how it goes on from them."""
_HALF = "\ufffd"
"""What bytes of a character that is not whole are shown as."""

Places = list[tuple[int, int]]


class Decoder:
    """What a policy says, read back.

    Args:
        backend: the tokenizer.
        hidden: ids that are no text: special tokens, and whatever ends a response.
        size: ids that there are.
    """

    def __init__(self, backend: Any, hidden: Collection[int], size: int) -> None:
        self._backend, self.hidden, self._size = backend, frozenset(hidden), size
        self._pieces: dict[int, str] = {}
        self._edges: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]] | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without those that are none."""
        return str(self._backend.decode([i for i in ids if i not in self.hidden], skip_special_tokens=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token by itself, special ones too, for people to read."""
        for i in {*ids} - self._pieces.keys():
            self._pieces[i] = str(self._backend.decode([i], skip_special_tokens=False))
        return [self._pieces[i] for i in ids]

    def places(self, ids: Sequence[int], size: int) -> Places:
        """``[start, end)`` of ids in their text of ``size`` characters, by its length up to each of them."""
        if not len(ids):
            return []
        ends = self._grown(ids, SEEN)
        if ends[-1] != self._lengths([ids])[0]:  # bytes that are no text, more than are seen at once
            ends = self._grown(ids, len(ids))
        places = np.maximum.accumulate(np.minimum(ends, size)).tolist()
        return list(zip([0, *places[:-1]], places, strict=True))

    def _grown(self, ids: Sequence[int], seen: int) -> NDArray[np.int64]:
        """(T,): length of the text up to each id: by how much it grows when ``seen`` ids before it are read."""
        starts = [max(n - seen, 0) for n in range(len(ids))]
        with_it = self._lengths([ids[s : n + 1] for n, s in enumerate(starts)])
        without = self._lengths([ids[s:n] for n, s in enumerate(starts)])
        return np.cumsum(with_it - without)

    def _lengths(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Lengths of texts, without characters at the end that are not whole yet."""
        shown = [[i for i in row if i not in self.hidden] for row in rows]
        texts = self._backend.decode_batch(shown, skip_special_tokens=False)
        return np.array([len(text.rstrip(_HALF)) for text in texts])

    def word_starts(
        self, ids: NDArray[np.int64], located: Callable[[list[list[int]]], tuple[list[str], list[Places]]]
    ) -> NDArray[np.bool_]:
        """(B, T): which tokens begin a word (as :mod:`tokalign.core.words` cuts them), from ids (B, T) alone.

        By the classes of characters at the edges of tokens; of rows in which a character is spread over tokens, or a
        mark stands at an edge, by their texts, with what ``located`` says of them.
        """
        if self._edges is None:
            self._edges = self._find_edges()
        last, first, unsure, half = self._edges
        before, now = last[ids[:, :-1]], first[ids[:, 1:]]
        begins = np.concatenate([np.ones((len(ids), 1), dtype=bool), (before != now) | (now == 0)], axis=1)
        rows = np.flatnonzero(unsure[ids].any(axis=1))
        if len(rows):
            begins[rows] = self._by_text(ids[rows].tolist(), half[ids[rows]], *located(ids[rows].tolist()))
        return begins

    def _by_text(
        self, ids: list[list[int]], half: NDArray[np.bool_], texts: list[str], places: list[Places]
    ) -> NDArray[np.bool_]:
        words = split(texts)
        begins = np.ones((len(ids), len(ids[0])), dtype=bool)
        for k, (row, spans) in enumerate(zip(ids, places, strict=True)):
            own = np.arange(words.rows[k], words.rows[k + 1])
            own = own[words.solid[words.bare[own]]]  # white space at the end is cut like white space elsewhere
            bare, ends = words.bare[own] - words.places[k], words.ends[own] - words.places[k]
            starts = np.array([start for start, _ in spans])
            word = np.searchsorted(bare, starts, side="left") - 1  # the last one that begins before
            inside = (word >= 0) & (starts < (ends[np.maximum(word, 0)] if len(ends) else 0))
            same = starts[1:] == starts[:-1]
            inside[1:] |= same & half[k, 1:] & half[k, :-1]  # another byte of the same character
            begins[k] = ~inside | np.array([i in self.hidden for i in row])
        return begins

    def _find_edges(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        """(V,) each: class of a token's last character, of its first, whether that says too little, and halves."""
        anchor = self._backend.encode("a", add_special_tokens=False).ids[-1:]
        # Alone a token may lose its white space; after another it shows it.
        lead = len(self._backend.decode(anchor, skip_special_tokens=False))
        ids = [[*anchor, i] for i in range(self._size)]
        pieces = [text[lead:] or " " for text in self._backend.decode_batch(ids, skip_special_tokens=False)]
        last, ends = joins([piece[-1] for piece in pieces])
        first, begins = joins([piece[0] for piece in pieces])
        half = np.array([_HALF in (piece[0], piece[-1]) for piece in pieces])
        unsure = begins | ends | half
        unsure[list(self.hidden & set(range(self._size)))] = False
        return last, first, unsure, half
