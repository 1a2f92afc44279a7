"""``tokalign diff``: edits in, a label for every token out."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokalign.artifacts import token_labels
from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.resumable import RowFile, group
from tokalign.artifacts.schemas import Edit
from tokalign.artifacts.token_labels import Ragged
from tokalign.artifacts.writer import writing
from tokalign.config.stages import DiffConfig
from tokalign.core import diff
from tokalign.core.diff import AlignOptions
from tokalign.core.words import Words, split
from tokalign.data import dataset
from tokalign.data.conversation import as_messages, contents
from tokalign.errors import InputError
from tokalign.models.labelling import compare
from tokalign.models.prompts import renderable
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer, Tokens
from tokalign.runtime import pool
from tokalign.runtime.progress import Progress

CHUNK = 1024
"""Rows tokenized and aligned at a time."""
SHARD = 50_000
"""Rows in a file."""
LONGEST = 10
"""How many of the longest edits the manifest names."""


def run(config: DiffConfig) -> Manifest:
    """Label original and edited of every edited or unchanged row."""
    edits = dataset.read_edits(config.edits, config, config.limit)
    inputs = {"edits": edits.lineage}
    if config.tokenizer != "tiny":
        inputs["tokenizer"] = dataset.model_lineage(config.tokenizer)

    with writing("token-labels", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        tiny = config.tokenizer == "tiny"
        tokenizer = train_tiny(_texts(edits), config.vocab) if tiny else Tokenizer.load(config.tokenizer, config)
        edits, notes = renderable(edits, [tokenizer], config.strict)
        with out.space.saving("tokenizer") as scratch:
            tokenizer.save(scratch)
        with (
            out.rows("data.arrow", token_labels.HEAD, token_labels.TAIL, SHARD) as file,
            Progress("diff", len(edits), config.quiet, file.taken) as bar,
            _one_thread(),
        ):
            n = pool.how_many(config.workers, len(edits) - file.taken)
            for part, made in pool.each(file.parts(edits, CHUNK), labeller, (tokenizer, config), n):
                file.append(made.data, made.rows)
                file.count(made.counts)
                file.count_most("longest", made.longest, LONGEST)
                bar.advance(len(part))
                file.done(len(part))
        if not file.written:
            raise InputError("every row is longer than --max-length", where=config.edits, remedy="raise --max-length")
        if not (file.tally["bad"] or file.tally["good"]):
            raise InputError(
                f"not one token is bad or good: in none of {file.written} rows an edit changed a word",
                where=config.edits,
                remedy="look at the edits (tokalign show), and have the texts edited: tokalign edit --editor …",
            )
        skipped = {why: n for why, n in group(file.tally, "skipped").items() if n}
        return out.commit(edits.account(skipped.items()), _stats(file) | ({"notes": notes} if notes else {}))


class Labelled(NamedTuple):
    """What is made of a chunk: rows as they stand in the file, what there is to count, and the longest edit by id."""

    data: bytes
    rows: int
    counts: dict[str, float]
    longest: dict[str, float]


def labeller(tokenizer: Tokenizer, config: DiffConfig) -> Callable[[list[Edit]], Labelled]:
    """What labels chunks."""
    return lambda edits: label(edits, tokenizer, config)


def label(edits: list[Edit], tokenizer: Tokenizer, config: DiffConfig) -> Labelled:
    """Label the rows that fit."""
    prompts = tokenizer.prompts([e.prompt for e in edits])
    encoded = tokenizer.encode([text for e in edits for text in (e.original, e.edited)])
    room = config.max_length - 1  # for EOS
    lengths = [len(p) + max(len(a), len(b)) for p, a, b in zip(prompts, encoded[::2], encoded[1::2], strict=True)]
    fit = [k for k, n in enumerate(lengths) if n <= room]
    counts: Counter[str] = Counter({"skipped/over --max-length": len(edits) - len(fit)})
    if not fit:
        return Labelled(b"", 0, dict(counts), {})
    rows = [edits[k] for k in fit]
    originals, editeds = [e.original for e in rows], [e.edited for e in rows]
    a = tokenizer.tokens(originals, [encoded[2 * k] for k in fit])
    b = tokenizer.tokens(editeds, [encoded[2 * k + 1] for k in fit])
    words = split(originals), split(editeds)
    options = AlignOptions(config.align, config.merge, config.whole_sentence)
    spans_a, spans_b, n_edits = compare(*words, a, b, options, config.unit, config.omissions)
    similarities = _similarities(rows, *words)
    columns = {
        "id": [e.id for e in rows],
        "prompt": [as_messages(e.prompt) for e in rows],
        "original": originals,
        "edited": editeds,
        "chosen": [e.chosen for e in rows],
        "categories": [e.categories for e in rows],
        "similarity": similarities,
        "prompt_ids": [prompts[k] for k in fit],
        **_side("original", a, spans_a, diff.BAD),
        **_side("edited", b, spans_b, diff.GOOD),
    }
    counts.update(tokens=len(a.ids) + len(b.ids), bad=int(np.sum(spans_a > 0)), good=int(np.sum(spans_b > 0)))
    counts.update(edits=int(n_edits.sum()), unchanged=sum(e.original == e.edited for e in rows))
    counts.update(f"rows of similarity/{min(int(10 * s), 9)}" for s in similarities)
    counts.update(f"rows of edits/{n}" for n in n_edits.tolist())
    longest = _longest([(spans_a, a.rows), (spans_b, b.rows)], int(n_edits.max()))
    top = np.argsort(-longest, kind="stable")[:LONGEST].tolist()
    return Labelled(
        token_labels.pack_labels(columns),
        len(rows),
        dict(counts),
        {rows[k].id: int(longest[k]) for k in top if longest[k]},
    )


def _side(name: str, tokens: Tokens, spans: NDArray[np.int32], label: int) -> dict[str, Ragged]:
    values = {"ids": tokens.ids, "labels": (spans != 0) * np.int8(label), "offsets": tokens.offsets, "spans": spans}
    return {f"{name}_{key}": Ragged(value, tokens.rows) for key, value in values.items()}


def _similarities(rows: list[Edit], originals: Words, editeds: Words) -> list[float]:
    """Of each row; measured where one does not say."""
    if any(e.similarity is None for e in rows):
        measured = diff.similarities(originals, editeds)
        return [m if e.similarity is None else e.similarity for e, m in zip(rows, measured, strict=True)]
    return [e.similarity for e in rows if e.similarity is not None]


def _longest(sides: list[tuple[NDArray[np.int32], NDArray[np.int64]]], most: int) -> NDArray[np.int64]:
    """For each row, the tokens of its longest edit, both sides together."""
    n = len(sides[0][1]) - 1
    tokens = np.zeros(n * (most + 1), dtype=np.int64)
    for spans, rows in sides:
        row = np.repeat(np.arange(n), np.diff(rows))
        tokens += np.bincount(row * (most + 1) + spans, minlength=len(tokens))
    table = tokens.reshape(n, most + 1)
    table[:, 0] = 0
    largest: NDArray[np.int64] = table.max(axis=1)
    return largest


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the tokenizer to one core a process; processes that are started take the setting over."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _texts(edits: Iterable[Edit]) -> Iterator[str]:
    for e in edits:
        yield from (e.original, e.edited, *([e.chosen] if e.chosen else []))
        yield from contents(e.prompt)


def _stats(file: RowFile) -> dict[str, Any]:
    n = file.tally
    per_row = group(n, "rows of edits")
    return {
        "tokens": n["tokens"],
        "share_bad": n["bad"] / n["tokens"],
        "share_good": n["good"] / n["tokens"],
        "share_neutral": 1 - (n["bad"] + n["good"]) / n["tokens"],
        "edits_per_row": file.mean("edits"),
        "rows_by_edits": {key: per_row[key] for key in sorted(per_row, key=int)},
        "similarity_histogram": [group(n, "rows of similarity").get(str(k), 0) for k in range(10)],
        "longest_edits": group(n, "longest"),
        "unchanged": n["unchanged"],
        "over_length": n["skipped/over --max-length"],
    }
