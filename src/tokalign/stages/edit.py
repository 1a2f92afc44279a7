"""``tokalign edit``: preferences in, minimal edits of the less preferred responses out."""

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from itertools import islice
from typing import Any

from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.resumable import RowFile, group
from tokalign.artifacts.schemas import Edit, Preference, RecordedEdit
from tokalign.artifacts.workspace import PROGRESS
from tokalign.artifacts.writer import writing
from tokalign.config.stages import EditConfig
from tokalign.data import dataset
from tokalign.editors import Editor, gate
from tokalign.errors import UsageError
from tokalign.runtime.progress import Progress

CHUNK = 256
"""Rows between which a run can be cut."""
BINS = 10
"""Of the histogram of similarities."""
SOME = 20
"""Rows by which the playground's texts are known."""
_TAKE = "--editor {} or --editor {}; see tokalign edit --help"


def run(config: EditConfig) -> Manifest | Any:
    """Edit every row; each ends as edited, unchanged, rejected or failed, with its reason."""
    rows, config = _read(config)
    inputs = {"source": rows.lineage}
    if config.editor == "claude":
        from tokalign.claude.messages import model_of
        from tokalign.editors import claude

        model_of(config)
        if config.prompt is not None:
            inputs["prompt"] = dataset.file_lineage(config.prompt)
            claude.prompt(config.prompt)
        if config.dry_run:
            return asyncio.run(claude.estimated(rows, config))
    elif config.dry_run:
        raise UsageError(f"--editor {config.editor} costs nothing", remedy="leave --dry-run out")

    with writing("edits", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        usage: dict[str, Any] = {}
        if config.editor == "human":  # decisions may have changed since a run was killed as it wrote them down
            out.space.remove(PROGRESS)
        with out.rows() as file, Progress("edit", len(rows), config.quiet, file.taken) as bar:
            if config.editor == "claude":
                usage = asyncio.run(_paid(rows, config, file, bar))
            elif config.editor == "human":
                from tokalign.editors import human

                for part in file.left(human.edits(rows, config, lambda n: bar.advance(n - bar.done)), CHUNK):
                    _keep(part, file)
            else:
                editor = _editor(config)
                for part in bar.parts(file.left(rows, CHUNK)):
                    _keep([_edit(row, editor, config) for row in part], file)
        failed = int(file.tally.get("status/failed", 0))
        return out.commit(rows.account(failed=failed), _stats(file), usage)


def _read(config: EditConfig) -> tuple[dataset.Rows[Any], EditConfig]:
    """The rows, and who edits them where nobody was named.

    Raises:
        UsageError: nobody was named, and the texts are not the playground's.
    """
    kind: tuple[type[Any], str] = (Preference, "preferences")
    if config.editor == "recorded":
        kind = (RecordedEdit, "edits")
    elif config.editor == "human":
        from tokalign.editors import human

        kind = human.row_type(config.source)
    elif config.editor is None and dataset.holds_edits(config.source, config):
        raise UsageError(f"{config.source} holds edits: of whom?", remedy=_TAKE.format("recorded", "human"))
    rows = dataset.read_rows(config.source, *kind, how=config, limit=config.limit)
    if config.editor is None:
        from tokalign.editors import rules

        some = [rules.knows(row) for row in islice(rows, SOME)]
        if 2 * sum(some) < len(some):
            remedy = _TAKE.format("claude", "human")
            raise UsageError("who is to edit? there is no default for these texts", remedy=remedy)
        config = replace(config, editor="rules")
    return rows, config


def _editor(config: EditConfig) -> Editor:
    if config.editor == "rules":
        from tokalign.editors.rules import RulesEditor

        return RulesEditor()
    from tokalign.editors.recorded import RecordedEditor

    return RecordedEditor()


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


async def _paid(rows: dataset.Rows[Preference], config: EditConfig, file: RowFile, bar: Progress) -> dict[str, Any]:
    """Have Claude edit what is left; what it cost."""
    from tokalign.editors import claude

    money: dict[str, Any] = {}
    async with aclosing(claude.edits(rows, file.taken, config, bar.say, money.update)) as edits:
        async for edit in edits:
            _keep([edit], file)
            file.done(1)
            bar.advance(1, USD=money["usd"])
    return money


def _keep(edits: list[Edit], file: RowFile) -> None:
    file.append_json(e.model_dump() for e in edits)
    names = [f"status/{e.status}" for e in edits] + [f"reasons/{e.reason}" for e in edits if e.reason]
    names += [f"categories/{c}" for e in edits for c in e.categories]
    compared = [e.similarity for e in edits if e.similarity is not None]
    names += ["compared"] * len(compared)
    names += [f"similarity/{min(int(BINS * s), BINS - 1)}" for s in compared]
    file.count({**Counter(names), "similarity_sum": sum(compared)})


def _stats(file: RowFile) -> dict[str, Any]:
    groups = {name: group(file.tally, name) for name in ("status", "reasons", "categories")}
    compared, histogram = file.tally.get("compared", 0), group(file.tally, "similarity")
    return {
        **groups,
        "similarity_mean": file.tally.get("similarity_sum", 0.0) / compared if compared else None,
        "similarity_histogram": [int(histogram.get(str(k), 0)) for k in range(BINS)],
    }
