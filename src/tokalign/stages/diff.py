"""``tokalign diff``: edits in, a label for every token out."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tokalign import artifacts, sources, tables
from tokalign.artifacts import Manifest
from tokalign.config import DiffConfig
from tokalign.core import diff
from tokalign.core.diff import Labels
from tokalign.errors import InputError
from tokalign.models.tokenization import Codec, Encoded, train_tiny
from tokalign.progress import Progress
from tokalign.schemas import Edit, TokenLabels

CHUNK = 256
"""Rows tokenized at a time."""


def run(config: DiffConfig) -> Manifest:
    """Label original and edited of every edited or unchanged row."""
    edits = sources.read_edits(config.edits, config.limit)
    skipped: Counter[str] = Counter()
    inputs = {"edits": edits.lineage}
    if config.tokenizer != "tiny":
        inputs["tokenizer"] = sources.model_lineage(config.tokenizer)

    with artifacts.writing("token-labels", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        codec = (
            train_tiny(_texts(edits.rows), config.vocab) if config.tokenizer == "tiny" else Codec.load(config.tokenizer)
        )
        codec.save(out.folder / "tokenizer")
        tally: Counter[str] = Counter()
        with Progress("diff", len(edits.rows), config.quiet) as bar, out.file("data.arrow") as path:
            labelled = (row for part in bar.over(edits.rows, CHUNK) for row in _label(part, codec, config, skipped))
            tables.write_labels(path, _counted(labelled, tally))
        if not tally["rows"]:
            raise InputError("every row is longer than --max-length", where=config.edits, remedy="raise --max-length")
        return out.commit(edits.account(skipped), _stats(tally))


def _texts(edits: list[Edit]) -> Iterator[str]:
    for e in edits:
        yield from (e.original, e.edited, *([e.chosen] if e.chosen else []))
        yield from [e.prompt] if isinstance(e.prompt, str) else [t["content"] for t in e.prompt]


def _label(edits: Any, codec: Codec, config: DiffConfig, skipped: Counter[str]) -> Iterator[TokenLabels]:
    prompts = codec.prompts([e.prompt for e in edits])
    originals = codec.responses([e.original for e in edits])
    editeds = codec.responses([e.edited for e in edits])
    for e, prompt_ids, original, edited in zip(edits, prompts, originals, editeds, strict=True):
        if len(prompt_ids) + max(len(original.ids), len(edited.ids)) > config.max_length:
            skipped["over --max-length"] += 1
            continue
        a, b = _align(e, original, edited, config)
        yield TokenLabels(
            id=e.id,
            prompt=[{"role": "user", "content": e.prompt}] if isinstance(e.prompt, str) else e.prompt,
            original=e.original,
            edited=e.edited,
            chosen=e.chosen,
            categories=e.categories,
            similarity=diff.similarity(e.original, e.edited) if e.similarity is None else e.similarity,
            prompt_ids=prompt_ids,
            original_ids=original.ids,
            original_labels=a.labels.tolist(),
            original_offsets=original.offsets,  # type: ignore[arg-type]
            original_spans=a.spans.tolist(),
            edited_ids=edited.ids,
            edited_labels=b.labels.tolist(),
            edited_offsets=edited.offsets,  # type: ignore[arg-type]
            edited_spans=b.spans.tolist(),
        )


def _align(e: Edit, original: Encoded, edited: Encoded, config: DiffConfig) -> tuple[Labels, Labels]:
    if config.unit == "word":
        return diff.label_by_words(e.original, e.edited, original.offsets, edited.offsets)
    opcodes = diff.align(original.ids, edited.ids)
    return diff.label_tokens(opcodes, len(original.ids), len(edited.ids))


def _counted(rows: Iterator[TokenLabels], tally: Counter[str]) -> Iterator[TokenLabels]:
    for row in rows:
        bad, good = -int(np.sum(row.original_labels)), int(np.sum(row.edited_labels))
        tally += Counter(
            rows=1,
            tokens=len(row.original_ids) + len(row.edited_ids),
            bad=bad,
            good=good,
            edits=max([*row.original_spans, *row.edited_spans]),
            unchanged=row.original == row.edited,
        )
        yield row


def _stats(tally: Counter[str]) -> dict[str, Any]:
    n, tokens = max(tally["rows"], 1), max(tally["tokens"], 1)
    return {
        "tokens": tally["tokens"],
        "share_bad": tally["bad"] / tokens,
        "share_good": tally["good"] / tokens,
        "share_neutral": 1 - (tally["bad"] + tally["good"]) / tokens,
        "edits_per_row": tally["edits"] / n,
        "unchanged": tally["unchanged"],
    }
