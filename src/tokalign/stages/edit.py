"""``tokalign edit``: preferences in, minimal edits of the less preferred responses out."""

from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from tokalign import editors
from tokalign.artifacts.manifest import Manifest, kind_of
from tokalign.artifacts.resumable import RowFile, group
from tokalign.artifacts.schemas import Edit, Preference
from tokalign.artifacts.workspace import PROGRESS
from tokalign.artifacts.writer import writing
from tokalign.config.stages import EditConfig
from tokalign.data import dataset
from tokalign.errors import UsageError
from tokalign.runtime.progress import Progress

BINS = 10
"""Of the histogram of similarities."""
SOME = 20
"""Rows by which the playground's texts are known."""
_TAKE = "--editor {} or --editor {}; see tokalign edit --help"


def run(config: EditConfig) -> Manifest | Any:
    """Edit every row; each ends as edited, unchanged, rejected or failed, with its reason."""
    config = _with_editor(config)
    editor = editors.make(config, config.out)
    row, kind = editor.reads(kind_of(Path(config.source)))
    rows = dataset.read_rows(config.source, row, kind, options=config, limit=config.limit)
    if config.dry_run and not editor.paid:
        raise UsageError(f"--editor {editor.name} costs nothing", remedy="leave --dry-run out")
    if config.dry_run:
        return editor.estimate(rows)
    inputs = {"source": rows.lineage, **editor.inputs()}

    with writing("edits", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        if editor.begins_again:
            out.space.remove(PROGRESS)
        with (
            out.rows() as file,
            Progress("edit", len(rows), config.quiet, file.taken) as bar,
            closing(editor.edits(rows, file.taken, bar)) as parts,
        ):
            for part in parts:
                _keep(part, file)
                file.done(len(part))
        failed = int(file.tally.get("status/failed", 0))
        return out.commit(rows.account(failed=failed), _stats(file), editor.usage)


def _with_editor(config: EditConfig) -> EditConfig:
    """The options with an editor, where nobody was named.

    Raises:
        UsageError: nobody was named, and the texts are not the playground's.
    """
    if config.editor is not None:
        return config
    if dataset.holds_edits(config.source, config):
        raise UsageError(f"{config.source} holds edits: of whom?", remedy=_TAKE.format("recorded", "human"))
    from tokalign.editors import rules

    rows = dataset.read_rows(config.source, Preference, "preferences", options=config, limit=config.limit)
    some = [rules.knows(row) for row in islice(rows, SOME)]
    if 2 * sum(some) < len(some):
        remedy = _TAKE.format("claude", "human")
        raise UsageError("who is to edit? there is no default for these texts", remedy=remedy)
    return replace(config, editor="rules")


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
