"""Token labels of one edit, in memory."""

import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tokalign.api.checks import checked_text
from tokalign.config.methods import LabelOptions
from tokalign.core.diff import BAD, GOOD, AlignOptions
from tokalign.core.words import split
from tokalign.models.labelling import compare
from tokalign.models.tokenizer import Tokenizer


class Side(NamedTuple):
    """One text of an edit and its tokens. All lists have one item per token; the last token is EOS (label 0)."""

    text: str
    ids: list[int]
    """Token ids."""
    labels: list[int]
    """−1 bad, 0 neutral, +1 good."""
    offsets: list[tuple[int, int]]
    """``[start, end)`` in code points of ``text``. EOS is empty, at the end."""
    spans: list[int]
    """Number of the edit that the token belongs to, from 1; 0: none."""
    tokens: list[str]
    """The text of each token, for display."""


class Labels(NamedTuple):
    """Token labels of both texts of an edit."""

    original: Side
    edited: Side


def label(
    original: str,
    edited: str,
    *,
    tokenizer: Any,
    unit: Literal["word", "token"] = "word",
    align: Literal["blocks", "lcs", "levenshtein"] = "blocks",
    merge: int = 2,
    whole_sentence: float = 0.8,
    omissions: bool = False,
) -> Labels:
    """Label every token of an original and an edited response, as ``tokalign diff`` does.

    Removed tokens of the original are bad, inserted tokens of the edited response are good, the rest is neutral.

    Args:
        original: the response before the edit.
        edited: the response after the edit.
        tokenizer: a fast tokenizer of transformers, a model folder or a hub id.
        unit: what to align: words, whose labels are projected onto tokens, or tokens.
        align: ``blocks`` keeps words in long runs, ``lcs`` as many words as possible, ``levenshtein`` needs the fewest
            operations.
        merge: blocks: a run of this many kept words or fewer inside an edit becomes part of the edit.
        whole_sentence: blocks: if this share of a sentence changed, all of it counts as changed; above 1 disables.
        omissions: also label the token before which something was missing as bad.

    Raises:
        InputError: the tokenizer is missing, is not a fast one or has no EOS token; or a text is not a string.
        UsageError: an option is not one of the choices, or out of its range.
    """
    load = isinstance(tokenizer, str | Path)
    own = Tokenizer.load(tokenizer) if load else Tokenizer(copy.deepcopy(tokenizer))  # a copy: Tokenizer modifies it
    LabelOptions(unit=unit, align=align, merge=merge, whole_sentence=whole_sentence, omissions=omissions)  # validates
    texts = [checked_text(text, name) for name, text in (("original", original), ("edited", edited))]
    a, b = (own.tokens([text], own.encode([text])) for text in texts)
    options = AlignOptions(align, merge, whole_sentence)
    spans_a, spans_b, _ = compare(split([original]), split([edited]), a, b, options, unit, omissions)
    sides = []
    for text, tokens, spans, sign in ((original, a, spans_a, BAD), (edited, b, spans_b, GOOD)):
        ids = tokens.ids.tolist()
        labels = [sign if span else 0 for span in spans.tolist()]
        offsets = [(start, end) for start, end in tokens.offsets.tolist()]
        sides.append(Side(text, ids, labels, offsets, spans.tolist(), own.pieces(ids)))
    return Labels(*sides)
