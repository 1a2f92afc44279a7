"""Reading what commands take: artifacts of ours, plain files of rows, foreign layouts, datasets on the hub.

Every row is validated before any is used: a fault of the file, or of a row in our own layout, raises
:class:`InputError` with ``file:line`` and field; an unusable row of a foreign layout is skipped and its reason
counted. Then rows are read again as they are used, so memory does not grow with them.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import ValidationError

from tokalign import artifacts, formats, readers
from tokalign.artifacts import Artifact
from tokalign.disk import hash_json, sha256
from tokalign.errors import InputError, KindError
from tokalign.formats import LAYOUTS, Skip
from tokalign.knobs import Foreign
from tokalign.migrations import migrate
from tokalign.model_files import check_model
from tokalign.readers import Placed
from tokalign.schemas import KINDS, Edit, Row

R = TypeVar("R", bound=Row)
Item = tuple[str, R | Skip]
"""A place, and the valid row there or why it is left out."""

_KEY = ("id", "sample", "candidate", "judge", "order")


class Rows(Generic[R]):
    """Valid rows of one input, read anew each time they are iterated, and how they came to be.

    Raises:
        InputError: a row is not valid, an id stands twice, or there are none.
    """

    def __init__(self, items: Callable[[], Iterator[Item[R]]], lineage: dict[str, Any]) -> None:
        self._items, self.lineage = items, lineage
        self.total = 0
        """Rows looked at, skipped ones included."""
        self.reasons: Counter[str] = Counter()
        """Why rows are skipped, with counts."""
        hashes = array("q")
        for _, item in items():
            self.total += 1
            if isinstance(item, Skip):
                self.reasons[item.reason] += 1
            else:
                hashes.append(hash(_key(item)))
        if not self.total:
            raise InputError("there are no rows", where=str(lineage["path"]))
        if not len(self):
            raise InputError(f"no usable rows: {dict(self.reasons)}", where=str(lineage["path"]))
        self._refuse_twins(hashes)

    def __len__(self) -> int:
        return self.total - sum(self.reasons.values())

    def __iter__(self) -> Iterator[R]:
        return (item for _, item in self._items() if not isinstance(item, Skip))

    def account(self, skipped: Iterable[tuple[str, int]] = (), **more: Any) -> dict[str, Any]:
        """The manifest's ``rows``: in = out + skipped."""
        reasons = self.reasons + Counter(dict(skipped))
        n = sum(reasons.values())
        return {"in": self.total, "out": self.total - n, "skipped": n, "reasons": dict(reasons), **more}

    def _refuse_twins(self, hashes: "array[int]") -> None:
        """Keys are compared by hash, eight bytes a row; where two are equal, the rows are read again."""
        ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        if not suspects:
            return
        seen: dict[tuple[str, ...], str] = {}
        for at, item in self._items():
            if isinstance(item, Skip) or hash(key := _key(item)) not in suspects:
                continue
            if key in seen:
                raise InputError(
                    f"{' '.join(key)!r} stands twice, first at {seen[key]}",
                    where=at,
                    field="id",
                    remedy="give each row an id of its own",
                )
            seen[key] = at


def read_rows(
    path: str | Path,
    row: type[R],
    *kinds: str,
    how: Foreign | None = None,
    limit: int | None = None,
    keep: Callable[[R], str] = lambda _: "",
) -> Rows[R]:
    """Rows of an artifact of one of ``kinds``, a file or a dataset, with the columns of ``row`` or a foreign layout.

    Plain rows without an id are called ``row-0, row-1, …``; foreign ones by their layout, ``hh-0, hh-1, …``.
    ``keep`` says why a valid row is skipped all the same; "" keeps it.

    Raises:
        InputError: nothing is there, or a row is not valid.
        KindError: an artifact of another kind.
    """
    how = how or Foreign()
    placed, lineage = _open(str(path), kinds, how)
    name: str = "tokalign" if lineage["version"] else how.format
    if name == "auto":
        name = _layout(next(placed(), None), row)
    text = Path(path).suffix == ".csv"

    def items() -> Iterator[Item[R]]:
        some = islice(placed(), limit)
        for at, item in _ours(some, row, text) if name == "tokalign" else _foreign(some, row, name, how):
            reason = "" if isinstance(item, Skip) else keep(item)
            yield at, Skip(reason) if reason else item

    return Rows(items, lineage if name == "tokalign" else {**lineage, "kind": name})


def read_edits(path: str | Path, how: Foreign | None = None, limit: int | None = None) -> Rows[Edit]:
    """Edits that stand; the others are skipped, by status.

    Raises:
        InputError: as :func:`read_rows`, or none stands.
    """
    return read_rows(path, Edit, "edits", how=how, limit=limit, keep=lambda e: "" if e.stands else f"status {e.status}")


