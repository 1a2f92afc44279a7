"""From rows to a person's desk, and from the desk to edits."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tokalign.artifacts import ANNOTATIONS, Manifest, is_artifact
from tokalign.config import EditConfig
from tokalign.editors import gate
from tokalign.editors.human.desk import Desk, Task
from tokalign.editors.human.server import serve
from tokalign.schemas import Edit, Preference


def row_type(source: str) -> tuple[type[Any], str]:
    """What SOURCE holds: preferences to edit, or edits (of a model) to review."""
    folder = Path(source)
    if is_artifact(folder) and Manifest.read(folder).kind == "edits":
        return Edit, "edits"
    return Preference, "preferences"


def task_of(row: Any) -> Task:
    """A row as it is given out."""
    if isinstance(row, Edit):
        proposed = row.edited if row.edited.strip() else row.original
        return Task(row.id, row.prompt, row.original, proposed, row.chosen, tuple(row.categories), row.rationale)
    return Task(row.id, row.prompt, row.rejected, row.rejected, row.chosen)


def edits(rows: Iterable[Any], config: EditConfig, say: Callable[[str], None]) -> Iterator[Edit]:
    """Have a person decide all rows; then the edits, in their order.

    Raises:
        StoppedError: the end was asked for before all were decided; what was decided is kept.
        UsageError: the port is taken.
    """
    tasks = [task_of(row) for row in rows]
    with Desk(tasks, config.out / ANNOTATIONS, config.annotator) as desk:
        serve(desk, config.port, config.min_similarity, say, config.open)
        yield from (_edit(desk, k, config.min_similarity) for k in range(len(tasks)))


def _edit(desk: Desk, k: int, min_similarity: float) -> Edit:
    task, decision = desk.tasks[k], desk.decision(k)
    assert decision is not None
    text = decision.work.text if decision.verdict != "failed" else ""
    verdict = gate(task.original, text, min_similarity, only_count=True)
    rejected = decision.verdict == "failed"
    return Edit(
        id=task.id,
        prompt=task.prompt,
        original=task.original,
        edited=text,
        chosen=task.chosen,
        editor="human",
        status="rejected" if rejected else verdict.status,  # type: ignore[arg-type]
        reason="cannot be fixed" if rejected else verdict.reason,
        categories=decision.work.categories,
        rationale=decision.work.rationale,
        similarity=None if rejected else verdict.similarity,
        attempts=decision.version,
        annotator=decision.annotator or None,
        proposed=task.proposed if task.proposed != task.original else None,
    )
