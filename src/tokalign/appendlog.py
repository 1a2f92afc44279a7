"""A log that only grows, one JSON object a line: what stands in it when its writer is killed is found again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from tokalign.errors import InputError


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
    for number, line in enumerate(iter(file.readline, b""), 1):
        if not line.endswith(b"\n"):
            if not _is_json(line):
                file.truncate(whole)
                break
            file.write(b"\n")
            file.flush()
        try:
            take(json.loads(line), whole)
        except (ValueError, KeyError, TypeError) as e:
            problem = f"not a line that belongs here: {type(e).__name__}"
            raise InputError(problem, where=f"{path}:{number}", remedy=remedy) from e
        whole += len(line)


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
