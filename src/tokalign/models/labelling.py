"""Map the edits of responses onto their tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokalign.config.methods import Unit
from tokalign.core import diff
from tokalign.core.diff import NEVER, AlignOptions
from tokalign.core.words import Words
from tokalign.models.tokenizer import Tokens


def alignment(options: Mapping[str, Any]) -> AlignOptions:
    """Return the alignment options with which labels were made, from the options of their manifest."""
    return AlignOptions(options["align"], options.get("merge", 0), options.get("whole_sentence", NEVER))


def compare(
    words_a: Words,
    words_b: Words,
    a: Tokens,
    b: Tokens,
    options: AlignOptions,
    unit: Unit = "word",
    omissions: bool = False,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Align N originals with their edited texts and find the edit of each token.

    Args:
        words_a: words of the originals.
        words_b: words of the edited texts.
        a: tokens of the originals, T_a in total.
        b: tokens of the edited texts, T_b in total.
        options: alignment options.
        unit: ``word`` aligns words and projects the edits onto tokens; ``token`` aligns token ids.
        omissions: whether the original token before which text was missing also belongs to the edit.

    Returns:
        Edit number of each original token (T_a,) and of each edited token (T_b,), counted from 1 in each row, with 0
        for unchanged tokens; number of edits in each row (N,).
    """
    if unit == "token":
        alignment = diff.compare_tokens(a.ids, a.rows, b.ids, b.rows, options)
        spans_a, spans_b = diff.spans(alignment)
        missing = diff.token_omissions(alignment) if omissions else spans_a
    else:
        alignment = diff.compare_words(words_a, words_b, options)
        edits_a, edits_b = diff.spans(alignment)
        spans_a = diff.project(edits_a, words_a, a.offsets, a.rows)
        spans_b = diff.project(edits_b, words_b, b.offsets, b.rows)
        missing = diff.omissions(alignment, words_a, a.offsets, a.rows) if omissions else spans_a
    return np.where(spans_a, spans_a, missing), spans_b, diff.edits(alignment)
