"""Write a single file, such as a report or an export, atomically and without overwriting the user's files."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tokalign.errors import ConflictError
from tokalign.runtime.disk import is_regular, mode, sync

_HEAD_BYTES = 4096
"""Number of leading bytes that ``is_ours`` gets."""


@contextmanager
def writing_file(
    path: Path, fresh: bool, quiet: bool, is_ours: Callable[[bytes], bool] | None = None
) -> Iterator[Path]:
    """Yield a temporary path; when the block ends without an error, the file is renamed to ``path``.

    Args:
        path: final path of the file.
        fresh: replace an existing file. It is kept beside the new one, under a name with the date and time.
        quiet: do not print where the existing file was moved.
        is_ours: gets the first bytes of an existing file. If it returns True, that file is overwritten and not kept.

    Raises:
        ConflictError: the path is a folder, or the file exists and ``fresh`` is False.
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
        if os.path.lexists(path) and not _may_overwrite(path, is_ours):
            kept = _backup_path(path)
            path.rename(kept)
            if not quiet:
                print(f"tokalign: moved the existing {path.name} to {kept}", file=sys.stderr)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_taken(path: Path, fresh: bool) -> None:
    """Raise the ConflictError of :func:`writing_file` before any work is done."""
    if path.is_dir():
        raise ConflictError(f"{path} is a folder", remedy="choose a file name for --out")
    if os.path.lexists(path) and not fresh:
        raise ConflictError(f"{path} already exists", remedy="choose another --out, or pass --fresh")


def _may_overwrite(path: Path, is_ours: Callable[[bytes], bool] | None) -> bool:
    if is_ours is None or not is_regular(path):
        return False
    with path.open("rb") as file:
        return is_ours(file.read(_HEAD_BYTES))


def _backup_path(path: Path) -> Path:
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
    for k in range(1000):
        kept = path.with_name(f"{path.stem}.replaced-{stamp}{f'-{k}' if k else ''}{path.suffix}")
        if not os.path.lexists(kept):
            return kept
    raise ConflictError(f"too many files {path.stem}.replaced-… beside {path}", remedy="delete some of them")
