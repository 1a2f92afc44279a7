"""Labels of tokens: which of them an edit removed, and which it brought."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokalign.core import diff
from tokalign.core.diff import AlignOptions
from tokalign.core.words import Words
from tokalign.models.tokenizer import Tokens

Unit = Literal["word", "token"]


def compare(
    words_a: Words,
    words_b: Words,
    a: Tokens,
    b: Tokens,
    options: AlignOptions,
    unit: Unit = "word",
    omissions: bool = False,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """For tokens of originals and edited texts the edit they belong to (0: none), and the edits of each row.

    Args:
        words_a: words of the originals.
        words_b: … of the edited texts.
        a: tokens of the originals.
        b: … of the edited texts.
        options: of the alignment.
        unit: what is aligned: words, projected onto tokens, or tokens.
        omissions: whether the token before which something was missing belongs to that edit too.
    """
    if unit == "token":
        kept = diff.compare_tokens(a.ids, a.rows, b.ids, b.rows, options)
        spans_a, spans_b = diff.spans(kept)
        missing = diff.token_omissions(kept) if omissions else spans_a
    else:
        kept = diff.compare_words(words_a, words_b, options)
        of_a, of_b = diff.spans(kept)
        spans_a = diff.project(of_a, words_a, a.offsets, a.rows)
        spans_b = diff.project(of_b, words_b, b.offsets, b.rows)
        missing = diff.omissions(kept, words_a, a.offsets, a.rows) if omissions else spans_a
    return np.where(spans_a, spans_a, missing), spans_b, diff.edits(kept)
