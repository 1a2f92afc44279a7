"""Editors: one small file each. All follow :class:`Editor`, and all edits pass :func:`gate`."""

import importlib
from collections.abc import Generator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tokalign.artifacts.schemas import Edit, Preference, Row
from tokalign.config.methods import EditOptions
from tokalign.core import diff
from tokalign.data.dataset import Rows
from tokalign.runtime.progress import Progress

CHUNK = 256
"""Rows between which a run can be cut, where a row costs nothing."""
EDITORS = {
    "rules": "tokalign.editors.rules:RulesEditor",
    "recorded": "tokalign.editors.recorded:RecordedEditor",
    "claude": "tokalign.editors.claude:ClaudeEditor",
    "human": "tokalign.editors.human:HumanEditor",
}
"""By the name of ``--editor``."""


class Proposal(NamedTuple):
    """What an editor makes of a response."""

    edited: str
    categories: list[str]
    """What was wrong, one entry a change, in order of place."""
    rationale: str = ""


class Editor(Protocol):
    """Turns the less preferred response of a row into the better one, changing as little as possible.

    Made by :func:`make`.
    """

    name: str
    paid: bool
    """Whether edits cost money."""
    usage: dict[str, Any]
    """What was paid so far; empty where nothing is."""
    begins_again: bool
    """Whether a run that goes on is given all edits anew, since they may have changed."""

    def reads(self, kind: str | None) -> tuple[type[Row], str]:
        """The rows that it edits: their type, and the kind of artifact that holds them.

        ``kind``: of the artifact that is given, None for files and datasets.
        """

    def inputs(self) -> dict[str, dict[str, Any]]:
        """What else its edits depend on, as inputs of the stage."""

    def estimate(self, rows: Rows[Any]) -> Any:
        """What the edits may cost, of an editor that is paid."""

    def edits(self, rows: Rows[Any], start: int, bar: Progress) -> Generator[list[Edit]]:
        """The rows from ``start`` with their edits, in order, some at a time; what was given out is kept by the caller.

        ``bar`` is told how far it is.
        """


def make(options: EditOptions, folder: Path) -> Editor:
    """The editor that ``options`` name.

    Args:
        options: the editor, and what it is to do.
        folder: where it keeps what must not be lost: what was paid for, what a person has decided.

    Raises:
        UsageError, InputError: what it needs is not there.
    """
    module, _, name = EDITORS[str(options.editor)].partition(":")
    found: Editor = getattr(importlib.import_module(module), name)(options, folder)
    return found


class Unpaid:
    """What editors have in common that ask no paid service."""

    name = ""
    paid = False
    begins_again = False

    def __init__(self, options: EditOptions, folder: Path) -> None:
        self.options, self.folder, self.usage = options, folder, dict[str, Any]()

    def reads(self, kind: str | None) -> tuple[type[Row], str]:
        """See :class:`Editor`."""
        return Preference, "preferences"

    def inputs(self) -> dict[str, dict[str, Any]]:
        """See :class:`Editor`."""
        return {}

    def estimate(self, rows: Rows[Any]) -> Any:
        """See :class:`Editor`."""
        raise NotImplementedError


class RowByRow(Unpaid):
    """An editor that needs no more than a row."""

    only_count = False
    """Whether an edit that is too large is accepted."""

    def original(self, row: Any) -> str:
        """The response to edit."""
        return str(row.rejected)

    def edit(self, row: Any) -> Proposal:
        """The edit."""
        raise NotImplementedError

    def edits(self, rows: Rows[Any], start: int, bar: Progress) -> Generator[list[Edit]]:
        """See :class:`Editor`."""
        left = islice(rows, start, None)
        while part := list(islice(left, CHUNK)):
            yield [self._made(row) for row in part]
            bar.advance(len(part))

    def _made(self, row: Any) -> Edit:
        original, proposal = self.original(row), self.edit(row)
        verdict = gate(original, proposal.edited, self.options.min_similarity, only_count=self.only_count)
        return Edit.model_validate(
            {
                "id": row.id,
                "prompt": row.prompt,
                "original": original,
                "edited": proposal.edited,
                "chosen": row.chosen,
                "editor": self.name,
                "status": verdict.status,
                "reason": verdict.reason,
                "categories": proposal.categories,
                "rationale": proposal.rationale,
                "similarity": verdict.similarity,
            }
        )


class Verdict(NamedTuple):
    """What the gates say of an edit: ``edits/1``'s status, reason and similarity."""

    status: str
    reason: str
    similarity: float | None
    """None where there is no edit."""


def gate(original: str, edited: str, min_similarity: float, *, only_count: bool) -> Verdict:
    """Check one edit. ``only_count``: an edit that is too large is accepted, with the reason noted."""
    exact = diff.similarity(original, edited)
    kept = round(exact, 4)
    if not edited.strip():
        return Verdict("rejected", "empty", kept)
    if edited == original:
        return Verdict("unchanged", "", kept)
    if exact < min_similarity:
        return Verdict("edited" if only_count else "rejected", "over-edited", kept)
    return Verdict("edited", "", kept)
