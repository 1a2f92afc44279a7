"""Find files of rows: single files, folders and standard input. Detect their format and compression.

:mod:`tokalign.data.readers` reads the rows of a :class:`File`.
"""

import atexit
import gzip
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Literal, NamedTuple

from tokalign.artifacts.model_files import ADAPTER_CONFIG
from tokalign.errors import InputError

Kind = Literal["lines", "array", "csv", "text", "parquet", "arrow"]
Compression = Literal["", "gzip", "zstd"]
STDIN = "-"
"""The name of standard input on the command line."""
_SUFFIXES: dict[str, Kind] = {
    ".jsonl": "lines", ".ndjson": "lines", ".json": "array", ".csv": "csv", ".txt": "text", ".parquet": "parquet",
    ".arrow": "arrow",
}  # fmt: skip
"""Suffix → format. The content of a file takes precedence over its name."""
_COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")
_HEAD = 4096
"""Number of leading bytes from which the format is detected."""
_BOM = b"\xef\xbb\xbf"
_NOT_ROWS = re.compile(r"(state|dataset_info|dataset_dict|dataset_infos|config)\.json|cache-.*|tmp.*")
_OURS = (["data.jsonl"], ["data.json"], ["data.arrow"])
"""Data files of artifacts. A folder that holds only these is not a folder of row files."""
_SHARD = re.compile(r"(.+?)([-_.]?\d+)?(-of-\d+)?(\.[A-Za-z0-9]+)+")
"""The first group is the common part of the names of the shards of one split."""
_SPLIT = re.compile(r"(train|test|valid|validation|val|dev|eval)([._-].*)?")


class File(NamedTuple):
    """A file of rows."""

    path: Path
    name: str
    """Name of the file in messages."""
    kind: Kind
    compression: Compression


def known() -> str:
    """Describe the supported files, for remedies."""
    return f"{', '.join(_SUFFIXES)} (JSON, CSV and text also as .gz or .zst), a folder of them, or an artifact"


def has_known_name(source: str) -> bool:
    """Whether a path has the suffix of a supported file."""
    return _suffix(Path(source)) in _SUFFIXES


def _suffix(path: Path) -> str:
    """The last suffix of a path in lower case, without that of a compression."""
    name = path.name.lower()
    ending = next((end for end in _COMPRESSED if name.endswith(end)), "")
    return Path(name.removesuffix(ending)).suffix


def look(path: Path, name: str = "") -> File:
    """Detect the format of a file from its first bytes or, if they are ambiguous, from its name.

    Args:
        path: path of the file.
        name: name of the file in messages; by default its path.

    Raises:
        InputError: the file does not exist, or its format is not supported.
    """
    name = name or str(path)
    if "\0" in str(path) or not path.is_file():
        raise InputError("no such file or artifact", where=name)
    with path.open("rb") as f:
        head = f.read(_HEAD)
    compression = _compression(head)
    if compression:
        with _decompressing(path, name, compression) as decompressed:
            head = decompressed.read(_HEAD)
    kind = _kind(head, STDIN if name == "stdin" else _suffix(path))
    if kind is None:
        problem = f"neither JSON nor a table; the file starts with {head[:16]!r}"
        raise InputError(problem, where=name, remedy=f"give {known()}")
    if compression and kind in ("parquet", "arrow"):
        remedy = f"decompress it: {'gunzip' if compression == 'gzip' else 'zstd -d'} (Parquet has its own compression)"
        raise InputError(f"a table compressed with {compression}", where=name, remedy=remedy)
    return File(path, name, kind, compression)


def _compression(head: bytes) -> Compression:
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zstd" if head.startswith(b"\x28\xb5\x2f\xfd") else ""


def _kind(head: bytes, suffix: str) -> Kind | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    named = _SUFFIXES.get(suffix)
    text = head.removeprefix(_BOM).lstrip()
    if named == "text" or suffix == STDIN:
        return _text_kind(text, len(head) < _HEAD)
    if text[:1] in (b"{", b"[") and not (named == "csv" and text[:2] not in (b'{"', b"[{")):
        return "lines" if text[:1] == b"{" else "array"
    return named or (None if text else "lines")


