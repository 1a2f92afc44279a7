"""``tokalign edit``: preferences in, minimal edits of the less preferred responses out."""

from collections import Counter
from typing import Any

from tokalign import sources
from tokalign.artifacts import Manifest
from tokalign.config import EditConfig
from tokalign.editors import Editor, gate
from tokalign.progress import Progress
from tokalign.rowfile import RowFile, group
from tokalign.schemas import Edit, Preference, RecordedEdit
from tokalign.writer import writing

CHUNK = 256
"""Rows between which a run can be cut."""


def run(config: EditConfig) -> Manifest:
    """Edit every row; each ends as edited, unchanged or rejected, with its reason."""
    rows: sources.Rows[Any]
    editor: Editor
    if config.editor == "rules":
        from tokalign.editors.rules import RulesEditor

        rows = sources.read_rows(config.source, Preference, "preferences", how=config, limit=config.limit)
        editor = RulesEditor()
    else:
        from tokalign.editors.recorded import RecordedEditor

        rows = sources.read_rows(config.source, RecordedEdit, "edits", how=config, limit=config.limit)
        editor = RecordedEditor()

    with writing("edits", config, {"source": rows.lineage}) as out:
        if out.finished is not None:
            return out.finished
        with out.rows() as file, Progress("edit", len(rows), config.quiet, file.taken) as bar:
            for part in bar.parts(file.left(rows, CHUNK)):
                edits = [_edit(row, editor, config) for row in part]
                file.append_json(e.model_dump() for e in edits)
                file.count(_count(edits))
        return out.commit(rows.account(), _stats(file))


def _edit(row: Any, editor: Editor, config: EditConfig) -> Edit:
    original, proposal = editor.original(row), editor.edit(row)
    verdict = gate(original, proposal.edited, config.min_similarity, only_count=editor.name == "recorded")
    return Edit.model_validate(
        {
            "id": row.id,
            "prompt": row.prompt,
            "original": original,
            "edited": proposal.edited,
            "chosen": row.chosen,
            "editor": editor.name,
            "status": verdict.status,
            "reason": verdict.reason,
            "categories": proposal.categories,
            "rationale": proposal.rationale,
            "similarity": verdict.similarity,
        }
    )


def _count(edits: list[Edit]) -> dict[str, float]:
    names = [f"status/{e.status}" for e in edits] + [f"reasons/{e.reason}" for e in edits if e.reason]
    counts = Counter(names + [f"categories/{c}" for e in edits for c in e.categories])
    return {**counts, "similarity": sum(e.similarity or 0.0 for e in edits)}


def _stats(file: RowFile) -> dict[str, Any]:
    groups = {name: group(file.tally, name) for name in ("status", "reasons", "categories")}
    return {**groups, "similarity_mean": file.mean("similarity")}
