"""Valid rows: what came from a file or a dataset, checked, brought to our columns, named and counted."""

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
from tokalign.data import layouts
from tokalign.data.conversation import UnusableError, is_turns, parsed, with_system, without_nulls
from tokalign.data.layouts import LAYOUTS, Skip
from tokalign.data.readers import Placed
from tokalign.errors import InputError

R = TypeVar("R", bound=Row)
Item = tuple[str, R | Skip]
"""A place, and the valid row there or why it is left out."""

_KEY = ("id", "sample", "candidate", "judge", "order")
_OWN_IDS = ("id", "prompt_id", "uid", "uuid")
"""Columns of foreign layouts that may name a row."""
_SHARED = 100_000
"""Ids that stand several times, above which no row keeps its own: memory does not grow with the rows."""
_ALL = -1
"""Among hashes of keys, which are never that: every row is to have another name."""
_REASONS = 50
"""Different reasons that are counted apart."""
OTHER = "other reasons"
_SURROGATE = re.compile("[\ud800-\udfff]")


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
        self._shared, self._remedy = shared, remedy
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

    def where(self, why_not: Callable[[R], str], strict: bool = False) -> "Rows[R]":
        """The rows for which ``why_not`` says nothing; the others are skipped, each reason with its first place.

        Raises:
            InputError: no row is left; with ``strict``, a row is not.
        """
        first: dict[str, str] = {}
        asked: list[Skip | None] = []

        def ask(at: str, item: R) -> Skip | None:
            if not (reason := why_not(item)):
                return None
            if strict:
                remedy = "mend the row, or run without --strict"
                raise InputError(reason, where=at, field=f"id {item.id!r}", remedy=remedy)
            if reason not in first and len(first) >= _REASONS:
                return Skip(OTHER)
            return Skip(f"{reason}; the first is {first.setdefault(reason, f'{at}, id {item.id!r}')}")

        def items() -> Iterator[Item[R]]:
            for n, (at, item) in enumerate(self._items()):
                if n == len(asked):  # asked once, however often the rows are read
                    asked.append(None if isinstance(item, Skip) else ask(at, item))
                yield at, asked[n] or item

        return Rows(items, self.lineage, self._shared, self._remedy)

    def account(self, skipped: Iterable[tuple[str, int]] = (), **more: Any) -> dict[str, Any]:
        """The manifest's ``rows``: in = out + skipped."""
        reasons = self.reasons + Counter(dict(skipped))
        n = sum(reasons.values())
        return {"in": self.total, "out": self.total - n, "skipped": n, "reasons": dict(reasons), **more}

    def _tell_apart(self, hashes: "array[int]", shared: set[int] | None) -> None:
        """Keys are compared by hash, eight bytes a row; where two are equal, the rows are read again."""
        ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if shared is not None:
            shared |= {_ALL} if len(twice) > _SHARED else set(twice.tolist())
            return
        suspects = set(twice.tolist())
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


def ours(placed: Iterable[Placed], row: type[Row], text: bool, plain: bool) -> Iterator[Item[Any]]:
    """Rows with our columns.

    Args:
        placed: the rows as they came.
        row: their type.
        text: cells are text, and an empty one stands for nothing; lists are spelt out as JSON.
        plain: they are of no artifact: what tables add is taken out, and a system message may stand in its own column.
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


def foreign(
    placed: Iterable[Placed], row: type[Row], name: str, options: ReadOptions, spelt: frozenset[str], shared: set[int]
) -> Iterator[Item[Any]]:
    """Rows of a foreign layout; those that cannot be used are skipped, or refused if that is wanted.

    Args:
        placed: the rows as they came.
        row: the type they are to have.
        name: of the layout.
        options: to read them.
        spelt: columns whose cells are text that spells out JSON.
        shared: hashes of the keys that stand several times, and so name no row.
    """
    layout, prompts_alone = LAYOUTS[name], required(row) == ["prompt"]
    for number, (at, raw) in enumerate(placed):
        if spelt:
            raw = {k: parsed(v) if k in spelt else v for k, v in raw.items()}  # noqa: PLW2901
        made_up = f"{layout.prefix}-{number}"
        try:
            made = layouts.adapt(name, raw)
            if "unusable" in made and not prompts_alone:
                raise UnusableError(made["unusable"])
            if name == "qa-feedback" and not options.passages:
                made["prompt"] = made["question"]
            item = row.model_validate({"source": name, **made, "id": _own_id(raw, layout.prefix) or made_up})
            renamed = shared and (_ALL in shared or hash(_key(item)) in shared)
            yield at, item.model_copy(update={"id": made_up}) if renamed else item
        except (UnusableError, ValidationError) as e:
            reason = str(e) if isinstance(e, UnusableError) else _why_not(e)
            if options.strict:
                raise InputError(reason, where=at, remedy="mend the row, or run without --strict") from e
            yield at, Skip(reason)


def _own_id(raw: dict[str, Any], prefix: str) -> str | None:
    """What a foreign row is called where it came from, if that cannot be the name that another is given here."""
    for name in _OWN_IDS:
        value = raw.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
            return str(value)
        if isinstance(value, str) and value.strip() and len(value) <= 512 and not _SURROGATE.search(value):
            return None if value.startswith(f"{prefix}-") and value[len(prefix) + 1 :].isdigit() else value
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
        problem, remedy = first["msg"].removeprefix("Value error, "), f"a row needs {', '.join(required(row))}"
        if first["type"] == "missing":
            problem = f"missing; the row has {sorted(value)}"
            remedy += "; rename the columns, or name a layout with --format"
        else:
            problem = f"{problem}; got {str(value.get(column))[:80]!r}"
        raise InputError(problem, where=at, field=column, remedy=remedy) from e


def required(row: type[Row]) -> list[str]:
    """The columns without which there is no such row; an id is made up."""
    return [name for name, f in row.model_fields.items() if f.is_required() and name != "id"]


def _key(row: Row) -> tuple[str, ...]:
    return tuple([str(getattr(row, k)) for k in _key_columns(type(row))])


@cache
def _key_columns(row: type[Row]) -> tuple[str, ...]:
    return tuple(k for k in _KEY if k in row.model_fields)
