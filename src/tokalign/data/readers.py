"""Read raw rows from files and Hugging Face datasets, each with its position. Rows are not interpreted here."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tokalign.data import files
from tokalign.data.files import File
from tokalign.data.spreadsheet import unquoted
from tokalign.errors import InputError, first_line
from tokalign.runtime import probe, sandbox
from tokalign.runtime.disk import LONGEST, check_nesting

Placed = tuple[str, dict[str, Any]]
"""The position of a row (``file:line`` in text, ``file: row N`` from 0 elsewhere) and the raw row."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ARRAY = 256 * 1024 * 1024
"""Maximum size in bytes of a compressed JSON array after decompression; arrays are read whole."""


def is_hub_id(source: str) -> bool:
    """Whether a source is the id of a dataset on the hub: ``owner/name``, and not an existing local path."""
    here = Path(source).exists() or files.has_known_name(source)
    return not here and _HUB_ID.fullmatch(source) is not None


def read_file(path: Path) -> Iterator[Placed]:
    """Yield the rows of a file of any supported format.

    Raises:
        InputError: the file does not exist or is not valid; the message has the position.
    """
    return read(files.look(path))


def read(file: File) -> Iterator[Placed]:
    """Yield the rows of a file whose format is known. JSON arrays are read whole; other formats are streamed.

    Raises:
        InputError: the file is not valid; the message has the position.
    """
    return _READERS[file.kind](file)


def _lines(file: File) -> Iterator[tuple[str, str]]:
    """Yield (position, line) for every line that is not blank."""
    with files.opened(file) as f:
        start, number = 0, 0
        while raw := f.readline(LONGEST + 1):
            number += 1
            at = f"{file.name}:{number}"
            if len(raw) > LONGEST:
                raise InputError(
                    f"the line is longer than {LONGEST >> 20} MB; it starts with {raw[:40]!r}",
                    where=at,
                    remedy="write one row per line, or a JSON array (.json)",
                )
            line = _decode(raw, at, start)
            start += len(raw)
            line = line.removeprefix("\ufeff") if number == 1 else line
            if line.strip():
                yield at, line


def _json_lines(file: File) -> Iterator[Placed]:
    for at, line in _lines(file):
        yield at, _object(_parse(line, at, "the line"), at)


def _text(file: File) -> Iterator[Placed]:
    """Yield one prompt per line."""
    for at, line in _lines(file):
        yield at, {"prompt": line.rstrip("\r\n")}


def _json_array(file: File) -> Iterator[Placed]:
    with files.opened(file) as f:
        raw = f.read(_ARRAY + 1) if file.compression else f.read()
    if file.compression and len(raw) > _ARRAY:
        remedy = "decompress it, or write one row per line"
        raise InputError(f"a compressed array of more than {_ARRAY >> 20} MB", where=file.name, remedy=remedy)
    rows = _parse(_decode(raw, file.name, 0).removeprefix("\ufeff"), file.name, "the file")
    if not isinstance(rows, list):
        raise InputError(f"expected an array of rows, got {type(rows).__name__}", where=file.name)
    for number, row in enumerate(rows):
        at = f"{file.name}: row {number}"
        yield at, _object(row, at)


class _InvalidValueError(ValueError):
    """An object has a duplicate key, or a number is NaN or infinite."""


def _parse(text: str, at: str, what: str) -> Any:
    try:
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("a byte order mark (BOM) in the middle", text, 0)
        return _JSON.decode(text)
    except _InvalidValueError as e:
        raise InputError(str(e), where=at, remedy="fix the row") from e
    except json.JSONDecodeError as e:
        place = at if what == "the line" else f"{at}:{e.lineno}"
        raise InputError(f"not valid JSON: {e}", where=place, remedy=f"{what} may be truncated") from e
    except RecursionError as e:
        raise InputError("not valid JSON: nested too deeply", where=at, remedy=f"fix {what}") from e
    except ValueError as e:  # more digits than Python converts
        raise InputError(f"not valid JSON: {e}", where=at, remedy=f"fix {what}") from e


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        duplicate = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise _InvalidValueError(f"duplicate key {duplicate!r} in one object")
    return row


