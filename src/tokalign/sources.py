"""Reading what commands take: artifacts of ours, plain files of rows, and foreign layouts.

Every row is validated. A fault of the file, or of a row in our own layout, raises :class:`InputError` with
``file:line`` and field; an unusable row of a foreign layout is skipped and its reason counted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from tokalign import artifacts
from tokalign.config import Format
from tokalign.errors import InputError, KindError, UsageError
from tokalign.schemas import KINDS, Edit, RecordedEdit, Row

R = TypeVar("R", bound=Row)
Placed = tuple[str, dict[str, Any]]
"""A row as it came, and its place: ``file:line`` in JSON lines, ``file: row N`` (from 0) in a JSON array."""


@dataclass
class Rows(Generic[R]):
    """A list of valid rows, and how it came to be."""

    rows: list[R]
    lineage: dict[str, Any]
    kind: str
    reasons: Counter[str] = field(default_factory=Counter)
    """Why rows were skipped, with counts."""

    @property
    def total(self) -> int:
        """Rows looked at, skipped ones included."""
        return len(self.rows) + sum(self.reasons.values())

    def account(self, skipped: Counter[str] | None = None, **more: Any) -> dict[str, Any]:
        """The manifest's ``rows``: in = out + skipped."""
        reasons = self.reasons + (skipped or Counter())
        n = sum(reasons.values())
        return {"in": self.total, "out": self.total - n, "skipped": n, "reasons": dict(reasons), **more}


def read_rows(path: str | Path, row: type[R], *kinds: str, limit: int | None = None) -> Rows[R]:
    """Rows of an artifact of one of ``kinds``, or of a plain file with the columns of ``row``.

    Plain rows without an id are called ``row-0, row-1, …``.

    Raises:
        InputError: nothing is there, or a row is not valid.
        KindError: an artifact of another kind.
    """
    source = Path(path)
    if source.is_dir():
        manifest = _manifest(source, *kinds)
        placed = _placed(source / "data.jsonl")
        lineage, kind = {**manifest.lineage(), "path": str(path)}, manifest.kind
    else:
        placed = _placed(_there(source))
        lineage, kind = _file_lineage(source, kinds[0]), kinds[0]
    return _valid(placed, row, lineage, kind, limit)


def read_edits(path: str | Path, limit: int | None = None) -> Rows[Edit]:
    """Edits that stand; the others are skipped, by status.

    Raises:
        InputError: as :func:`read_rows`, or none stands.
    """
    read = read_rows(path, Edit, "edits", limit=limit)
    stand = [r for r in read.rows if r.stands]
    reasons = Counter(f"status {r.status}" for r in read.rows if not r.stands)
    if not stand:
        raise InputError(f"no usable edits: {dict(reasons)}", where=str(path), remedy="edit again: tokalign edit")
    return Rows(stand, read.lineage, read.kind, reasons)


def read_recorded(
    path: str | Path, layout: Format, *, passages: bool, strict: bool, limit: int | None
) -> Rows[RecordedEdit]:
    """Edits made elsewhere: rows with ``original`` and ``edited``, or the QA-Feedback layout.

    Raises:
        InputError: nothing is there, or a row is not valid (in a foreign layout: with ``strict``).
    """
    source = Path(path)
    if source.is_dir():
        return read_rows(path, RecordedEdit, "edits", limit=limit)
    placed = _placed(_there(source))
    if layout == "auto":
        head = list(islice(placed, 1))
        placed = chain(head, placed)
        layout = "qa-feedback" if head and "prediction 1" in head[0][1] else "tokalign"
    if layout == "tokalign":
        return _valid(placed, RecordedEdit, _file_lineage(source, "edits"), "edits", limit)
    rows: list[RecordedEdit] = []
    reasons: Counter[str] = Counter()
    for number, (at, raw) in enumerate(islice(placed, limit)):
        edit = _qa_feedback(at, raw, number, passages)
        if isinstance(edit, RecordedEdit):
            rows.append(edit)
        elif strict:
            raise InputError(edit, where=at, remedy="mend the row, or run without --strict")
        else:
            reasons[edit] += 1
    if not rows:
        raise InputError(f"no usable rows: {dict(reasons)}", where=str(path))
    return Rows(rows, _file_lineage(source, "qa-feedback"), "edits", reasons)


def model_lineage(path: str, *kinds: str) -> dict[str, Any]:
    """Lineage of a model: an artifact of ours, a folder of files, or a hub id (known by its name alone)."""
    folder = Path(path)
    if artifacts.is_artifact(folder):
        return {**artifacts.verify(folder, *kinds).lineage(), "path": path}
    if folder.is_dir():
        if (folder / artifacts.PLAN).is_file():
            raise InputError("an unfinished run", where=path, remedy="run the command that makes it again")
        hashes = {p.name: artifacts.sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}
        return {"kind": "model", "version": None, "sha256": artifacts.hash_json(hashes), "path": path}
    return {"kind": "model", "version": None, "sha256": f"name:{path}", "path": path}


def _valid(placed: Iterable[Placed], row: type[R], lineage: dict[str, Any], kind: str, limit: int | None) -> Rows[R]:
    checked = _unique(_check(at, value, row) for at, value in _with_ids(placed))
    rows = list(islice(checked, limit))
    if not rows:
        raise InputError("there are no rows", where=str(lineage["path"]))
    return Rows(rows, lineage, kind)


