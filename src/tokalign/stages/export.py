"""``tokalign export``: read edits, preferences or responses, write a file in another tool's layout."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts.outfile import refuse_taken, writing_file
from tokalign.artifacts.result import StageResult, WrittenFile
from tokalign.artifacts.schemas import Edit, Preference, Prompt, ResponseRow, Row
from tokalign.config.stages import ExportConfig
from tokalign.data import dataset
from tokalign.data.conversation import as_messages, as_transcript, is_turns, parsed
from tokalign.data.spreadsheet import quoted
from tokalign.errors import UsageError

Out = dict[str, Any]


class Pair(NamedTuple):
    """A better and a worse response. For an edit these are the edited and the original response."""

    row: Row
    """Row of the source."""
    id: str
    prompt: Prompt
    chosen: str
    rejected: str


def run(config: ExportConfig) -> StageResult:
    """Export the rows to a file. If an error occurs, no file is written.

    Raises:
        ConflictError: the output file exists; with ``--fresh`` it is moved to a dated name in the same folder.
        UsageError: the extension of ``--out`` is not supported.
    """
    # 1. Read the source. Its rows are converted while they are written.
    refuse_taken(config.out, config.fresh)
    counted, left_out = Counter[str](), Counter[str]()
    data, rows = _rows(config, left_out)

    # 2. Write the file.
    write = _csv if config.to == "csv" else _WRITERS.get(config.out.suffix)
    if write is None:
        raise UsageError(f"--out {config.out} has an unsupported extension", remedy=f"use one of {', '.join(_WRITERS)}")
    with writing_file(config.out, config.fresh, config.quiet) as path:
        write(path, _count(rows, counted))
    written = WrittenFile(str(config.out), counted["rows"], dict(data.reasons), dict(left_out), data.lineage)
    return StageResult(file=written)


def _rows(config: ExportConfig, left_out: Counter[str]) -> tuple[dataset.Rows[Any], Iterator[Out]]:
    """Read the source and convert its rows. ``left_out`` counts what the layout cannot hold, during conversion."""
    if config.to == "alpaca-eval":
        data = dataset.read_rows(config.source, ResponseRow, "responses", options=config, limit=config.limit)
        return data, (_alpaca_eval(r, left_out) for r in data)
    data, pairs = _pairs(config)
    if config.to == "hh-rlhf":
        rows = (_hh_rlhf(p, left_out) for p in pairs())
    elif config.to == "csv":
        rows = (_flat_pair(p, left_out) for p in pairs())
    else:
        # TRL accepts either texts or conversations in a file, not both.
        conversational = any(not isinstance(p.prompt, str) for p in pairs())
        convert = _trl if config.to == "trl" else _trl_sft
        rows = (convert(p, conversational, left_out) for p in pairs())
    return data, rows


def _pairs(config: ExportConfig) -> tuple[dataset.Rows[Any], Callable[[], Iterator[Pair]]]:
    """Read the source. The function that is returned iterates over its pairs, anew at each call."""
    if not dataset.holds_edits(config.source, config):
        preferences = dataset.read_rows(config.source, Preference, "preferences", options=config, limit=config.limit)
        return preferences, lambda: (Pair(r, r.id, r.prompt, r.chosen, r.rejected) for r in preferences)

    def why_not(edit: Edit) -> str:
        if edit.status != "edited":
            return f"status {edit.status}"
        return "" if edit.edited.strip() else "empty response"

    edits = dataset.read_rows(config.source, Edit, "edits", options=config, limit=config.limit, keep=why_not)
    return edits, lambda: (Pair(r, r.id, r.prompt, r.edited, r.original) for r in edits)


_SIDES = ("prompt", "chosen", "rejected")
_OF_EDITS = {"chosen": "edited", "rejected": "original"}


def _count_left_out(row: Row, kept: Iterable[str], left_out: Counter[str]) -> None:
    """Count the non-empty columns of a row that are not exported.

    Args:
        row: row of the source.
        kept: exported columns, by their names in pairs (``chosen`` for the column ``edited`` of an edit).
        left_out: counter of columns.
    """
    renamed = _OF_EDITS if isinstance(row, Edit) else {}
    names = {renamed.get(name, name) for name in kept}
    for name, field in type(row).model_fields.items():
        value = getattr(row, name)
        if name not in names and value not in (None, "", []) and (field.is_required() or value != field.default):
            left_out[f"column {name}"] += 1


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _trl(p: Pair, conversational: bool, left_out: Counter[str]) -> Out:
    _count_left_out(p.row, _SIDES, left_out)
    if not conversational:
        return {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
    return {"prompt": as_messages(p.prompt), "chosen": _answer(p.chosen), "rejected": _answer(p.rejected)}


def _trl_sft(p: Pair, conversational: bool, left_out: Counter[str]) -> Out:
    _count_left_out(p.row, ("prompt", "chosen"), left_out)
    if not conversational:
        return {"prompt": p.prompt, "completion": p.chosen}
    return {"prompt": as_messages(p.prompt), "completion": _answer(p.chosen)}


def _hh_rlhf(p: Pair, left_out: Counter[str]) -> Out:
    _count_left_out(p.row, _SIDES, left_out)
    if any(turn["role"] not in ("user", "assistant") for turn in as_messages(p.prompt)):
        left_out["roles other than user and assistant: they became Human"] += 1
    return {side: as_transcript(p.prompt, getattr(p, side)) for side in ("chosen", "rejected")}


def _flat_pair(p: Pair, left_out: Counter[str]) -> Out:
    _count_left_out(p.row, ("id", *_SIDES), left_out)
    return {"id": p.id, "prompt": _flat(p.prompt), "chosen": p.chosen, "rejected": p.rejected}


def _flat(prompt: Prompt) -> str:
    """Return a prompt as one cell: a conversation as JSON, and also a text that would be read back as one."""
    if isinstance(prompt, str) and not is_turns(parsed(prompt)):
        return prompt
    return json.dumps(as_messages(prompt), ensure_ascii=False)


def _alpaca_eval(r: ResponseRow, left_out: Counter[str]) -> Out:
    _count_left_out(r, ("prompt", "response", "generator"), left_out)
    turns = as_messages(r.prompt)
    if len(turns) > 1:
        left_out["turns before the last"] += 1
    return {"instruction": turns[-1]["content"], "output": r.response, "generator": r.generator}


def _count(rows: Iterable[Out], counted: Counter[str]) -> Iterator[Out]:
    for row in rows:
        counted["rows"] += 1
        yield row


def _jsonl(path: Path, rows: Iterator[Out]) -> None:
    with path.open("w", encoding="utf-8") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _json(path: Path, rows: Iterator[Out]) -> None:
    with path.open("w", encoding="utf-8") as f:
        json.dump(list(rows), f, ensure_ascii=False, indent=1)


def _csv(path: Path, rows: Iterator[Out]) -> None:
    first = next(rows)
    with path.open("w", encoding="utf-8", newline="") as f:
        table = csv.DictWriter(f, list(first))
        table.writeheader()
        table.writerows({k: quoted(v) for k, v in row.items()} for row in chain([first], rows))


def _parquet(path: Path, rows: Iterator[Out]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)


_WRITERS: dict[str, Callable[[Path, Iterator[Out]], None]] = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