def _text_kind(text: bytes, complete: bool) -> Kind:
    """The format of a text file: one prompt per line, unless it starts with a JSON object or a list of objects."""
    line, end, _ = text.partition(b"\n")
    if line.startswith(b"[{") or line.strip() == b"[":
        return "array"
    if not line.startswith(b"{"):
        return "text"
    if not end and not complete:  # the line is longer than the head
        return "lines" if line.startswith(b'{"') else "text"
    with suppress(ValueError, RecursionError):
        return "lines" if isinstance(json.loads(line), dict) else "text"
    return "text"


@contextmanager
def opened(file: File) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes; compressed files are decompressed while reading.

    Raises:
        InputError: the file cannot be decompressed.
    """
    if not file.compression:
        with file.path.open("rb") as f:
            yield f
        return
    with _decompressing(file.path, file.name, file.compression) as f:
        yield f


@contextmanager
def _decompressing(path: Path, name: str, compression: Compression) -> Iterator[IO[bytes]]:
    try:
        if compression == "gzip":
            with gzip.open(path) as f:
                yield f  # type: ignore[misc]
            return
        import pyarrow as pa

        if not pa.Codec.is_available("zstd"):
            raise InputError(
                "compressed with zstd, which this pyarrow does not support", where=name, remedy="decompress it: zstd -d"
            )
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            yield io.BufferedReader(stream)
    except (EOFError, zlib.error, OSError) as e:
        problem = str(e).splitlines()[0] if str(e) else "the end is missing"
        raise InputError(f"cannot be decompressed: {problem}", where=name, remedy="download or create it again") from e


def shards(folder: Path, split: str) -> list[Path]:
    """Return the files of rows in a folder, sorted by name. If there are several splits, return those of one.

    Args:
        folder: folder of files, or one written by ``save_to_disk`` of ``datasets``.
        split: the split to return if there are several.

    Raises:
        InputError: there is no such split, or the files have different formats.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in folder.iterdir() if (p / "state.json").is_file())
        if split not in splits:
            raise InputError(f"no split {split!r}", where=str(folder), remedy=f"--split {' or '.join(splits)}")
        return shards(folder / split, split)
    saved = _saved(folder)
    if not saved and not holds_rows(folder):
        return []
    found = saved or sorted(p for p in folder.iterdir() if _may_be_rows(p))
    kinds = sorted({_suffix(p) for p in found})
    if len(kinds) > 1:
        problem = f"files of several formats: {', '.join(kinds)}"
        raise InputError(
            problem, where=str(folder), remedy="give the path of a file, or keep files of one format in a folder"
        )
    return found if saved else _of_split(folder, found, split)


def holds_rows(folder: Path) -> bool:
    """Whether a folder contains files of rows and is not a model or the data of an artifact."""
    if (folder / "dataset_dict.json").is_file():
        return True
    found = [p for p in folder.iterdir() if _may_be_rows(p)]
    is_model = any((folder / name).exists() for name in ("config.json", ADAPTER_CONFIG))
    return bool(found) and not is_model and [p.name for p in found] not in _OURS


def _may_be_rows(path: Path) -> bool:
    hidden = path.name.startswith(".") or _NOT_ROWS.fullmatch(path.name)
    return not hidden and _suffix(path) in _SUFFIXES and _suffix(path) != ".txt" and path.is_file()


def _saved(folder: Path) -> list[Path]:
    """The files that the ``state.json`` of ``datasets`` lists, in its order."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        names = [entry["filename"] for entry in json.loads((folder / "state.json").read_bytes())["_data_files"]]
        if all(isinstance(n, str) and Path(n).name == n and (folder / n).is_file() for n in names):
            return [folder / n for n in names]
    return []


def _of_split(folder: Path, found: list[Path], split: str) -> list[Path]:
    names = {p: m[1] if (m := _SHARD.fullmatch(p.name)) else p.name for p in found}
    splits = sorted(set(names.values()))
    if len(splits) < 2 or not any(_SPLIT.fullmatch(name) for name in splits):
        return found
    if split not in splits:
        remedy = f"--split {' or '.join(splits[:9])}"
        raise InputError(f"several splits, none of them {split!r}", where=str(folder), remedy=remedy)
    return [p for p in found if names[p] == split]


@cache
def spooled(stream: IO[bytes]) -> Path:
    """Copy a stream to a temporary file, because rows are read more than once. It is deleted when the process exits."""
    with tempfile.NamedTemporaryFile(prefix="tokalign-stdin-", delete=False) as f:
        atexit.register(Path(f.name).unlink, missing_ok=True)
        shutil.copyfileobj(stream, f)
    return Path(f.name)
