"""Edits by a person on the annotation page."""

import sys
from collections.abc import Generator
from typing import Any

from tokalign.annotation.server import serve
from tokalign.annotation.store import AnnotationStore, Task
from tokalign.artifacts.manifest import ANNOTATIONS
from tokalign.artifacts.schemas import Edit, Preference, Row
from tokalign.data.dataset import Rows
from tokalign.editors import CHUNK, Unpaid, gate
from tokalign.runtime.progress import Progress


def task_of(row: Any) -> Task:
    """Return the annotation task for a preference to edit, or for an edit to review."""
    if isinstance(row, Edit):
        proposed = row.edited if row.edited.strip() else row.original
        note = f"{row.editor}{f' ({row.model})' if row.model else ''}: {row.reason or row.status}"
        return Task(row.id, row.prompt, row.original, proposed, row.chosen, tuple(row.categories), row.rationale, note)
    return Task(row.id, row.prompt, row.rejected, row.rejected, row.chosen)


class HumanEditor(Unpaid):
    """Serves the annotation page until a person has decided every row."""

    name = "human"
    begins_again = True

    def reads(self, kind: str | None) -> tuple[type[Row], str]:
        """See :class:`tokalign.editors.Editor`: preferences to edit, or edits to review."""
        return (Edit, "edits") if kind == "edits" else (Preference, "preferences")

    def edits(self, rows: Rows[Any], start: int, bar: Progress) -> Generator[list[Edit]]:
        """See :class:`tokalign.editors.Editor`. The bar shows the number of decided rows.

        Raises:
            StoppedError: the run was interrupted before all rows were decided; decisions so far are kept.
            UsageError: the port is not available.
        """
        options, tasks = self.options, [task_of(row) for row in rows]

        def say(line: str) -> None:  # also with --quiet: the user needs the address
            print(f"edit: {line}", file=sys.stderr)

        with AnnotationStore(tasks, self.folder / ANNOTATIONS, options.annotator) as store:

            def update() -> None:
                bar.advance(store.done - bar.done)

            update()
            serve(store, options.port, options.min_similarity, say, update, options.open)
            for k in range(start, len(tasks), CHUNK):
                chunk = range(k, min(k + CHUNK, len(tasks)))
                yield [_edit(store, i, options.min_similarity) for i in chunk]


def _edit(store: AnnotationStore, k: int, min_similarity: float) -> Edit:
    task, decision = store.tasks[k], store.decision(k)
    assert decision is not None
    edited = {"edited": decision.work.text, "unchanged": task.original, "failed": ""}[decision.verdict]
    failed = decision.verdict == "failed"
    verdict = gate(task.original, edited, min_similarity, only_count=True)
    return Edit(
        id=task.id,
        prompt=task.prompt,
        original=task.original,
        edited=edited,
        chosen=task.chosen,
        editor="human",
        status="rejected" if failed else verdict.status,  # type: ignore[arg-type]
        reason="cannot be fixed" if failed else verdict.reason,
        categories=[] if decision.verdict == "unchanged" else decision.work.categories,
        rationale=decision.work.rationale,
        similarity=None if failed else verdict.similarity,
        attempts=decision.version,
        annotator=decision.annotator or None,
        proposed=task.proposed if task.proposed != task.original else None,
    )
