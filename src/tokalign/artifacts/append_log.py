"""A log that only grows, one JSON object a line: what stands in it when its writer is killed is found again."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tokalign.errors import InputError
from tokalign.runtime.disk import check_nesting

_BEGINS = b'{"event"'
"""How every line of such a log begins: a last one that does not is somebody else's, and stays."""


def replay(file: BinaryIO, path: Path, take: Callable[[dict[str, Any], int], None], remedy: str) -> None:
    """Hand every entry, with the place where it stands, to ``take``; a last line that was cut short is removed.

    A last line that is whole but for its end (an editor may leave it off) counts, and gets one.

    Args:
        file: open for reading and appending.
        path: where it lies, for the message.
        take: may raise ValueError, KeyError or TypeError at an entry that is none.
        remedy: what to do about such an entry.

    Raises:
        InputError: a line is no entry.
    """
    file.seek(0)
    whole = 0
    unended = False
    for number, line in enumerate(iter(file.readline, b""), 1):
        unended = not line.endswith(b"\n")
        if unended and not _may_be_whole(line):
            if line.startswith(_BEGINS) or _BEGINS.startswith(line):  # ours, cut short by a kill
                file.truncate(whole)
                return
            raise InputError("not a line that belongs here", where=f"{path}:{number}", remedy=remedy)
        try:
            entry = json.loads(line)
            check_nesting(entry)
            take(entry, whole)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise InputError("not a line that belongs here", where=f"{path}:{number}", remedy=remedy) from e
        whole += len(line)
    if unended:
        file.write(b"\n")
        file.flush()


def open_log(path: Path) -> BinaryIO:
    """Open a log for reading and appending; a link is not followed, for what it points to is somebody else's.

    Raises:
        InputError: it is a link, or no regular file.
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
    return open(handle, "a+b")  # noqa: PTH123 - of a descriptor


def _may_be_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except RecursionError:  # no such line is ours, cut short or not
        return True
    except ValueError:
        return False