def _manifest(folder: Path, *kinds: str) -> artifacts.Manifest:
    if artifacts.is_artifact(folder):
        return artifacts.verify(folder, *kinds)
    made_by = KINDS[kinds[0]].made_by
    if (folder / artifacts.PLAN).is_file():
        raise InputError("an unfinished run", where=str(folder), remedy=f"finish it first: {made_by}")
    raise KindError(f"not an artifact (no {artifacts.MANIFEST})", where=str(folder), remedy=f"make one: {made_by}")


def _file_lineage(path: Path, kind: str) -> dict[str, Any]:
    return {"kind": kind, "version": None, "sha256": artifacts.sha256(path), "path": str(path)}


def _there(path: Path) -> Path:
    if not path.is_file():
        raise InputError("there is no such file or artifact", where=str(path))
    return path


def _placed(path: Path) -> Iterator[Placed]:
    if _there(path).suffix == ".jsonl":
        yield from _json_lines(path)
    elif path.suffix == ".json":
        yield from _json_array(path)
    else:
        raise UsageError(
            f"cannot tell the layout of {str(path)!r}", remedy="give a .jsonl or .json file, or an artifact"
        )


def _not_utf8(e: UnicodeDecodeError, where: str, start: int = 0) -> InputError:
    """``start``: offset in the file of what was decoded."""
    byte = f"not UTF-8: byte {e.object[e.start]:#04x} at offset {start + e.start}"
    return InputError(byte, where=where, remedy="convert it: iconv -t UTF-8")


def _json_lines(path: Path) -> Iterator[Placed]:
    with path.open("rb") as f:
        start = 0
        for number, raw in enumerate(f, 1):
            at = f"{path}:{number}"
            try:
                line = raw.decode()
            except UnicodeDecodeError as e:
                raise _not_utf8(e, at, start) from e
            start += len(raw)
            line = line.removeprefix("\ufeff") if number == 1 else line
            if not line.strip():
                continue
            try:
                yield at, _object(json.loads(line, object_pairs_hook=_no_twins), at)
            except (ValueError, RecursionError) as e:
                raise InputError(f"not valid JSON: {e}", where=at, remedy="the line may be cut short") from e


def _json_array(path: Path) -> Iterator[Placed]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_no_twins)
    except UnicodeDecodeError as e:
        raise _not_utf8(e, str(path)) from e
    except (ValueError, RecursionError) as e:
        line = getattr(e, "lineno", 1)
        raise InputError(f"not valid JSON: {e}", where=f"{path}:{line}", remedy="the file may be cut short") from e
    if not isinstance(rows, list):
        raise InputError(f"expected an array of rows, got {type(rows).__name__}", where=str(path))
    for number, row in enumerate(rows):
        at = f"{path}: row {number}"
        yield at, _object(row, at)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twin = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {twin!r} stands twice")
    return row


def _object(row: Any, at: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"expected an object, got {type(row).__name__}", where=at)
    return row


def _with_ids(placed: Iterable[Placed]) -> Iterator[Placed]:
    for number, (at, row) in enumerate(placed):
        yield at, row if "id" in row else {"id": f"row-{number}", **row}


def _check(at: str, value: dict[str, Any], row: type[R]) -> tuple[str, R]:
    try:
        return at, row.model_validate(value)
    except ValidationError as e:
        first = e.errors()[0]
        column = str(first["loc"][0]) if first["loc"] else ""
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            problem = f"missing; the row has {sorted(value)}"
        else:
            problem = f"{problem}; got {str(value.get(column))[:80]!r}"
        raise InputError(problem, where=at, field=column, remedy=f"a row needs {', '.join(_required(row))}") from e


def _required(row: type[Row]) -> list[str]:
    return [name for name, f in row.model_fields.items() if f.is_required() and name != "id"]


def _unique(rows: Iterable[tuple[str, R]]) -> Iterator[R]:
    seen: dict[tuple[str, ...], str] = {}
    for at, row in rows:
        key = tuple(str(getattr(row, k)) for k in ("id", "sample", "candidate", "judge", "order") if hasattr(row, k))
        if key in seen:
            raise InputError(f"{' '.join(key)!r} stands twice, first at {seen[key]}", where=at, field="id")
        seen[key] = at
        yield row


def _qa_feedback(at: str, raw: dict[str, Any], number: int, passages: bool) -> RecordedEdit | str:
    """A row of QA-Feedback (Wu et al., 2023): a model's answer and a person's correction of it."""
    try:
        corrected = raw["feedback"]["corrected-prediction"]
        if not isinstance(raw["question"], str) or any(isinstance(p, str) for p in raw["passages"]):
            raise TypeError("a question is a string, a passage a list of strings")
        context = ["\n".join([p[0], " ".join(p[1:])]) for p in raw["passages"]] if passages else []
        prompt = "\n\n".join([*context, f"Question: {raw['question']}" if passages else raw["question"]])
        original = raw["prediction 1"]
    except (KeyError, TypeError, IndexError) as e:
        raise InputError(
            f"not the QA-Feedback layout: {type(e).__name__} {e}",
            where=at,
            remedy="a row needs question, passages, prediction 1, feedback.corrected-prediction",
        ) from e
    if not corrected:
        return "no correction"
    if not str(original).strip():
        return "empty response"
    row = {"id": f"qa-{number}", "prompt": prompt, "original": original, "edited": corrected}
    return _check(at, row, RecordedEdit)[1]
