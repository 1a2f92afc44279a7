"""Append-only logs with one JSON object per line. Complete entries survive a kill of the process that writes them."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tokalign.errors import InputError
from tokalign.runtime.disk import check_nesting

_LINE_START = b'{"event"'
"""Start of every line of such a log. An incomplete last line with another start is from another program and is kept."""


def replay(file: BinaryIO, path: Path, take: Callable[[dict[str, Any], int], None], remedy: str) -> None:
    """Read the log from the start and call ``take(entry, offset)`` for every entry; ``offset`` is in bytes.

    An incomplete last line, left by a kill, is removed. A complete last line without a line feed (some editors omit
    it) is read, and the line feed is added.

    Args:
        file: the log, open for reading and appending.
        path: path of the log, for error messages.
        take: called for every entry; may raise ValueError, KeyError or TypeError for an invalid entry.
        remedy: remedy for the error about an invalid entry.

    Raises:
        InputError: a line is not a valid entry.
    """
    file.seek(0)
    offset = 0
    missing_newline = False
    for number, line in enumerate(iter(file.readline, b""), 1):
        missing_newline = not line.endswith(b"\n")
        if missing_newline and not _is_complete(line):
            if line.startswith(_LINE_START) or _LINE_START.startswith(line):  # our own line, incomplete after a kill
                file.truncate(offset)
                return
            raise InputError("not a valid entry of this log", where=f"{path}:{number}", remedy=remedy)
        try:
            entry = json.loads(line)
            check_nesting(entry)
            take(entry, offset)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise InputError("not a valid entry of this log", where=f"{path}:{number}", remedy=remedy) from e
        offset += len(line)
    if missing_newline:
        file.write(b"\n")
        file.flush()


def open_log(path: Path) -> BinaryIO:
    """Open a log for reading and appending; create it if it does not exist. Symbolic links are not followed.

    Raises:
        InputError: the path is a symbolic link or not a regular file.
    """
    try:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(path, flags, 0o666)
    except OSError as e:
        if e.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        handle = -1
    if handle < 0 or not stat.S_ISREG(os.fstat(handle).st_mode):
        if handle >= 0:
            os.close(handle)
        raise InputError("not a regular file", where=str(path), remedy="move it elsewhere")
    return open(handle, "a+b")  # noqa: PTH123 - a descriptor


def _is_complete(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except RecursionError:  # we never write such a line, so it is not ours
        return True
    except ValueError:
        return False
