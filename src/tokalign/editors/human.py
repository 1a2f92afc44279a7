"""From rows to a person's desk, and from the desk to edits."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tokalign.annotation.server import serve
from tokalign.annotation.store import Desk, Task
from tokalign.artifacts.manifest import ANNOTATIONS, kind_of
from tokalign.artifacts.schemas import Edit, Preference
from tokalign.config.stages import EditConfig
from tokalign.editors import gate


def row_type(source: str) -> tuple[type[Any], str]:
    """What SOURCE holds: preferences to edit, or edits (of a model) to review."""
    folder = Path(source)
    if kind_of(folder) == "edits":
        return Edit, "edits"
    return Preference, "preferences"


def task_of(row: Any) -> Task:
    """A row as it is given out."""
    if isinstance(row, Edit):
        proposed = row.edited if row.edited.strip() else row.original
        note = f"{row.editor}{f' ({row.model})' if row.model else ''}: {row.reason or row.status}"
        return Task(row.id, row.prompt, row.original, proposed, row.chosen, tuple(row.categories), row.rationale, note)
    return Task(row.id, row.prompt, row.rejected, row.rejected, row.chosen)


def edits(rows: Iterable[Any], config: EditConfig, done: Callable[[int], None]) -> Iterator[Edit]:
    """Have a person decide all rows; then the edits, in their order.

    Args:
        rows: all of them.
        config: of the stage.
        done: told how many rows are decided, whenever that changes.

    Raises:
        StoppedError: the end was asked for before all were decided; what was decided is kept.
        UsageError: the port is taken.
    """
    tasks = [task_of(row) for row in rows]

    def say(line: str) -> None:  # whatever --quiet says: there is no other way to the page
        print(f"edit: {line}", file=sys.stderr)

    with Desk(tasks, config.out / ANNOTATIONS, config.annotator) as desk:
        done(desk.done)
        serve(desk, config.port, config.min_similarity, say, lambda: done(desk.done), config.open)
        yield from (_edit(desk, k, config.min_similarity) for k in range(len(tasks)))


def _edit(desk: Desk, k: int, min_similarity: float) -> Edit:
    task, decision = desk.tasks[k], desk.decision(k)
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
