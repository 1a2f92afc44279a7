"""``tokalign edit``: preferences in, minimal edits of the less preferred responses out."""

from collections import Counter
from typing import Any

from tokalign import artifacts, sources
from tokalign.artifacts import Manifest
from tokalign.config import EditConfig
from tokalign.editors import Editor, gate
from tokalign.progress import Progress
from tokalign.schemas import Edit, Preference


def run(config: EditConfig) -> Manifest:
    """Edit every row; each ends as edited, unchanged or rejected, with its reason."""
    rows: sources.Rows[Any]
    editor: Editor
    if config.editor == "rules":
        from tokalign.editors.rules import RulesEditor

        rows = sources.read_rows(config.source, Preference, "preferences", limit=config.limit)
        editor = RulesEditor()
    else:
        from tokalign.editors.recorded import RecordedEditor

        rows = sources.read_recorded(
            config.source, config.format, passages=config.passages, strict=config.strict, limit=config.limit
        )
        editor = RecordedEditor()

    with artifacts.writing("edits", config, {"source": rows.lineage}) as out:
        if out.finished is not None:
            return out.finished
        with Progress("edit", len(rows.rows), config.quiet) as bar:
            edits = [_edit(row, editor, config) for row in bar.each(rows.rows)]
        out.jsonl("data.jsonl", (e.model_dump() for e in edits))
        return out.commit(rows.account(), _stats(edits))


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


def _stats(edits: list[Edit]) -> dict[str, Any]:
    kept = [e.similarity for e in edits if e.similarity is not None]
    return {
        "status": dict(Counter(e.status for e in edits)),
        "reasons": dict(Counter(e.reason for e in edits if e.reason)),
        "categories": dict(Counter(c for e in edits for c in e.categories)),
        "similarity_mean": sum(kept) / len(kept),
    }
