"""Edits by a person: rows to the annotation store, and what was decided there to edits."""

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
    """A row as it is given out."""
    if isinstance(row, Edit):
        proposed = row.edited if row.edited.strip() else row.original
        note = f"{row.editor}{f' ({row.model})' if row.model else ''}: {row.reason or row.status}"
        return Task(row.id, row.prompt, row.original, proposed, row.chosen, tuple(row.categories), row.rationale, note)
    return Task(row.id, row.prompt, row.rejected, row.rejected, row.chosen)


class HumanEditor(Unpaid):
    """Serves the page until a person has decided every row."""

    name = "human"
    begins_again = True

    def reads(self, kind: str | None) -> tuple[type[Row], str]:
        """Preferences to edit, or edits (of a model) to review."""
        return (Edit, "edits") if kind == "edits" else (Preference, "preferences")

    def edits(self, rows: Rows[Any], start: int, bar: Progress) -> Generator[list[Edit]]:
        """See :class:`tokalign.editors.Editor`; the bar shows how many rows are decided.

        Raises:
            StoppedError: the end was asked for before all were decided; what was decided is kept.
            UsageError: the port is taken.
        """
        options, tasks = self.options, [task_of(row) for row in rows]

        def say(line: str) -> None:  # whatever --quiet says: there is no other way to the page
            print(f"edit: {line}", file=sys.stderr)

        with AnnotationStore(tasks, self.folder / ANNOTATIONS, options.annotator) as store:

            def decided() -> None:
                bar.advance(store.done - bar.done)

            decided()
            serve(store, options.port, options.min_similarity, say, decided, options.open)
            for k in range(start, len(tasks), CHUNK):
                some = range(k, min(k + CHUNK, len(tasks)))
                yield [_edit(store, i, options.min_similarity) for i in some]


def _edit(store: AnnotationStore, k: int, min_similarity: float) -> Edit:
    task, decision = store.tasks[k], store.decision(k)
    assert decision is not None
    made = {"edited": decision.work.text, "unchanged": task.original, "failed": ""}[decision.verdict]
    failed = decision.verdict == "failed"
    verdict = gate(task.original, made, min_similarity, only_count=True)
    return Edit(
        id=task.id,
        prompt=task.prompt,
        original=task.original,
        edited=made,
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
