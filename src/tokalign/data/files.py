"""Files of rows as they lie: what each holds, told by its content; packed or not; alone, in a folder, from a pipe.

Whoever asks gets a list of :class:`File`; :mod:`tokalign.data.readers` reads them.
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

from tokalign.errors import InputError

Kind = Literal["lines", "array", "csv", "text", "parquet", "arrow"]
Packing = Literal["", "gzip", "zstd"]
STDIN = "-"
"""The name of standard input on the command line."""
_SUFFIXES: dict[str, Kind] = {
    ".jsonl": "lines", ".ndjson": "lines", ".json": "array", ".csv": "csv", ".txt": "text", ".parquet": "parquet",
    ".arrow": "arrow",
}  # fmt: skip
"""What a name says; the content has the last word."""
_PACKED = (".gz", ".gzip", ".zst", ".zstd")
_HEAD = 4096
"""Bytes by which a file is told."""
_BOM = b"\xef\xbb\xbf"
_NOT_ROWS = re.compile(r"(state|dataset_info|dataset_dict|dataset_infos|config)\.json|cache-.*|tmp.*")
_OURS = (["data.jsonl"], ["data.json"], ["data.arrow"])
"""What lies in artifacts, and alone says nothing."""
_SHARD = re.compile(r"(.+?)([-_.]?\d+)?(-of-\d+)?(\.[A-Za-z0-9]+)+")
"""The first group: what the shards of one split have in common."""
_SPLIT = re.compile(r"(train|test|valid|validation|val|dev|eval)([._-].*)?")


class File(NamedTuple):
    """A file of rows."""

    path: Path
    name: str
    """What it is called in messages."""
    kind: Kind
    packing: Packing


def known() -> str:
    """The kinds of files that are read, for remedies."""
    return f"{', '.join(_SUFFIXES)} (JSON, CSV and text also as .gz or .zst), a folder of them, or an artifact"


def has_known_name(source: str) -> bool:
    """Whether something is called as files of rows are."""
    return _suffix(Path(source)) in _SUFFIXES


def _suffix(path: Path) -> str:
    """The last suffix that says what a file holds, in lower case."""
    name = path.name.lower()
    packed = next((end for end in _PACKED if name.endswith(end)), "")
    return Path(name.removesuffix(packed)).suffix


def look(path: Path, name: str = "") -> File:
    """Tell what a file holds, by its first bytes, and by its name where those say nothing.

    Raises:
        InputError: nothing is there, or nothing that is read.
    """
    name = name or str(path)
    if "\0" in str(path) or not path.is_file():
        raise InputError("there is no such file or artifact", where=name)
    with path.open("rb") as f:
        head = f.read(_HEAD)
    packing = _packing(head)
    if packing:
        with _unpacking(path, name, packing) as unpacked:
            head = unpacked.read(_HEAD)
    kind = _kind(head, STDIN if name == "stdin" else _suffix(path))
    if kind is None:
        problem = f"holds neither JSON nor a table; it begins {head[:16]!r}"
        raise InputError(problem, where=name, remedy=f"give {known()}")
    if packing and kind in ("parquet", "arrow"):
        remedy = f"unpack it: {'gunzip' if packing == 'gzip' else 'zstd -d'} (Parquet is packed in itself)"
        raise InputError(f"a table packed by {packing}", where=name, remedy=remedy)
    return File(path, name, kind, packing)


def _packing(head: bytes) -> Packing:
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
        return _of_prompts(text, len(head) < _HEAD)
    if text[:1] in (b"{", b"[") and not (named == "csv" and text[:2] not in (b'{"', b"[{")):
        return "lines" if text[:1] == b"{" else "array"
    return named or (None if text else "lines")


def _of_prompts(text: bytes, whole: bool) -> Kind:
    """Text, a prompt a line, unless its first line is an object, or the first of a list of them."""
    line, end, _ = text.partition(b"\n")
    if line.startswith(b"[{") or line.strip() == b"[":
        return "array"
    if not line.startswith(b"{"):
        return "text"
    if not end and not whole:  # too long to be seen to its end
        return "lines" if line.startswith(b'{"') else "text"
    with suppress(ValueError, RecursionError):
        return "lines" if isinstance(json.loads(line), dict) else "text"
    return "text"


@contextmanager
def opened(file: File) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked as they are asked for.

    Raises:
        InputError: they cannot be unpacked.
    """
    if not file.packing:
        with file.path.open("rb") as f:
            yield f
        return
    with _unpacking(file.path, file.name, file.packing) as f:
        yield f


