"""``tokalign export``: edits, preferences or responses in, a file in another tool's layout out."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts.outfile import refuse_taken, writing_file
from tokalign.artifacts.schemas import Edit, Preference, Prompt, ResponseRow, Row
from tokalign.config.stages import ExportConfig
from tokalign.data import dataset
from tokalign.data.conversation import as_messages, as_transcript, is_turns, parsed
from tokalign.data.spreadsheet import quoted
from tokalign.errors import UsageError

Out = dict[str, Any]


class Exported(NamedTuple):
    """What was written: the file and its rows; and what was not."""

    file: str
    rows: int
    skipped: dict[str, int]
    """Why rows were left out, with counts."""
    left_out: dict[str, int]
    """What the layout does not hold, with the number of rows in which there was any."""
    read_as: dict[str, Any]
    """The lineage of the source."""


class Pair(NamedTuple):
    """A better and a worse response: of an edit, the edited and the original."""

    row: Row
    """Where they are from."""
    id: str
    prompt: Prompt
    chosen: str
    rejected: str


def run(config: ExportConfig) -> Exported:
    """Write the file whole or not at all.

    Raises:
        ConflictError: another file of that name is there; with ``--fresh`` it is moved to a dated name beside.
        UsageError: the layout is not one for what the source holds.
    """
    refuse_taken(config.out, config.fresh)
    counted, left_out = Counter[str](), Counter[str]()
    data, rows = _rows(config, left_out)
    write = _csv if config.to == "csv" else _WRITERS.get(config.out.suffix)
    if write is None:
        raise UsageError(f"--out {config.out}", remedy=f"end the name in one of {', '.join(_WRITERS)}")
    with writing_file(config.out, config.fresh, config.quiet) as path:
        write(path, _count(rows, counted))
    return Exported(str(config.out), counted["rows"], dict(data.reasons), dict(left_out), data.lineage)


def _rows(config: ExportConfig, left_out: Counter[str]) -> tuple[dataset.Rows[Any], Iterator[Out]]:
    """The source, and its rows in the new layout; what that does not hold is counted as they are made."""
    if config.to == "alpaca-eval":
        data = dataset.read_rows(config.source, ResponseRow, "responses", options=config, limit=config.limit)
        return data, (_alpaca_eval(r, left_out) for r in data)
    data, pairs = _pairs(config)
    if config.to == "hh-rlhf":
        made = (_hh_rlhf(p, left_out) for p in pairs())
    elif config.to == "csv":
        made = (_flat_pair(p, left_out) for p in pairs())
    else:
        # TRL wants one kind of prompt in a file.
        talk = any(not isinstance(p.prompt, str) for p in pairs())
        shape = _trl if config.to == "trl" else _trl_sft
        made = (shape(p, talk, left_out) for p in pairs())
    return data, made


def _pairs(config: ExportConfig) -> tuple[dataset.Rows[Any], Callable[[], Iterator[Pair]]]:
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


def _leave_out(row: Row, held: Iterable[str], left_out: Counter[str]) -> None:
    """Count the columns of a row that hold something and are not among ``held``, as pairs call them."""
    of = _OF_EDITS if isinstance(row, Edit) else {}
    names = {of.get(name, name) for name in held}
    for name, field in type(row).model_fields.items():
        value = getattr(row, name)
        if name not in names and value not in (None, "", []) and (field.is_required() or value != field.default):
            left_out[f"column {name}"] += 1


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _trl(p: Pair, talk: bool, left_out: Counter[str]) -> Out:
    _leave_out(p.row, _SIDES, left_out)
    if not talk:
        return {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
    return {"prompt": as_messages(p.prompt), "chosen": _said(p.chosen), "rejected": _said(p.rejected)}


def _trl_sft(p: Pair, talk: bool, left_out: Counter[str]) -> Out:
    _leave_out(p.row, ("prompt", "chosen"), left_out)
    if not talk:
        return {"prompt": p.prompt, "completion": p.chosen}
    return {"prompt": as_messages(p.prompt), "completion": _said(p.chosen)}


def _hh_rlhf(p: Pair, left_out: Counter[str]) -> Out:
    _leave_out(p.row, _SIDES, left_out)
    if any(turn["role"] not in ("user", "assistant") for turn in as_messages(p.prompt)):
        left_out["roles other than user and assistant: they became Human"] += 1
    return {side: as_transcript(p.prompt, getattr(p, side)) for side in ("chosen", "rejected")}


def _flat_pair(p: Pair, left_out: Counter[str]) -> Out:
    _leave_out(p.row, ("id", *_SIDES), left_out)
    return {"id": p.id, "prompt": _flat(p.prompt), "chosen": p.chosen, "rejected": p.rejected}


def _flat(prompt: Prompt) -> str:
    """A conversation as JSON; so is a text that would be read back as one."""
    if isinstance(prompt, str) and not is_turns(parsed(prompt)):
        return prompt
    return json.dumps(as_messages(prompt), ensure_ascii=False)


def _alpaca_eval(r: ResponseRow, left_out: Counter[str]) -> Out:
    _leave_out(r, ("prompt", "response", "generator"), left_out)
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
