"""``tokalign edit``: read preferences, write minimal edits of the less preferred responses."""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from tokalign import editors
from tokalign.artifacts.manifest import kind_of
from tokalign.artifacts.result import StageResult
from tokalign.artifacts.resumable import RowFile, group
from tokalign.artifacts.schemas import Edit, Preference
from tokalign.artifacts.workspace import PROGRESS
from tokalign.artifacts.writer import writing
from tokalign.config.stages import EditConfig
from tokalign.data import dataset
from tokalign.errors import UsageError
from tokalign.runtime.progress import Progress

BINS = 10
"""Bins of the histogram of similarities."""
SOME = 20
"""Number of rows that are checked to recognise playground texts."""


def run(config: EditConfig) -> StageResult:
    """Edit every row. Its status is then edited, unchanged, rejected or failed, with a reason.

    Returns:
        The manifest, or with ``--dry-run`` an estimate of the cost.
    """
    # 1. Choose the editor and read the rows.
    config = _with_editor(config)
    editor = editors.make(config, config.out)
    row, kind = editor.reads(kind_of(Path(config.source)))
    rows = dataset.read_rows(config.source, row, kind, options=config, limit=config.limit).shard(config.shard)

    # 2. With --dry-run, estimate the cost and stop.
    if config.dry_run and not editor.paid:
        raise UsageError(f"--editor {editor.name} costs nothing", remedy="remove --dry-run")
    if config.dry_run:
        return StageResult(estimate=editor.estimate(rows))
    inputs = {"source": rows.lineage, **editor.inputs()}

    with writing("edits", config, inputs) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished)

        # 3. Edit the rows, and write and count them chunk by chunk.
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
        return StageResult.of(out.folder, out.commit(rows.account(failed=failed), stats(file.tally), editor.usage))


def _with_editor(config: EditConfig) -> EditConfig:
    """Set the default editor, ``rules``, if ``--editor`` is not given.

    Raises:
        UsageError: ``--editor`` is not given, and the texts are not the playground's.
    """
    if config.editor is not None:
        return config
    if dataset.holds_edits(config.source, config):
        raise UsageError(
            f"{config.source} contains edits, which have no default --editor",
            remedy="pass --editor recorded to use them, or --editor human to review them",
        )
    from tokalign.editors import rules

    rows = dataset.read_rows(config.source, Preference, "preferences", options=config, limit=config.limit)
    known = [rules.knows(row) for row in islice(rows, SOME)]
    if 2 * sum(known) < len(known):
        raise UsageError(
            f"{config.source} contains other texts than the playground's, which have no default --editor",
            remedy="pass --editor claude or --editor human; see tokalign edit --help",
        )
    return replace(config, editor="rules")


def _keep(edits: list[Edit], file: RowFile) -> None:
    file.append_json(e.model_dump() for e in edits)
    names = [f"status/{e.status}" for e in edits] + [f"reasons/{e.reason}" for e in edits if e.reason]
    names += [f"categories/{c}" for e in edits for c in e.categories]
    compared = [e.similarity for e in edits if e.similarity is not None]
    names += ["compared"] * len(compared)
    names += [f"similarity/{min(int(BINS * s), BINS - 1)}" for s in compared]
    file.count({**Counter(names), "similarity_sum": sum(compared)})


def stats(tally: Mapping[str, float]) -> dict[str, Any]:
    """Statistics of the manifest, from the counters of a run."""
    groups = {name: group(tally, name) for name in ("status", "reasons", "categories")}
    compared, histogram = tally.get("compared", 0), group(tally, "similarity")
    return {
        **groups,
        "similarity_mean": tally.get("similarity_sum", 0.0) / compared if compared else None,
        "similarity_histogram": [int(histogram.get(str(k), 0)) for k in range(BINS)],
    }
