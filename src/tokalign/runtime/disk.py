"""Files: read as what they are (regular, not too large, JSON within bounds), written whole or not at all.

Text that vouches for itself ends in a seal: a hash of all of its own bytes, see :func:`sealed`.
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
"""Lists and objects that may stand within each other in JSON from outside."""
LONGEST = 64 * 1024 * 1024
"""Bytes of the longest line of rows, and of the largest JSON file of ours: memory does not grow with a broken file."""


def read_regular(path: Path, most: int = LONGEST) -> bytes:
    """The bytes of a regular file; links, pipes and devices are not followed or waited for.

    Raises:
        ValueError: it is something else, or has more than ``most`` bytes.
        OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:  # noqa: PTH123 - of a descriptor
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        if found.st_size > most:
            raise ValueError(f"{found.st_size} bytes; no such file has more than {most}")
        return file.read()


def is_regular(path: Path) -> bool:
    """Whether a regular file lies there, not a link to one."""
    with suppress(OSError, ValueError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def parse(text: str | bytes) -> Any:
    """JSON as the standard has it: no key twice, no NaN or infinity, no lone surrogate, nesting within bounds.

    Raises:
        ValueError: it is not.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        found = json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if type(found) is dict or type(found) is list:
        check_nesting(found)
    if "\\u" in text:
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as e:
            raise ValueError("a lone surrogate: half a character") from e
    return found


def check_nesting(value: Any, most: int = NESTING) -> None:
    """Refuse a plain JSON value whose lists and objects are nested too deeply: it serves to bring a reader down.

    Raises:
        ValueError: they are.
    """
    level = [value]
    for _ in range(most):
        parts = (x.values() if type(x) is dict else x for x in level)
        level = [c for part in parts for c in part if type(c) is dict or type(c) is list]
        if not level:
            return
    raise ValueError(f"more than {most} lists and objects within each other")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twin = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {twin!r} stands twice in one object")
    return row


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number that JSON knows")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def finite(value: Any) -> Any:
    """A plain JSON value, with null for every number that JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


SEAL = "sealed"
"""The last key of a sealed text."""


def sealed(value: dict[str, Any], indent: int | None = None) -> str:
    """A JSON object whose last key is a hash of every byte of the text, taken with the hash itself left out."""
    text = json.dumps({**value, SEAL: ""}, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    before, after = text[: text.rindex('""') + 1], text[text.rindex('""') + 1 :]
    return f"{before}{hashlib.sha256(text.encode()).hexdigest()}{after}"


def unseal(raw: bytes) -> tuple[dict[str, Any], bool]:
    """What :func:`sealed` wrote, and whether it bears a seal at all; whoever reads says whether it must.

    Raises:
        ValueError: it is no JSON object, or was changed since.
    """
    found = parse(raw)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    if SEAL not in found:
        return found, False
    seal = str(found.pop(SEAL)).encode()
    at = raw.rfind(b'"' + seal + b'"') + 1
    if not seal or hashlib.sha256(raw[:at] + raw[at + len(seal) :]).hexdigest().encode() != seal:
        raise ValueError("it was changed since it was written (its seal does not fit)")
    return found, True


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Hash of a plain JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_at(temporary: Path, path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all, whenever the machine stops.

    Args:
        temporary: where it is written first, beside it; nothing may be there.
        path: what it is called then.
        text: all of it.
    """
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - of a descriptor
            file.write(text)
            file.flush()
            os.fsync(handle)
        temporary.replace(path)
    except FileExistsError:
        raise
    except BaseException:  # a full disk keeps no half of it
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def mode() -> int:
    """The permissions that new files have, by the process's umask."""
    return 0o666 & ~_umask()


@cache
def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found
