"""``tokalign diff``: edits in, a label for every token out."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tokalign import sources, tables
from tokalign.artifacts import Manifest
from tokalign.config import DiffConfig
from tokalign.core import diff
from tokalign.core.diff import Labels
from tokalign.errors import InputError
from tokalign.models.tokenization import Codec, Encoded, train_tiny
from tokalign.progress import Progress
from tokalign.rowfile import RowFile, group
from tokalign.schemas import Edit, TokenLabels
from tokalign.writer import writing

CHUNK = 256
"""Rows tokenized and aligned at a time."""
NEVER = 2.0
"""A share of a sentence that is never reached."""


def run(config: DiffConfig) -> Manifest:
    """Label original and edited of every edited or unchanged row."""
    edits = sources.read_edits(config.edits, config, config.limit)
    inputs = {"edits": edits.lineage}
    if config.tokenizer != "tiny":
        inputs["tokenizer"] = sources.model_lineage(config.tokenizer)

    with writing("token-labels", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        codec = train_tiny(_texts(edits), config.vocab) if config.tokenizer == "tiny" else Codec.load(config.tokenizer)
        codec.save(out.folder / "tokenizer")
        with (
            out.rows("data.arrow", tables.HEAD, tables.TAIL) as file,
            Progress("diff", len(edits), config.quiet, file.taken) as bar,
        ):
            for part in bar.parts(file.left(edits, CHUNK)):
                labelled, counts = _label(part, codec, config)
                file.append(tables.pack_labels(labelled), len(labelled))
                file.count(counts)
        if not file.written:
            raise InputError("every row is longer than --max-length", where=config.edits, remedy="raise --max-length")
        skipped = {why: n for why, n in group(file.tally, "skipped").items() if n}
        return out.commit(edits.account(skipped.items()), _stats(file))


def _texts(edits: Iterable[Edit]) -> Iterator[str]:
    for e in edits:
        yield from (e.original, e.edited, *([e.chosen] if e.chosen else []))
        yield from [e.prompt] if isinstance(e.prompt, str) else [t["content"] for t in e.prompt]


def _label(edits: list[Edit], codec: Codec, config: DiffConfig) -> tuple[list[TokenLabels], Counter[str]]:
    """Rows that fit, and what there is to count."""
    prompts = codec.prompts([e.prompt for e in edits])
    originals = codec.responses([e.original for e in edits])
    editeds = codec.responses([e.edited for e in edits])
    fit = [
        (e, p, a, b)
        for e, p, a, b in zip(edits, prompts, originals, editeds, strict=True)
        if len(p) + max(len(a.ids), len(b.ids)) <= config.max_length
    ]
    aligned = _align([e for e, *_ in fit], [(a, b) for *_, a, b in fit], config)
    rows: list[TokenLabels] = []
    counts = Counter({"skipped/over --max-length": len(edits) - len(fit)})
    for (e, prompt_ids, original, edited), (a, b) in zip(fit, aligned, strict=True):
        row = TokenLabels(
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
        rows.append(row)
        counts.update(
            tokens=len(original.ids) + len(edited.ids),
            bad=-int(np.sum(a.labels)),
            good=int(np.sum(b.labels)),
            edits=int(max(a.spans.max(), b.spans.max())),
            unchanged=e.original == e.edited,
        )
    return rows, counts


def _align(edits: list[Edit], sides: list[tuple[Encoded, Encoded]], config: DiffConfig) -> list[tuple[Labels, Labels]]:
    """Labels of original and edited of every row."""
    cost, whole = (0, NEVER) if config.align == "lcs" else (config.merge, config.whole_sentence)
    if config.unit == "token":
        ids = [(a.ids, b.ids) for a, b in sides]
        found = [diff.align(*p) for p in ids] if config.align == "levenshtein" else diff.align_tokens(ids, cost)
        return [diff.label_tokens(ops, len(a.ids), len(b.ids)) for ops, (a, b) in zip(found, sides, strict=True)]
    texts = [(e.original, e.edited) for e in edits]
    if config.align == "levenshtein":
        found = [diff.word_opcodes(*pair) for pair in texts]
    else:
        found = diff.block_opcodes(texts, cost, whole)
    return [
        diff.label_texts(ops, *pair, a.offsets, b.offsets)
        for ops, pair, (a, b) in zip(found, texts, sides, strict=True)
    ]


def _stats(file: RowFile) -> dict[str, Any]:
    n = file.tally
    return {
        "tokens": n["tokens"],
        "share_bad": n["bad"] / n["tokens"],
        "share_good": n["good"] / n["tokens"],
        "share_neutral": 1 - (n["bad"] + n["good"]) / n["tokens"],
        "edits_per_row": file.mean("edits"),
        "unchanged": n["unchanged"],
    }
