"""Preferences without edits, as training rows of a sequence-level reward model."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from tokalign.artifacts.schemas import Preference, TokenLabels
from tokalign.data.conversation import as_messages, contents
from tokalign.models.tokenizer import Tokenizer

CHUNK = 1000
"""Rows per call of the tokenizer."""


def as_labels(rows: Iterable[Preference], tokenizer: Tokenizer) -> Iterator[TokenLabels]:
    """Convert preference pairs to rows of token labels, with ``edited`` equal to ``original`` and all labels 0."""
    remaining = iter(rows)
    while part := list(islice(remaining, CHUNK)):
        prompts, rejected = tokenizer.prompts([r.prompt for r in part]), tokenizer.responses([r.rejected for r in part])
        for row, prompt, response in zip(part, prompts, rejected, strict=True):
            side: dict[str, Any] = {"ids": list(response.ids), "offsets": [list(o) for o in response.offsets]}
            side |= {"labels": [0] * len(response.ids), "spans": [0] * len(response.ids)}
            yield TokenLabels(
                id=row.id,
                prompt=as_messages(row.prompt),
                original=row.rejected,
                edited=row.rejected,
                chosen=row.chosen,
                categories=[],
                similarity=1.0,
                prompt_ids=list(prompt),
                **{f"{name}_{key}": value for name in ("original", "edited") for key, value in side.items()},
            )


def texts(rows: Iterable[Preference]) -> Iterator[str]:
    """All texts of the rows: chosen and rejected responses and the prompts."""
    for r in rows:
        yield from (r.chosen, r.rejected)
        yield from contents(r.prompt)