def _refuse_constant(name: str) -> Any:
    raise _InvalidValueError(f"{name} is not valid JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_refuse_duplicate_keys, parse_constant=_refuse_constant)


def _object(row: Any, at: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"expected an object, got {type(row).__name__}", where=at)
    try:
        check_nesting(row)
    except ValueError as e:
        raise InputError(f"not a valid row: {e}", where=at, remedy="fix the row") from e
    return row


def _decode(raw: bytes, where: str, start: int) -> str:
    """Decode UTF-8. ``start``: offset of ``raw`` in the file in bytes, for the message."""
    try:
        return raw.decode()
    except UnicodeDecodeError as e:
        byte = f"not UTF-8: byte {raw[e.start]:#04x} at offset {start + e.start}"
        raise InputError(byte, where=where, remedy="convert it: iconv -t UTF-8") from e


def _csv(file: File) -> Iterator[Placed]:
    """Yield rows of text cells. Cells with JSON are parsed later, when the layout is known."""
    limit = csv.field_size_limit(LONGEST)
    try:
        with files.opened(file) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as f:
            reader = csv.reader(_lines_within_limit(f, file.name), strict=True)
            columns = next(reader, [])
            if len(set(columns)) < len(columns):
                raise InputError(f"duplicate column names: {columns}", where=f"{file.name}:1")
            line = reader.line_num + 1
            for cells in reader:
                at, line = f"{file.name}:{line}", reader.line_num + 1
                if len(cells) != len(columns) and cells:
                    raise InputError(
                        f"{len(cells)} cells, but {len(columns)} columns",
                        where=at,
                        remedy="quote cells that hold commas",
                    )
                if cells:
                    yield at, {k: unquoted(v) for k, v in zip(columns, cells, strict=True)}
    except UnicodeDecodeError as e:
        raise InputError(f"not UTF-8: {e}", where=file.name, remedy="convert it: iconv -t UTF-8") from e
    except csv.Error as e:
        raise InputError(f"not valid CSV: {e}", where=f"{file.name}:{reader.line_num}", remedy="see RFC 4180") from e
    finally:
        csv.field_size_limit(limit)


def _lines_within_limit(f: IO[str], name: str) -> Iterator[str]:
    while line := f.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise InputError(f"a line is longer than {LONGEST >> 20} MB", where=name, remedy="is it CSV?")
        yield line


def _table(file: File) -> Iterator[Placed]:
    """Yield the rows of a table, after a check in a separate process (:mod:`tokalign.runtime.sandbox`)."""
    import pyarrow as pa

    kind: sandbox.Kind = "parquet" if file.kind == "parquet" else "arrow"
    _check_table_once(file.path, kind)
    number = 0
    try:
        for batch in probe.batches(file.path, kind):
            for row in batch.to_pylist():
                yield f"{file.name}: row {number}", _object(row, f"{file.name}: row {number}")
                number += 1
    except (probe.BadTableError, pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise InputError(f"cannot be read: {e}", where=file.name, remedy="download or create it again") from e


def _check_table_once(path: Path, kind: sandbox.Kind) -> None:
    """Check a table, unless it has been checked since its last modification."""
    found = path.stat()
    key = (str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns)
    if key not in _CHECKED:
        sandbox.check_table(path, kind)
        _CHECKED.add(key)


_CHECKED: set[tuple[str, int, int, int]] = set()


_READERS: dict[files.Kind, Callable[[File], Iterator[Placed]]] = {
    "lines": _json_lines,
    "array": _json_array,
    "csv": _csv,
    "text": _text,
    "parquet": _table,
    "arrow": _table,
}


def hub_commit(name: str, revision: str | None) -> str:
    """Return the commit of a revision of a dataset on the hub.

    Raises:
        InputError: the dataset does not exist, is gated, or cannot be reached.
    """
    from huggingface_hub import HfApi

    with _HubErrors(name):
        commit = HfApi().dataset_info(name, revision=revision).sha
        assert commit is not None
        return commit


def read_hub(name: str, commit: str, subset: str | None, split: str) -> Iterator[Placed]:
    """Stream the rows of a dataset on the hub.

    Raises:
        InputError: see :func:`hub_commit`; also if there is no such split.
    """
    import datasets

    with _HubErrors(name):
        try:
            rows = iter(datasets.load_dataset(name, subset, split=split, revision=commit, streaming=True))
            yield from ((f"{name}: row {number}", dict(row)) for number, row in enumerate(rows))
        except ValueError as e:
            remedy = "check --split and --subset, or download the file and give its path"
            raise InputError(first_line(e), where=name, remedy=remedy) from e


class _HubErrors:
    """Context manager that converts errors of the hub to InputError with a remedy."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, InputError):
            return
        from huggingface_hub import errors

        local = f"or give a file: there is no local {self.name!r}"
        if isinstance(error, errors.GatedRepoError):
            remedy = f"request access at https://huggingface.co/datasets/{self.name}, then: hf auth login"
            raise InputError(
                "the dataset is gated: its owner must grant you access", where=self.name, remedy=remedy
            ) from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise InputError("the dataset has no such revision", where=self.name, remedy="check --revision") from error
        if isinstance(error, errors.RepositoryNotFoundError):
            remedy = f"check the name; for a private dataset run: hf auth login; {local}"
            raise InputError("no such file, artifact or dataset", where=self.name, remedy=remedy) from error
        if isinstance(error, errors.OfflineModeIsEnabled | OSError | errors.HfHubHTTPError) or _is_network(error):
            offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
            text = first_line(error)
            raise InputError(
                f"the hub cannot be reached{offline}: {text}", where=self.name, remedy=f"check the connection, {local}"
            ) from error


def _is_network(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "aiohttp"}