def model_lineage(path: str, *kinds: str) -> dict[str, Any]:
    """Lineage of a model: an artifact of ours, a folder of files, or a hub id (known by its name alone).

    Raises:
        InputError: it is damaged, or of a kind that hangs or floods who loads it.
    """
    folder = Path(path)
    if artifacts.is_artifact(folder):
        lineage = artifacts.open_artifact(folder, *kinds).manifest.lineage()
        check_model(folder)
        return {**lineage, "path": path}
    if folder.is_dir():
        if (folder / artifacts.PLAN).is_file():
            raise InputError("an unfinished run", where=path, remedy="run the command that makes it again")
        check_model(folder)
        hashes = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}
        return {"kind": "model", "version": None, "sha256": hash_json(hashes), "path": path}
    return {"kind": "model", "version": None, "sha256": f"name:{path}", "path": path}


def file_lineage(file: Path) -> dict[str, Any]:
    """Lineage of a file that is taken as it is.

    Raises:
        InputError: it is not there.
    """
    if not file.is_file():
        raise InputError("there is no such file", where=str(file))
    return {"kind": "file", "version": None, "sha256": sha256(file), "path": str(file)}


def _open(path: str, kinds: tuple[str, ...], how: Foreign) -> tuple[Callable[[], Iterator[Placed]], dict[str, Any]]:
    """What reads the raw rows (each time anew), and their lineage, whose version is null unless they are ours."""
    source = Path(path)
    if source.is_dir():
        artifact = _artifact(source, *kinds)
        kind, version, data = artifact.manifest.kind, artifact.manifest.version, artifact.file("data.jsonl")

        def migrated() -> Iterator[Placed]:
            for at, raw in readers.read_file(data):
                yield at, migrate(kind, version, KINDS[kind].version, raw)

        return migrated, {**artifact.manifest.lineage(), "path": path}
    lineage: dict[str, Any] = {"kind": kinds[0], "version": None}
    if readers.is_hub_id(path):
        commit = readers.hub_commit(path, how.revision)
        lineage |= {"sha256": f"hub:{commit}:{how.subset or ''}:{how.split}", "path": path}
        return lambda: readers.read_hub(path, commit, how.subset, how.split), lineage
    readers.check_file(source)
    return lambda: readers.read_file(source), {**lineage, "sha256": sha256(source), "path": path}


def _artifact(folder: Path, *kinds: str) -> Artifact:
    if artifacts.is_artifact(folder):
        return artifacts.open_artifact(folder, *kinds)
    made_by = KINDS[kinds[0]].made_by
    if (folder / artifacts.PLAN).is_file():
        raise InputError("an unfinished run", where=str(folder), remedy=f"finish it first: {made_by}")
    raise KindError(f"not an artifact (no {artifacts.MANIFEST})", where=str(folder), remedy=f"make one: {made_by}")


def _layout(first: Placed | None, row: type[Row]) -> str:
    """Which layout a file has, by its first row: ours if it has our columns, else the first that fits."""
    if first is None:
        return "tokalign"
    raw = first[1]
    ours = set(_required(row)) <= raw.keys() and not isinstance(raw.get("chosen"), list)
    return "tokalign" if ours else formats.detect(raw) or "tokalign"


def _ours(placed: Iterable[Placed], row: type[R], text: bool) -> Iterator[Item[R]]:
    """``text``: cells are text, whatever the column holds, and an empty one stands for nothing."""
    needed = _required(row)
    for number, (at, raw) in enumerate(placed):
        value = {k: v for k, v in raw.items() if v != "" or k in needed} if text else raw
        yield at, check_row(at, value if "id" in value else {"id": f"row-{number}", **value}, row, strict=not text)


def _foreign(placed: Iterable[Placed], row: type[R], name: str, how: Foreign) -> Iterator[Item[R]]:
    layout = LAYOUTS[name]
    for number, (at, raw) in enumerate(placed):
        try:
            made = layout.adapt(raw)
        except (KeyError, TypeError, IndexError, AttributeError) as e:
            raise InputError(
                f"not the {name} layout: {type(e).__name__} {e}", where=at, remedy=f"a row needs {layout.columns}"
            ) from e
        if not isinstance(made, Skip):
            if name == "qa-feedback" and not how.passages:
                made["prompt"] = made["question"]
            yield at, check_row(at, {"source": name, **made, "id": f"{layout.prefix}-{number}"}, row)
        elif how.strict:
            raise InputError(made.reason, where=at, remedy="mend the row, or run without --strict")
        else:
            yield at, made


def check_row(at: str, value: dict[str, Any], row: type[R], strict: bool = True) -> R:
    """A raw row as its type has it.

    Raises:
        InputError: it is not one, with its place and the column at fault.
    """
    try:
        return row.model_validate(value, strict=strict)
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


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(getattr(row, k)) for k in _KEY if hasattr(row, k))
