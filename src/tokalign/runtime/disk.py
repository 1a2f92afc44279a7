"""Safe file access: read regular files and JSON within limits, and write atomically.

A sealed JSON text ends with a hash of its own bytes, which detects modifications; see :func:`sealed`.
"""

import hashlib
import json
import math
import os
import stat
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

NESTING = 64
"""Maximum nesting of lists and objects in JSON input."""
LONGEST = 64 * 1024 * 1024
"""Maximum size in bytes of a line of rows, and of a JSON file that tokalign wrote. Limits memory for broken files."""


def read_regular(path: Path, limit: int = LONGEST) -> bytes:
    """Read a regular file. Symbolic links are not followed, and pipes and devices do not block.

    Args:
        path: path of the file.
        limit: maximum size in bytes.

    Raises:
        ValueError: it is not a regular file, or it is too large.
        OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        if found.st_size > limit:
            raise ValueError(f"it has {found.st_size} bytes; the maximum is {limit}")
        return file.read()


def is_regular(path: Path) -> bool:
    """Whether the path is a regular file and not a symbolic link."""
    with suppress(OSError, ValueError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def parse(text: str | bytes) -> Any:
    """Parse strict JSON: no duplicate keys, NaN, infinity or lone surrogates, and limited nesting.

    Raises:
        ValueError: the text is not strict JSON.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        found = json.loads(
            text, object_pairs_hook=_refuse_duplicate_keys, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if type(found) is dict or type(found) is list:
        check_nesting(found)
    if "\\u" in text:
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as e:
            raise ValueError("it contains a lone surrogate (half of a UTF-16 pair)") from e
    return found


def check_nesting(value: Any, limit: int = NESTING) -> None:
    """Check the nesting of the lists and objects of a JSON value; deep nesting can crash a reader.

    Raises:
        ValueError: the value is nested more than ``limit`` levels deep.
    """
    level = [value]
    for _ in range(limit):
        parts = (x.values() if type(x) is dict else x for x in level)
        level = [c for part in parts for c in part if type(c) is dict or type(c) is list]
        if not level:
            return
    raise ValueError(f"nested too deeply: more than {limit} levels")


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        duplicate = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise ValueError(f"duplicate key {duplicate!r} in one object")
    return row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def finite(value: Any) -> Any:
    """Replace NaN and infinity by None in a JSON value, recursively."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


SEAL = "sealed"
"""Key of the hash, which is the last one of a sealed object."""


def sealed(value: dict[str, Any], indent: int | None = None) -> str:
    """Serialise a JSON object and append its seal: the SHA-256 of the text with an empty seal."""
    text = json.dumps({**value, SEAL: ""}, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    before, after = text[: text.rindex('""') + 1], text[text.rindex('""') + 1 :]
    return f"{before}{hashlib.sha256(text.encode()).hexdigest()}{after}"


def unseal(raw: bytes) -> tuple[dict[str, Any], bool]:
    """Parse a text written by :func:`sealed`. Return the object without its seal, and whether it had a seal.

    Raises:
        ValueError: the text is not a JSON object, or the seal does not match.
    """
    found = parse(raw)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    if SEAL not in found:
        return found, False
    seal = str(found.pop(SEAL)).encode()
    at = raw.rfind(b'"' + seal + b'"') + 1
    if not seal or hashlib.sha256(raw[:at] + raw[at + len(seal) :]).hexdigest().encode() != seal:
        raise ValueError("it was modified after it was written (the seal does not match)")
    return found, True


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value as hex; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or the directory entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_at(temporary: Path, path: Path, text: str) -> None:
    """Write a small file atomically, even if the machine crashes.

    Args:
        temporary: temporary path in the same folder; it must not exist.
        path: final path.
        text: contents of the file.

    Raises:
        FileExistsError: ``temporary`` exists.
    """
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(text)
            file.flush()
            os.fsync(handle)
        temporary.replace(path)
    except FileExistsError:
        raise
    except BaseException:  # such as a full disk: leave no partial file
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def mode() -> int:
    """Return the permission bits of new files under the umask of this process."""
    return 0o666 & ~_umask()


@cache
def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found
