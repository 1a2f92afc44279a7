"""Editors, one module each. They implement :class:`Editor`, and :func:`gate` checks all edits."""

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
"""Rows per chunk of an editor that costs nothing. An interrupted run resumes at the start of a chunk."""
EDITORS = {
    "rules": "tokalign.editors.rules:RulesEditor",
    "recorded": "tokalign.editors.recorded:RecordedEditor",
    "claude": "tokalign.editors.claude:ClaudeEditor",
    "human": "tokalign.editors.human:HumanEditor",
}
"""Value of ``--editor`` → ``module:class``."""


class Proposal(NamedTuple):
    """An edit proposed by an editor, before :func:`gate`."""

    edited: str
    categories: list[str]
    """Flaw categories, one per change, in order of position."""
    rationale: str = ""


class Editor(Protocol):
    """Edits the less preferred response of each row as little as possible into a better one. See :func:`make`."""

    name: str
    paid: bool
    """Whether edits cost money."""
    usage: dict[str, Any]
    """Usage entry of the manifest so far; empty for editors that cost nothing."""
    begins_again: bool
    """Whether a resumed run reads all edits again, because earlier ones may have changed."""

    def reads(self, kind: str | None) -> tuple[type[Row], str]:
        """Return the row type that the editor reads, and the kind of artifact that contains such rows.

        ``kind``: kind of the source artifact; None for files and datasets.
        """

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return the editor's own inputs, such as a prompt file, for the manifest."""

    def estimate(self, rows: Rows[Any]) -> Any:
        """Estimate the cost of the edits. Only for paid editors."""

    def edits(self, rows: Rows[Any], start: int, bar: Progress) -> Generator[list[Edit]]:
        """Yield the edits of the rows from index ``start``, in order and in chunks. The caller saves each chunk.

        ``bar``: progress bar, which the editor advances.
        """


def make(options: EditOptions, folder: Path) -> Editor:
    """Create the editor named by ``options.editor``.

    Args:
        options: options of the editor.
        folder: output folder, for the journal or the annotations.

    Raises:
        UsageError, InputError: an option or file that the editor needs is missing or invalid.
    """
    module, _, name = EDITORS[str(options.editor)].partition(":")
    editor: Editor = getattr(importlib.import_module(module), name)(options, folder)
    return editor


class Unpaid:
    """Base class of editors that cost nothing."""

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
    """Base class of editors that edit each row on its own."""

    only_count = False
    """Whether edits that are too large are accepted and only counted."""

    def original(self, row: Any) -> str:
        """Return the response to edit."""
        return str(row.rejected)

    def edit(self, row: Any) -> Proposal:
        """Edit the response of a row."""
        raise NotImplementedError

    def edits(self, rows: Rows[Any], start: int, bar: Progress) -> Generator[list[Edit]]:
        """See :class:`Editor`."""
        remaining = islice(rows, start, None)
        while chunk := list(islice(remaining, CHUNK)):
            yield [self._checked(row) for row in chunk]
            bar.advance(len(chunk))

    def _checked(self, row: Any) -> Edit:
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
    """Result of the gates: status, reason and similarity of a row of ``edits/1``."""

    status: str
    reason: str
    similarity: float | None
    """Share of kept words, 0 to 1; None if there is no edit."""


def gate(original: str, edited: str, min_similarity: float, *, only_count: bool) -> Verdict:
    """Check an edit.

    Args:
        original: response before the edit.
        edited: response after the edit.
        min_similarity: smallest share of words that an edit must keep.
        only_count: accept an edit that is too large, with the reason ``over-edited``.
    """
    exact = diff.similarity(original, edited)
    kept = round(exact, 4)
    if not edited.strip():
        return Verdict("rejected", "empty", kept)
    if edited == original:
        return Verdict("unchanged", "", kept)
    if exact < min_similarity:
        return Verdict("edited" if only_count else "rejected", "over-edited", kept)
    return Verdict("edited", "", kept)