@contextmanager
def _unpacking(path: Path, name: str, packing: Packing) -> Iterator[IO[bytes]]:
    try:
        if packing == "gzip":
            with gzip.open(path) as f:
                yield f  # type: ignore[misc]
            return
        import pyarrow as pa

        if not pa.Codec.is_available("zstd"):
            raise InputError(
                "packed by zstd, which this pyarrow cannot unpack", where=name, remedy="unpack it: zstd -d"
            )
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            yield io.BufferedReader(stream)
    except (EOFError, zlib.error, OSError) as e:
        problem = str(e).splitlines()[0] if str(e) else "its end is missing"
        raise InputError(f"cannot be unpacked: {problem}", where=name, remedy="fetch or make it again") from e


def shards(folder: Path, split: str) -> list[Path]:
    """The files of rows in a folder, in the order of their names; of several splits, those of one.

    Args:
        folder: of files, or one that ``datasets`` saved.
        split: which split to take where there are several.

    Raises:
        InputError: the split is not among them, or there are files of several kinds.
    """
    if (folder / "dataset_dict.json").is_file():
        there = sorted(p.name for p in folder.iterdir() if (p / "state.json").is_file())
        if split not in there:
            raise InputError(f"no split {split!r}", where=str(folder), remedy=f"--split {' or '.join(there)}")
        return shards(folder / split, split)
    saved = _saved(folder)
    if not saved and not holds_rows(folder):
        return []
    found = saved or sorted(p for p in folder.iterdir() if _may_be_rows(p))
    kinds = sorted({_suffix(p) for p in found})
    if len(kinds) > 1:
        problem = f"files of several kinds: {', '.join(kinds)}"
        raise InputError(problem, where=str(folder), remedy="name the file, or keep files of one kind in a folder")
    return found if saved else _of_split(folder, found, split)


def holds_rows(folder: Path) -> bool:
    """Whether a folder is one of files of rows, and not a model or anything else."""
    if (folder / "dataset_dict.json").is_file():
        return True
    found = [p for p in folder.iterdir() if _may_be_rows(p)]
    return bool(found) and not (folder / "config.json").exists() and [p.name for p in found] not in _OURS


def _may_be_rows(path: Path) -> bool:
    hidden = path.name.startswith(".") or _NOT_ROWS.fullmatch(path.name)
    return not hidden and _suffix(path) in _SUFFIXES and _suffix(path) != ".txt" and path.is_file()


def _saved(folder: Path) -> list[Path]:
    """The files that ``datasets`` says it saved, in its order."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        names = [entry["filename"] for entry in json.loads((folder / "state.json").read_bytes())["_data_files"]]
        if all(isinstance(n, str) and Path(n).name == n and (folder / n).is_file() for n in names):
            return [folder / n for n in names]
    return []


def _of_split(folder: Path, found: list[Path], split: str) -> list[Path]:
    names = {p: m[1] if (m := _SHARD.fullmatch(p.name)) else p.name for p in found}
    there = sorted(set(names.values()))
    if len(there) < 2 or not any(_SPLIT.fullmatch(name) for name in there):
        return found
    if split not in there:
        remedy = f"--split {' or '.join(there[:9])}"
        raise InputError(f"several splits, none of them {split!r}", where=str(folder), remedy=remedy)
    return [p for p in found if names[p] == split]


@cache
def spooled(stream: IO[bytes]) -> Path:
    """A file of what a stream gives: rows are read more than once. It is there as long as this process is."""
    with tempfile.NamedTemporaryFile(prefix="tokalign-stdin-", delete=False) as f:
        atexit.register(Path(f.name).unlink, missing_ok=True)
        shutil.copyfileobj(stream, f)
    return Path(f.name)
