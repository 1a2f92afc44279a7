"""Reading what commands take: artifacts of ours, plain files of rows, foreign layouts, datasets on the hub.

Every row is validated before any is used: a fault of the file, or of a row in our own layout, raises
:class:`InputError` with ``file:line`` and field; an unusable row of a foreign layout is skipped and its reason
counted. Then rows are read again as they are used, so memory does not grow with them. The layout is that of the file
as a whole, told from its first rows.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, get_origin

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
from tokalign.schemas import KINDS, Edit, PromptRow, ResponseRow, Row
from tokalign.shapes import Shape
from tokalign.turns import UnusableError, is_turns, parsed, with_system, without_nulls

R = TypeVar("R", bound=Row)
Item = tuple[str, R | Skip]
"""A place, and the valid row there or why it is left out."""

_KEY = ("id", "sample", "candidate", "judge", "order")
_OWN_IDS = ("id", "prompt_id", "uid", "uuid")
"""Columns of foreign layouts that may name a row."""
_REASONS = 50
"""Different reasons that are counted apart."""
OTHER = "other reasons"
_SURROGATE = re.compile("[\ud800-\udfff]")
SAMPLE = 50
"""Rows by which a layout is told."""


class Rows(Generic[R]):
    """Valid rows of one input, read anew each time they are iterated, and how they came to be.

    Args:
        items: reads the rows.
        lineage: of the input.
        shared: where given, a key that stands several times is no error: its hash is added here, and ``items``, which
            looks here, gives such rows a name of their own.
        remedy: what to do where no row is usable.

    Raises:
        InputError: a row is not valid, an id stands twice, or there are none.
    """

    def __init__(
        self,
        items: Callable[[], Iterator[Item[R]]],
        lineage: dict[str, Any],
        shared: set[int] | None = None,
        remedy: str = "",
    ) -> None:
        self._items, self.lineage = items, lineage
        self.total = 0
        """Rows looked at, skipped ones included."""
        self.reasons: Counter[str] = Counter()
        """Why rows are skipped, with counts."""
        hashes, first = array("q"), ""
        for at, item in items():
            self.total += 1
            if isinstance(item, Skip):
                known = item.reason in self.reasons or len(self.reasons) < _REASONS
                self.reasons[item.reason if known else OTHER] += 1
                first = first or at
            else:
                hashes.append(hash(_key(item)))
        if not self.total:
            raise InputError("there are no rows", where=str(lineage["path"]))
        if not len(self):
            raise InputError(f"no usable rows: {dict(self.reasons)}", where=first, remedy=remedy)
        self._tell_apart(hashes, shared)

    def __len__(self) -> int:
        return self.total - sum(self.reasons.values())

    def __iter__(self) -> Iterator[R]:
        return (item for _, item in self._items() if not isinstance(item, Skip))

    def account(self, skipped: Iterable[tuple[str, int]] = (), **more: Any) -> dict[str, Any]:
        """The manifest's ``rows``: in = out + skipped."""
        reasons = self.reasons + Counter(dict(skipped))
        n = sum(reasons.values())
        return {"in": self.total, "out": self.total - n, "skipped": n, "reasons": dict(reasons), **more}

    def _tell_apart(self, hashes: "array[int]", shared: set[int] | None) -> None:
        """Keys are compared by hash, eight bytes a row; where two are equal, the rows are read again."""
        ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        if not suspects:
            return
        if shared is not None:
            shared |= suspects
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

    Plain rows without an id are called ``row-0, row-1, …``. Foreign ones keep an id of their own that no other has; the
    others are called by their layout, ``hh-0, hh-1, …``. ``keep`` says why a valid row is skipped all the same; ""
    keeps it.

    Raises:
        InputError: nothing is there, or a row is not valid.
        KindError: an artifact of another kind.
    """
    how = how or Foreign()
    placed, lineage = _open(str(path), kinds, how)
    plain, text = lineage["version"] is None, Path(path).suffix == ".csv"
    name: str = how.format if plain else "tokalign"
    shape = _shape(placed, limit, text) if plain else Shape(())
    if name == "auto":
        name = _layout(shape, row)
    shared: set[int] = set()

    def items() -> Iterator[Item[R]]:
        some = islice(placed(), limit)
        found = _ours(some, row, text, plain) if name == "tokalign" else _foreign(some, row, name, how, spelt, shared)
        for at, item in found:
            reason = "" if isinstance(item, Skip) else keep(item)
            yield at, Skip(reason) if reason else item

    if name == "tokalign":
        return Rows(items, lineage)
    spelt = formats.spelt_out(shape) if text else frozenset[str]()
    remedy = f"layout {name}: a row needs {LAYOUTS[name].columns}; the columns are {', '.join(shape.kinds)[:300]}"
    return Rows(items, {**lineage, "kind": name}, shared, f"{remedy}; see --format")


def read_edits(path: str | Path, how: Foreign | None = None, limit: int | None = None) -> Rows[Edit]:
    """Edits that stand; the others are skipped, by status.

    Raises:
        InputError: as :func:`read_rows`, or none stands.
    """
    return read_rows(path, Edit, "edits", how=how, limit=limit, keep=lambda e: "" if e.stands else f"status {e.status}")


def holds_edits(path: str | Path, how: Foreign) -> bool:
    """Whether an input, of which edits are only one kind that a command takes, holds edits.

    Raises:
        InputError: nothing is there.
    """
    if Path(path).is_dir() and artifacts.is_artifact(Path(path)):
        return artifacts.kind_of(Path(path)) == "edits"
    if how.format not in ("auto", "tokalign"):
        return how.format == "qa-feedback"
    placed, _ = _open(str(path), ("edits",), how)
    shape = _shape(placed, None, False)
    ours = shape.has(*_required(Edit)) and not shape.has("response")
    return ours or (how.format == "auto" and formats.detect(shape) == "qa-feedback")


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


def _shape(placed: Callable[[], Iterator[Placed]], limit: int | None, text: bool) -> Shape:
    """What the columns hold, by the first rows; a fault among them is told when its turn comes."""
    rows: list[dict[str, Any]] = []
    with suppress(InputError):
        rows.extend(raw for _, raw in islice(placed(), SAMPLE if limit is None else min(limit, SAMPLE)))
    return Shape(rows, text)


def _layout(shape: Shape, row: type[Row]) -> str:
    """Which layout a file has: ours if it has our columns, else the first that fits."""
    if "prompt" not in row.model_fields:
        return "tokalign"
    ours = shape.has(*_required(row)) and shape.kinds.get("chosen") not in ("turns", "object", "list")
    found = formats.detect(shape)
    marked = row is PromptRow and found in ("nectar", "helpsteer")  # a talk within the text of the prompt
    return found if found and (marked or not ours) else "tokalign"


def _ours(placed: Iterable[Placed], row: type[Row], text: bool, plain: bool) -> Iterator[Item[Any]]:
    """Rows with our columns.

    Args:
        placed: the rows as they came.
        row: their type.
        text: cells are text, and an empty one stands for nothing; lists are spelt out as JSON.
        plain: they are of no artifact: what tables add is taken out, and a system message may stand in its own column.
    """
    needed = _required(row)
    lists = [name for name, f in row.model_fields.items() if get_origin(f.annotation) is list] if text else []
    systems = ("system", "system_prompt") if "prompt" in needed and row is not ResponseRow else ()
    for number, (at, raw) in enumerate(placed):
        value = raw
        if text:
            value = {k: v for k, v in raw.items() if v != "" or k in needed}
            value |= {k: parsed(value[k]) for k in lists if k in value}
            if is_turns(turns := parsed(value.get("prompt"))):
                value["prompt"] = turns
        if plain:
            value = _tidied(at, value, needed, systems)
        yield at, check_row(at, value if "id" in value else {"id": f"row-{number}", **value}, row, strict=not text)


def _tidied(at: str, raw: dict[str, Any], needed: list[str], systems: tuple[str, ...]) -> dict[str, Any]:
    """A row without the nulls that tables add, and with its system message in the prompt."""
    value = {k: v for k, v in raw.items() if v is not None or k in needed} if None in raw.values() else raw
    prompt = value.get("prompt")
    if type(prompt) is list:
        prompt = without_nulls(prompt)
        value = {**value, "prompt": prompt}
    for name in systems:
        if name in value and isinstance(value[name], str) and prompt and isinstance(prompt, str | list):
            try:
                return {**value, "prompt": with_system(value[name], prompt)}
            except (UnusableError, AttributeError, KeyError, TypeError):
                return value  # the prompt is none, which is told with the row
    return value


def _foreign(
    placed: Iterable[Placed], row: type[Row], name: str, how: Foreign, spelt: frozenset[str], shared: set[int]
) -> Iterator[Item[Any]]:
    """Rows of a foreign layout; those that cannot be used are skipped, or refused if that is wanted.

    Args:
        placed: the rows as they came.
        row: the type they are to have.
        name: of the layout.
        how: to read them.
        spelt: columns whose cells are text that spells out JSON.
        shared: hashes of the keys that stand several times, and so name no row.
    """
    layout, prompts_alone = LAYOUTS[name], _required(row) == ["prompt"]
    for number, (at, raw) in enumerate(placed):
        if spelt:
            raw = {k: parsed(v) if k in spelt else v for k, v in raw.items()}  # noqa: PLW2901
        made_up = f"{layout.prefix}-{number}"
        try:
            made = formats.adapt(name, raw)
            if "unusable" in made and not prompts_alone:
                raise UnusableError(made["unusable"])
            if name == "qa-feedback" and not how.passages:
                made["prompt"] = made["question"]
            item = row.model_validate({"source": name, **made, "id": _own_id(raw) or made_up})
            yield at, item.model_copy(update={"id": made_up}) if shared and hash(_key(item)) in shared else item
        except (UnusableError, ValidationError) as e:
            reason = str(e) if isinstance(e, UnusableError) else _why_not(e)
            if how.strict:
                raise InputError(reason, where=at, remedy="mend the row, or run without --strict") from e
            yield at, Skip(reason)


def _own_id(raw: dict[str, Any]) -> str | None:
    """What a foreign row is called where it came from."""
    for name in _OWN_IDS:
        value = raw.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
            return str(value)
        if isinstance(value, str) and value.strip() and len(value) <= 512 and not _SURROGATE.search(value):
            return value
    return None


def _why_not(error: ValidationError) -> str:
    """Why a foreign row is none of ours, in words that do not differ from row to row."""
    first = error.errors()[0]
    column = str(first["loc"][0]) if first["loc"] else "row"
    if first["type"] == "missing":
        return f"no {column}"
    problem = first["msg"].removeprefix("Value error, ").partition(" at character")[0]
    return f"field {column!r}: {problem[:1].lower()}{problem[1:]}"


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
    return tuple([str(getattr(row, k)) for k in _key_columns(type(row))])


@cache
def _key_columns(row: type[Row]) -> tuple[str, ...]:
    return tuple(k for k in _KEY if k in row.model_fields)
