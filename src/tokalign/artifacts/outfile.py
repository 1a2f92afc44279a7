"""Writing a single file, such as a report or an export: whole or not at all, and never over somebody else's."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tokalign.errors import ConflictError
from tokalign.runtime.disk import is_regular, mode, sync

_HEAD = 4096
"""Bytes of a file from which it may tell that it is ours."""


@contextmanager
def writing_file(
    path: Path, fresh: bool, quiet: bool, is_ours: Callable[[bytes], bool] | None = None
) -> Iterator[Path]:
    """A path to write at; the file takes its name when the block ends well.

    Args:
        path: the name.
        fresh: a file that is there makes way: it is moved to a dated name beside, and stays.
        quiet: not to say so.
        is_ours: whether the first bytes of a file show that it was made by this program: then it need not stay.

    Raises:
        ConflictError: a file is there, and ``fresh`` is not given; or a folder is.
    """
    refuse_taken(path, fresh)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode())
        sync(temporary)
        refuse_taken(path, fresh)
        if os.path.lexists(path) and not _may_go(path, is_ours):
            kept = _beside(path)
            path.rename(kept)
            if not quiet:
                print(f"tokalign: what was there is {kept} now", file=sys.stderr)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_taken(path: Path, fresh: bool) -> None:
    """Refuse a name that is taken, before any work is done for it; see :func:`writing_file`."""
    if path.is_dir():
        raise ConflictError(f"{path} is a folder", remedy="name a file")
    if os.path.lexists(path) and not fresh:
        raise ConflictError(f"{path} is there already", remedy="choose another --out, or pass --fresh")


def _may_go(path: Path, is_ours: Callable[[bytes], bool] | None) -> bool:
    if is_ours is None or not is_regular(path):
        return False
    with path.open("rb") as file:
        return is_ours(file.read(_HEAD))


def _beside(path: Path) -> Path:
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
    for k in range(1000):
        kept = path.with_name(f"{path.stem}.replaced-{stamp}{f'-{k}' if k else ''}{path.suffix}")
        if not os.path.lexists(kept):
            return kept
    raise ConflictError(f"too many files {path.stem}.replaced-… beside {path}", remedy="remove some")
