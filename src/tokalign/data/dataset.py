"""Read the inputs of commands: artifacts, files of rows in tokalign's or another layout, and datasets on the hub.

All rows are validated before the first one is used. An error in a file, or in a row in tokalign's layout, raises
:class:`InputError` with ``file:line`` and field. An unusable row in another layout is skipped, and its reason counted.
Rows are then read again as they are used, so memory does not grow with the input. All rows of an input have the same
layout, which is detected from the first rows.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tokalign.artifacts import manifest
from tokalign.artifacts.manifest import Artifact
from tokalign.artifacts.migrations import migrate
from tokalign.artifacts.model_files import adapter_base, check_model
from tokalign.artifacts.schemas import KINDS, Edit, PromptRow, Row
from tokalign.config.options import ReadOptions
from tokalign.data import files, layouts, readers
from tokalign.data.columns import Shape
from tokalign.data.files import File
from tokalign.data.layouts import LAYOUTS, Skip
from tokalign.data.readers import Placed
from tokalign.data.rows import Item, Rows, check_row, foreign, ours, required
from tokalign.errors import InputError, KindError, UsageError
from tokalign.runtime import endpoint
from tokalign.runtime.disk import hash_json, sha256

__all__ = [
    "Rows",
    "check_row",
    "file_lineage",
    "holds_edits",
    "is_rows",
    "model_lineage",
    "read_edits",
    "read_prompts",
    "read_rows",
]
R = TypeVar("R", bound=Row)
SAMPLE = 50
"""Number of rows from which the layout is detected."""


def read_rows(
    path: str | Path,
    row: type[R],
    *kinds: str,
    options: ReadOptions | None = None,
    limit: int | None = None,
    keep: Callable[[R], str] = lambda _: "",
) -> Rows[R]:
    """Read and validate the rows of an artifact, a file, a folder of files or a dataset on the hub.

    Rows of files without an id get the ids ``row-0, row-1, …``. Rows in other layouts keep their id if it is unique;
    otherwise they are numbered by layout (``hh-0, hh-1, …``).

    Args:
        path: path, hub id or ``-`` for standard input.
        row: type of the returned rows.
        *kinds: accepted kinds of artifact.
        options: how to read the input.
        limit: maximum number of rows to read.
        keep: returns why a valid row is skipped, or "" to keep it.

    Raises:
        InputError: the input does not exist, or a row is invalid.
        KindError: the artifact is of another kind.
    """
    options = options or ReadOptions()
    return _rows(_open(str(path), kinds, options), row, options, limit, keep)


def read_prompts(
    path: str | None, given: Sequence[str], options: ReadOptions, limit: int | None = None
) -> Rows[PromptRow]:
    """Read prompts from an input, or take those in ``given`` (from ``--prompt``).

    Raises:
        UsageError: both or neither of ``path`` and ``given`` are set, or a prompt is empty.
        InputError: see :func:`read_rows`.
    """
    if bool(given) == (path is not None):
        remedy = "give one of: a file or an artifact of prompts, - for standard input, --prompt TEXT"
        raise UsageError("both an input and --prompt are given" if given else "no prompts", remedy=remedy)
    if path is not None:
        return read_rows(path, PromptRow, "prompts", options=options, limit=limit)
    if not all(text.strip() for text in given):
        raise UsageError("--prompt is empty", remedy="give a text")
    lineage = {"kind": "prompts", "version": None, "sha256": f"text:{hash_json(list(given))}", "path": "--prompt"}
    source = Source(lambda: ((f"--prompt {n}", {"prompt": text}) for n, text in enumerate(given, 1)), lineage)
    return _rows(source, PromptRow, ReadOptions(format="tokalign"), limit)


def _rows(
    source: "Source", row: type[R], options: ReadOptions, limit: int | None, keep: Callable[[R], str] = lambda _: ""
) -> Rows[R]:
    placed, lineage, text = source
    plain = lineage["version"] is None
    name: str = options.format if plain else "tokalign"
    shape = _shape(placed, limit, text) if plain else Shape(())
    if name == "auto":
        name = _layout(shape, row)
    shared: set[int] = set()

    def items() -> Iterator[Item[R]]:
        raw_rows = islice(placed(), limit)
        found = (
            ours(raw_rows, row, text, plain)
            if name == "tokalign"
            else foreign(raw_rows, row, name, options, spelt, shared)
        )
        for at, item in found:
            reason = "" if isinstance(item, Skip) else keep(item)
            yield at, Skip(reason) if reason else item

    if name == "tokalign":
        return Rows(items, lineage)
    spelt = layouts.spelt_out(shape) if text else frozenset[str]()
    remedy = f"layout {name}: a row needs {LAYOUTS[name].columns}; the columns are {', '.join(shape.kinds)[:300]}"
    return Rows(items, {**lineage, "kind": name}, shared, f"{remedy}; see --format")


def read_edits(path: str | Path, options: ReadOptions | None = None, limit: int | None = None) -> Rows[Edit]:
    """Read the edits that can be used; the others are skipped and counted by status.

    Raises:
        InputError: see :func:`read_rows`; also if no edit can be used.
    """
    return read_rows(
        path, Edit, "edits", options=options, limit=limit, keep=lambda e: "" if e.stands else f"status {e.status}"
    )


def holds_edits(path: str | Path, options: ReadOptions) -> bool:
    """Whether an input holds edits, for commands that accept edits and other rows.

    Raises:
        InputError: the input does not exist.
    """
    if Path(path).is_dir() and manifest.is_artifact(Path(path)):
        return manifest.kind_of(Path(path)) == "edits"
    if options.format not in ("auto", "tokalign"):
        return options.format == "qa-feedback"
    shape = _shape(_open(str(path), ("edits",), options).rows, None, False)
    ours = shape.has(*required(Edit)) and not shape.has("response")
    return ours or (options.format == "auto" and layouts.detect(shape) == "qa-feedback")


def is_rows(path: str) -> bool:
    """Whether a path is a file (or has the name of one) or a folder of files, and not an artifact."""
    here = Path(path)
    if not here.is_dir():
        return here.is_file() or files.has_known_name(path)
    return not manifest.is_artifact(here) and files.holds_rows(here)


def model_lineage(path: str, *kinds: str) -> dict[str, Any]:
    """Return the lineage of a model: an artifact, a folder, a GGUF file, a hub id, or the address of a server.

    A hub id is identified by its name only, a server by the folder of its model.

    Raises:
        InputError: the model is damaged or of another kind, or loading it exceeds the limits.
    """
    if endpoint.is_url(path):
        served = model_lineage(endpoint.served(path).folder, *kinds)
        return {**served, "sha256": f"served:{served['sha256']}", "path": path}
    folder = Path(path)
    if manifest.is_artifact(folder):
        lineage = manifest.open_artifact(folder, *kinds).manifest.lineage()
        check_model(folder)
        return {**lineage, "path": path}
    if folder.is_dir():
        if (folder / manifest.PLAN).is_file():
            raise InputError("an unfinished run", where=path, remedy="run its command again to finish it")
        check_model(folder)
        hashes = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}
        if (base := adapter_base(folder)) is not None:
            hashes["/base"] = model_lineage(base)["sha256"]
        return {"kind": "model", "version": None, "sha256": hash_json(hashes), "path": path}
    if folder.is_file():  # GGUF; loading it checks it
        return {"kind": "model", "version": None, "sha256": sha256(folder), "path": path}
    return {"kind": "model", "version": None, "sha256": f"name:{path}", "path": path}


def file_lineage(file: Path) -> dict[str, Any]:
    """Return the lineage of a file.

    Raises:
        InputError: the file does not exist.
    """
    if not file.is_file():
        raise InputError("no such file", where=str(file))
    return {"kind": "file", "version": None, "sha256": sha256(file), "path": str(file)}


class Source(NamedTuple):
    """An input: ``rows`` starts a new iteration over its raw rows; ``lineage`` describes it."""

    rows: Callable[[], Iterator[Placed]]
    lineage: dict[str, Any]
    """``version`` is None unless the input is an artifact."""
    cells: bool = False
    """Whether all values are text, as in CSV."""


def _open(path: str, kinds: tuple[str, ...], options: ReadOptions) -> Source:
    source = Path(path)
    lineage: dict[str, Any] = {"kind": kinds[0], "version": None, "path": path}
    if path == files.STDIN:
        spooled = files.spooled(sys.stdin.buffer)
        return _files([files.look(spooled, "stdin")], {**lineage, "sha256": f"stdin:{sha256(spooled)}"})
    if source.is_dir():
        others = not manifest.is_artifact(source) and not (source / manifest.PLAN).is_file()
        if others and (shards := files.shards(source, options.split)):
            hashes = {p.name: sha256(p) for p in shards}
            return _files([files.look(p) for p in shards], {**lineage, "sha256": hash_json(hashes)})
        return _artifact_source(source, kinds)
    if readers.is_hub_id(path):
        commit = readers.hub_commit(path, options.revision)
        lineage["sha256"] = f"hub:{commit}:{options.subset or ''}:{options.split}"
        return Source(lambda: readers.read_hub(path, commit, options.subset, options.split), lineage)
    file = files.look(source)
    return _files([file], {**lineage, "sha256": sha256(source)})


def _files(found: Sequence[File], lineage: dict[str, Any]) -> Source:
    return Source(lambda: chain.from_iterable(readers.read(f) for f in found), lineage, found[0].kind == "csv")


def _artifact_source(folder: Path, kinds: tuple[str, ...]) -> Source:
    artifact = _artifact(folder, *kinds)
    kind, version, data = artifact.manifest.kind, artifact.manifest.version, artifact.file("data.jsonl")

    def migrated() -> Iterator[Placed]:
        for at, raw in readers.read_file(data):
            yield at, migrate(kind, version, KINDS[kind].version, raw)

    return Source(migrated, {**artifact.manifest.lineage(), "path": str(folder)})


def _artifact(folder: Path, *kinds: str) -> Artifact:
    if manifest.is_artifact(folder):
        return manifest.open_artifact(folder, *kinds)
    made_by = KINDS[kinds[0]].made_by
    if (folder / manifest.PLAN).is_file():
        raise InputError("an unfinished run", where=str(folder), remedy=f"finish it first: {made_by}")
    remedy = f"make one with: {made_by}; or give the path of a file in the folder"
    raise KindError(f"not an artifact (no {manifest.MANIFEST})", where=str(folder), remedy=remedy)


def _shape(placed: Callable[[], Iterator[Placed]], limit: int | None, text: bool) -> Shape:
    """Content types of the columns in the first rows. Errors are ignored here; reading the rows raises them."""
    rows: list[dict[str, Any]] = []
    with suppress(InputError):
        rows.extend(raw for _, raw in islice(placed(), SAMPLE if limit is None else min(limit, SAMPLE)))
    return Shape(rows, text)


def _layout(shape: Shape, row: type[Row]) -> str:
    """Return the layout of a file: ``tokalign`` if it has those columns, else the first layout that matches."""
    if "prompt" not in row.model_fields:
        return "tokalign"
    ours = shape.has(*required(row)) and shape.kinds.get("chosen") not in ("turns", "object", "list")
    found = layouts.detect(shape)
    marked = row is PromptRow and found in ("nectar", "helpsteer")  # a conversation in the text of the prompt
    return found if found and (marked or not ours) else "tokalign"
