"""Token labels of one edit, without a disk."""

import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tokalign.api.checks import checked_text
from tokalign.config.options import fits, wanted
from tokalign.config.stages import Align, Unit
from tokalign.core.diff import BAD, GOOD, AlignOptions
from tokalign.core.words import split
from tokalign.errors import UsageError
from tokalign.models.labelling import compare
from tokalign.models.tokenizer import Tokenizer


class Side(NamedTuple):
    """One text of an edit, by tokens; the last token is EOS, with the label 0 and an empty place at the end."""

    text: str
    ids: list[int]
    labels: list[int]
    """−1 bad, 0 neutral, +1 good."""
    offsets: list[tuple[int, int]]
    """``[start, end)`` of each token, in code points of ``text``."""
    spans: list[int]
    """The number of the edit that a token belongs to, from 1; 0: none."""
    tokens: list[str]
    """Each token by itself, for people to read."""


class Labels(NamedTuple):
    """Both texts of an edit, labelled."""

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
    """Label every token of a response and of its edit, as ``tokalign diff`` does.

    Args:
        original: the response before the edit.
        edited: … and after it.
        tokenizer: a fast tokenizer of transformers, or a model folder or hub id.
        unit: what is aligned: words, projected onto tokens, or tokens.
        align: how; see ``tokalign diff --help``, for ``merge``, ``whole_sentence`` and ``omissions`` too.
        merge: blocks: a run of so many kept words, or fewer, inside an edit is a part of it.
        whole_sentence: blocks: a sentence of which this share changed was changed as a whole.
        omissions: call the token bad, too, before which something was missing.

    Raises:
        InputError: the tokenizer is not a fast one, has no EOS token, or is not there; a text is none.
        UsageError: an option is none.
    """
    loaded = isinstance(tokenizer, str | Path)
    ours = Tokenizer.load(tokenizer) if loaded else Tokenizer(copy.deepcopy(tokenizer))  # never change the caller's
    for name, value, hint in (("unit", unit, Unit), ("align", align, Align)):
        if not fits(value, hint):
            raise UsageError(f"{name} is {value!r}", remedy=f"give {wanted(hint)}")
    texts = [checked_text(text, name) for name, text in (("original", original), ("edited", edited))]
    a, b = (ours.tokens([text], ours.encode([text])) for text in texts)
    options = AlignOptions(align, merge, whole_sentence)
    spans_a, spans_b, _ = compare(split([original]), split([edited]), a, b, options, unit, omissions)
    sides = []
    for text, tokens, spans, sign in ((original, a, spans_a, BAD), (edited, b, spans_b, GOOD)):
        ids = tokens.ids.tolist()
        labels = [sign if span else 0 for span in spans.tolist()]
        places = [(start, end) for start, end in tokens.offsets.tolist()]
        sides.append(Side(text, ids, labels, places, spans.tolist(), ours.pieces(ids)))
    return Labels(*sides)
