"""Validated rows of an input: converted to tokalign's columns, with unique ids, skipped rows counted."""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Generic, TypeVar, get_origin

import numpy as np
from pydantic import ValidationError

from tokalign.artifacts.schemas import ResponseRow, Row
from tokalign.config.options import ReadOptions
from tokalign.config.sharding import Shard
from tokalign.data import layouts
from tokalign.data.conversation import UnusableError, is_turns, parsed, with_system, without_nulls
from tokalign.data.layouts import LAYOUTS, Skip
from tokalign.data.readers import Placed
from tokalign.errors import InputError

R = TypeVar("R", bound=Row)
Item = tuple[str, R | Skip]
"""The position of a row, and the valid row or the reason to skip it."""

_KEY = ("id", "sample", "candidate", "judge", "order")
_ID_COLUMNS = ("id", "prompt_id", "uid", "uuid")
"""Columns of other layouts that may contain the id of a row."""
_SHARED = 100_000
"""Maximum number of duplicate ids to remember. With more, all rows are renumbered, so memory stays bounded."""
_ALL = -1
"""Marker among the hashes of keys (Python hashes are never -1): all rows are renumbered."""
_REASONS = 50
"""Maximum number of different reasons that are counted separately."""
OTHER = "other reasons"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Rows(Generic[R]):
    """The valid rows of one input. Each iteration reads the input again.

    Args:
        items: starts a new iteration over the rows.
        lineage: lineage of the input.
        shared: if given, duplicate keys are allowed: their hashes are added to this set, and ``items`` renumbers the
            rows with these keys.
        remedy: remedy for the error that no row is usable.

    Raises:
        InputError: a row is invalid, a key is not unique, or there are no usable rows.
    """

    def __init__(
        self,
        items: Callable[[], Iterator[Item[R]]],
        lineage: dict[str, Any],
        shared: set[int] | None = None,
        remedy: str = "",
    ) -> None:
        self._items, self.lineage = items, lineage
        self._shared, self._remedy = shared, remedy
        self.total = 0
        """Number of rows read, including skipped ones."""
        self.reasons: Counter[str] = Counter()
        """Reason → number of skipped rows."""
        self.start = 0
        """Index, among the usable rows of the whole input, of the first row; see :meth:`shard`."""
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
        self._refuse_duplicates(hashes, shared)

    def __len__(self) -> int:
        return self.total - sum(self.reasons.values())

    def __iter__(self) -> Iterator[R]:
        return (item for _, item in self._items() if not isinstance(item, Skip))

    def where(self, why_not: Callable[[R], str], strict: bool = False) -> "Rows[R]":
        """Filter the rows.

        Args:
            why_not: returns the reason to skip a row, or "" to keep it. Called once per row.
            strict: raise an error for a row that would be skipped.

        Returns:
            The remaining rows; the reasons of skipped rows include the position of the first one.

        Raises:
            InputError: no row is left or, with ``strict``, a row would be skipped.
        """
        first: dict[str, str] = {}
        decisions: list[Skip | None] = []

        def decide(at: str, item: R) -> Skip | None:
            if not (reason := why_not(item)):
                return None
            if strict:
                remedy = "fix the row, or run without --strict"
                raise InputError(reason, where=at, field=f"id {item.id!r}", remedy=remedy)
            if reason not in first and len(first) >= _REASONS:
                return Skip(OTHER)
            return Skip(f"{reason}; the first is {first.setdefault(reason, f'{at}, id {item.id!r}')}")

        def items() -> Iterator[Item[R]]:
            for n, (at, item) in enumerate(self._items()):
                if n == len(decisions):  # decide once, even if the rows are read several times
                    decisions.append(None if isinstance(item, Skip) else decide(at, item))
                yield at, decisions[n] or item

        return Rows(items, self.lineage, self._shared, self._remedy)

    def shard(self, text: str | None, size: int = 1) -> "Rows[R]":
        """Return one part of the rows, given as ``K/N``; all rows if ``text`` is None.

        The parts consist of whole chunks of ``size`` rows. They have the same chunks in the same order as the whole.
        Rows that were skipped are counted in the first part.

        Raises:
            InputError: there are fewer chunks than parts.
        """
        if text is None:
            return self
        shard = Shard.parse(text)
        chunks = -(-len(self) // size)
        if chunks < shard.of:
            of = f"{chunks} chunks of {size} rows" if size > 1 else f"{chunks} rows"
            where = str(self.lineage["path"])
            raise InputError(f"{shard.of} parts of {of}", where=where, remedy=f"use --shard K/N with N ≤ {chunks}")
        start, stop = (chunks * k // shard.of * size for k in (shard.number, shard.number + 1))

        def items() -> Iterator[Item[R]]:
            n = 0
            for at, item in self._items():
                if isinstance(item, Skip):
                    if shard.number == 0:
                        yield at, item
                    continue
                if start <= n < stop:
                    yield at, item
                n += 1

        found = Rows(items, self.lineage, self._shared, self._remedy)
        found.start = start
        return found

    def account(self, skipped: Iterable[tuple[str, int]] = (), **more: Any) -> dict[str, Any]:
        """Return the ``rows`` entry of a manifest: in = out + skipped. ``skipped``: further (reason, count) pairs."""
        reasons = self.reasons + Counter(dict(skipped))
        n = sum(reasons.values())
        return {"in": self.total, "out": self.total - n, "skipped": n, "reasons": dict(reasons), **more}

    def _refuse_duplicates(self, hashes: "array[int]", shared: set[int] | None) -> None:
        """Refuse duplicate keys. Compares hashes (eight bytes per row); if two are equal, reads the rows again."""
        ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if shared is not None:
            shared |= {_ALL} if len(repeated) > _SHARED else set(repeated.tolist())
            return
        candidates = set(repeated.tolist())
        if not candidates:
            return
        seen: dict[tuple[str, ...], str] = {}
        for at, item in self._items():
            if isinstance(item, Skip) or hash(key := _key(item)) not in candidates:
                continue
            if key in seen:
                raise InputError(
                    f"duplicate key {' '.join(key)!r}, first at {seen[key]}",
                    where=at,
                    field="id",
                    remedy="give every row a unique id",
                )
            seen[key] = at


def ours(placed: Iterable[Placed], row: type[Row], text: bool, plain: bool) -> Iterator[Item[Any]]:
    """Yield rows that already have tokalign's columns.

    Args:
        placed: raw rows with their positions.
        row: type of the rows.
        text: all cells are text, as in CSV: empty cells are dropped, and lists and conversations are JSON.
        plain: the rows are not from an artifact: drop nulls, and move a system message to the prompt.
    """
    needed = required(row)
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
            value = _without_nulls(at, value, needed, systems)
        yield at, check_row(at, value if "id" in value else {"id": f"row-{number}", **value}, row, strict=not text)


def _without_nulls(at: str, raw: dict[str, Any], needed: list[str], systems: tuple[str, ...]) -> dict[str, Any]:
    """Drop the nulls that tables add, and move a system message to the prompt."""
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
                return value  # the prompt is invalid; validating the row reports it
    return value


def foreign(
    placed: Iterable[Placed],
    row: type[Row],
    name: str,
    options: ReadOptions,
    json_columns: frozenset[str],
    shared: set[int],
) -> Iterator[Item[Any]]:
    """Yield rows of another layout. Rows that cannot be used are skipped or, with ``--strict``, raise InputError.

    Args:
        placed: raw rows with their positions.
        row: type of the converted rows.
        name: name of the layout.
        options: how to read the input.
        json_columns: columns whose text cells are parsed as JSON.
        shared: hashes of duplicate keys; rows with these are renumbered.
    """
    layout, only_prompts = LAYOUTS[name], required(row) == ["prompt"]
    for number, (at, raw) in enumerate(placed):
        if json_columns:
            raw = {k: parsed(v) if k in json_columns else v for k, v in raw.items()}  # noqa: PLW2901
        generated = f"{layout.prefix}-{number}"
        try:
            made = layouts.adapt(name, raw)
            if "unusable" in made and not only_prompts:
                raise UnusableError(made["unusable"])
            if name == "qa-feedback" and not options.passages:
                made["prompt"] = made["question"]
            item = row.model_validate({"source": name, **made, "id": _original_id(raw, layout.prefix) or generated})
            renamed = shared and (_ALL in shared or hash(_key(item)) in shared)
            yield at, item.model_copy(update={"id": generated}) if renamed else item
        except (UnusableError, ValidationError) as e:
            reason = str(e) if isinstance(e, UnusableError) else _reason(e)
            if options.strict:
                raise InputError(reason, where=at, remedy="fix the row, or run without --strict") from e
            yield at, Skip(reason)


def _original_id(raw: dict[str, Any], prefix: str) -> str | None:
    """Return the id of a row of another layout, or None if it has none or it could equal a generated id."""
    for name in _ID_COLUMNS:
        value = raw.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
            return str(value)
        if isinstance(value, str) and value.strip() and len(value) <= 512 and not _SURROGATE.search(value):
            return None if value.startswith(f"{prefix}-") and value[len(prefix) + 1 :].isdigit() else value
    return None


def _reason(error: ValidationError) -> str:
    """Return the reason why a converted row is invalid. It does not contain values, so that reasons can be counted."""
    first = error.errors()[0]
    column = str(first["loc"][0]) if first["loc"] else "row"
    if first["type"] == "missing":
        return f"no {column}"
    problem = first["msg"].removeprefix("Value error, ").partition(" at character")[0]
    return f"field {column!r}: {problem[:1].lower()}{problem[1:]}"


def check_row(at: str, value: dict[str, Any], row: type[R], strict: bool = True) -> R:
    """Validate a raw row and return it as ``row``.

    Raises:
        InputError: the row is invalid; the message has its position and the column.
    """
    try:
        return row.model_validate(value, strict=strict)
    except ValidationError as e:
        first = e.errors()[0]
        column = str(first["loc"][0]) if first["loc"] else ""
        problem, remedy = first["msg"].removeprefix("Value error, "), f"a row needs {', '.join(required(row))}"
        if first["type"] == "missing":
            problem = f"missing; the row has {sorted(value)}"
            remedy += "; rename the columns, or choose a layout with --format"
        else:
            problem = f"{problem}; got {str(value.get(column))[:80]!r}"
        raise InputError(problem, where=at, field=column, remedy=remedy) from e


def required(row: type[Row]) -> list[str]:
    """Return the required columns of a row type, except ``id``, which is generated if missing."""
    return [name for name, f in row.model_fields.items() if f.is_required() and name != "id"]


def _key(row: Row) -> tuple[str, ...]:
    return tuple([str(getattr(row, k)) for k in _key_columns(type(row))])


@cache
def _key_columns(row: type[Row]) -> tuple[str, ...]:
    return tuple(k for k in _KEY if k in row.model_fields)
