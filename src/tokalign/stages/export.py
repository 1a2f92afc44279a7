"""``tokalign export``: edits, preferences or responses in, a file in another tool's layout out."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tokalign import artifacts, sources
from tokalign.config import ExportConfig
from tokalign.errors import UsageError
from tokalign.outfile import refuse_taken, writing_file
from tokalign.schemas import Edit, Preference, Prompt, ResponseRow
from tokalign.spreadsheet import quoted
from tokalign.turns import as_transcript

Out = dict[str, Any]


class Exported(NamedTuple):
    """What was written: the file, its rows, and why others were skipped, with counts."""

    file: str
    rows: int
    skipped: dict[str, int]


class Pair(NamedTuple):
    """A better and a worse response: of an edit, the edited and the original."""

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
    rows, skipped = _rows(config)
    write = _csv if config.to == "csv" else _WRITERS.get(config.out.suffix)
    if write is None:
        raise UsageError(f"--out {config.out}", remedy=f"end the name in one of {', '.join(_WRITERS)}")
    counted = Counter[str]()
    with writing_file(config.out, config.fresh, config.quiet) as path:
        write(path, _count(rows, counted))
    return Exported(str(config.out), counted["rows"], skipped)


def _rows(config: ExportConfig) -> tuple[Iterator[Out], dict[str, int]]:
    if config.to == "alpaca-eval":
        responses = sources.read_rows(config.source, ResponseRow, "responses", how=config, limit=config.limit)
        return map(_alpaca_eval, responses), dict(responses.reasons)
    data, pairs = _pairs(config)
    if config.to == "hh-rlhf":
        made = ({s: as_transcript(p.prompt, getattr(p, s)) for s in ("chosen", "rejected")} for p in pairs())
    elif config.to == "csv":
        made = ({**p._asdict(), "prompt": _flat(p.prompt)} for p in pairs())
    else:
        # TRL wants one kind of prompt in a file.
        talk = any(not isinstance(p.prompt, str) for p in pairs())
        shape = _trl if config.to == "trl" else _trl_sft
        made = (shape(p, talk) for p in pairs())
    return made, dict(data.reasons)


def _pairs(config: ExportConfig) -> tuple[sources.Rows[Any], Callable[[], Iterator[Pair]]]:
    path = Path(config.source)
    if artifacts.kind_of(path) == "preferences":
        preferences = sources.read_rows(path, Preference, "preferences", how=config, limit=config.limit)
        return preferences, lambda: (Pair(r.id, r.prompt, r.chosen, r.rejected) for r in preferences)

    def why_not(edit: Edit) -> str:
        return f"status {edit.status}" if edit.status != "edited" else ""

    edits = sources.read_rows(path, Edit, "edits", how=config, limit=config.limit, keep=why_not)
    return edits, lambda: (Pair(r.id, r.prompt, r.edited, r.original) for r in edits)


def _turns(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _trl(p: Pair, talk: bool) -> Out:
    if not talk:
        return {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
    return {"prompt": _turns(p.prompt), "chosen": _said(p.chosen), "rejected": _said(p.rejected)}


def _trl_sft(p: Pair, talk: bool) -> Out:
    if not talk:
        return {"prompt": p.prompt, "completion": p.chosen}
    return {"prompt": _turns(p.prompt), "completion": _said(p.chosen)}


def _alpaca_eval(r: ResponseRow) -> Out:
    prompt = r.prompt if isinstance(r.prompt, str) else r.prompt[-1]["content"]
    return {"instruction": prompt, "output": r.response, "generator": r.generator}


def _flat(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)


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
