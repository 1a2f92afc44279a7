"""``tokalign diff``: read edits, write a label for every token of the original and edited responses."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokalign.artifacts import token_labels
from tokalign.artifacts.result import StageResult
from tokalign.artifacts.resumable import group
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
"""Rows tokenized and aligned at a time. An interrupted run resumes at the start of a chunk."""
SHARD = 50_000
"""Rows per data file."""
LONGEST = 10
"""Number of longest edits listed in the manifest."""


def run(config: DiffConfig) -> StageResult:
    """Label every token of all edited and unchanged rows."""
    # 1. Read the edits.
    edits = dataset.read_edits(config.edits, config, config.limit)
    inputs = {"edits": edits.lineage}
    if config.tokenizer != "tiny":
        inputs["tokenizer"] = dataset.model_lineage(config.tokenizer)

    with writing("token-labels", config, inputs) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished)

        # 2. Load or train the tokenizer, and save it beside the labels.
        tiny = config.tokenizer == "tiny"
        tokenizer = train_tiny(_texts(edits), config.vocab) if tiny else Tokenizer.load(config.tokenizer, config)
        edits, notes = renderable(edits, [tokenizer], config.strict)
        with out.space.saving("tokenizer") as scratch:
            tokenizer.save(scratch)

        # 3. Align and label the rows, in several processes.
        edits = edits.shard(config.shard, CHUNK)
        with (
            out.rows("data.arrow", token_labels.HEAD, token_labels.TAIL, SHARD) as file,
            Progress("diff", len(edits), config.quiet, file.taken) as bar,
            _one_thread(),
        ):
            n = pool.how_many(config.workers, len(edits) - file.taken)
            for part, labelled in pool.each(file.parts(edits, CHUNK), labeller, (tokenizer, config), n):
                file.append(labelled.data, labelled.rows)
                file.count(labelled.counts)
                file.count_most("longest", labelled.longest, LONGEST)
                bar.advance(len(part))
                file.done(len(part))

        # 4. Refuse labels from which nothing can be learnt, and write the statistics.
        if not config.shard:
            check(file.tally, config)
        skipped = {reason: n for reason, n in group(file.tally, "skipped").items() if n}
        return StageResult.of(out.folder, out.commit(edits.account(skipped.items()), stats(file.tally), notes=notes))


class Labelled(NamedTuple):
    """A labelled chunk."""

    data: bytes
    """Rows in the format of the data file."""
    rows: int
    counts: dict[str, float]
    """Values to add to the counters of the run."""
    longest: dict[str, float]
    """Tokens in the longest edit of a row, by row id, for the rows with the longest edits."""


def labeller(tokenizer: Tokenizer, config: DiffConfig) -> Callable[[list[Edit]], Labelled]:
    """Return a function that labels a chunk; called once in each process."""
    return lambda edits: label(edits, tokenizer, config)


def label(edits: list[Edit], tokenizer: Tokenizer, config: DiffConfig) -> Labelled:
    """Label the rows of a chunk. Rows longer than ``--max-length`` are counted as skipped."""
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
    """Similarity of each row, computed for rows without one."""
    if any(e.similarity is None for e in rows):
        computed = diff.similarities(originals, editeds)
        return [c if e.similarity is None else e.similarity for e, c in zip(rows, computed, strict=True)]
    return [e.similarity for e in rows if e.similarity is not None]


def _longest(sides: list[tuple[NDArray[np.int32], NDArray[np.int64]]], max_edits: int) -> NDArray[np.int64]:
    """Count the tokens in the longest edit of each row, both sides together.

    Args:
        sides: for originals and edited texts, the edit number of each token (T,) and the bounds of the rows (N + 1,).
        max_edits: largest number of edits in a row.

    Returns:
        (N,) token counts; 0 for rows without an edit.
    """
    n = len(sides[0][1]) - 1
    tokens = np.zeros(n * (max_edits + 1), dtype=np.int64)
    for spans, rows in sides:
        row = np.repeat(np.arange(n), np.diff(rows))
        tokens += np.bincount(row * (max_edits + 1) + spans, minlength=len(tokens))
    table = tokens.reshape(n, max_edits + 1)
    table[:, 0] = 0
    longest: NDArray[np.int64] = table.max(axis=1)
    return longest


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit the tokenizer to one thread per process. Worker processes inherit the setting."""
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


def check(tally: Mapping[str, float], config: DiffConfig) -> None:
    """Check that something can be learnt from the labels, given the counters of the run.

    Raises:
        InputError: there are no rows, or no token is bad or good.
    """
    rows = sum(group(tally, "rows of edits").values())
    if not rows:
        raise InputError("every row is longer than --max-length", where=config.edits, remedy="raise --max-length")
    if not (tally["bad"] or tally["good"]):
        raise InputError(
            f"no token is bad or good: none of the {rows} rows has an edit that changes a word",
            where=config.edits,
            remedy="check the edits with tokalign show, or edit the responses with tokalign edit --editor …",
        )


def stats(tally: Mapping[str, float]) -> dict[str, Any]:
    """Statistics of the manifest, from the counters of a run."""
    n, per_row = Counter(tally), group(tally, "rows of edits")
    tokens, rows = max(1, n["tokens"]), max(1, sum(per_row.values()))
    return {
        "tokens": n["tokens"],
        "share_bad": n["bad"] / tokens,
        "share_good": n["good"] / tokens,
        "share_neutral": 1 - (n["bad"] + n["good"]) / tokens,
        "edits_per_row": n["edits"] / rows,
        "rows_by_edits": {key: per_row[key] for key in sorted(per_row, key=int)},
        "similarity_histogram": [group(n, "rows of similarity").get(str(k), 0) for k in range(10)],
        "longest_edits": group(n, "longest"),
        "unchanged": n["unchanged"],
        "over_length": n["skipped/over --max-length"],
    }
