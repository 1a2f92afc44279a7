"""The folder of an artifact while it is written: its lock, its plan, and what was there before."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokalign.artifacts import ANNOTATIONS, JOURNAL, MANIFEST, PLAN, Manifest
from tokalign.errors import ConflictError, LockedError
from tokalign.rowfile import PROGRESS

LOCK, ASIDE = ".lock", ".replaced"
OURS = (LOCK, PLAN, PROGRESS, ASIDE, JOURNAL, ANNOTATIONS)
"""Names in a folder that are of the run and not of its result."""
STAYS = (LOCK, ASIDE, JOURNAL, ANNOTATIONS)
"""What is there before a run and after it: what was paid, and what a person did, is not thrown away."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; another process that tries is told who holds it, with :class:`LockedError`."""
    with (folder / LOCK).open("a+", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            f.seek(0)
            raise LockedError(
                f"{folder} is being written by process {f.read().strip() or '?'}",
                remedy="wait for it to end, or choose another --out",
            ) from e
        f.truncate(0)
        f.write(str(os.getpid()))
        f.flush()
        yield


def refuse_foreign(folder: Path) -> None:
    """Leave a folder alone that holds other things than ours, with :class:`ConflictError`."""
    names = {p.name for p in folder.iterdir()}
    by_us = {LOCK, f".{PLAN}.tmp", JOURNAL, ANNOTATIONS}  # by a kill at the start, or of a run that was refused
    if not names & {MANIFEST, PLAN, ASIDE} and names - by_us:
        raise ConflictError(f"{folder} is not empty and not an artifact of tokalign", remedy="choose another --out")


def planned(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of the unfinished run there; None where there is none."""
    try:
        plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan


def spent(folder: Path) -> float:
    """Seconds that went into what is there, of a run that was cut until it last wrote something."""
    if not (folder / PLAN).is_file():
        return Manifest.read(folder).seconds
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    last = max(path.stat().st_mtime for path in folder.rglob("*") if path.name != LOCK)
    return float(plan.get("spent", 0.0) + max(0.0, last - plan.get("began", last)))


def put_aside(folder: Path) -> None:
    """Move a finished artifact out of the way, the manifest first: a half-moved one is never taken for whole."""
    aside = folder / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    (folder / MANIFEST).rename(aside / MANIFEST)
    for path in folder.iterdir():
        if path.name not in STAYS:
            path.rename(aside / path.name)


def restore(folder: Path) -> None:
    """Undo :func:`put_aside`, the manifest last."""
    aside = folder / ASIDE
    for path in sorted(aside.iterdir(), key=lambda p: p.name == MANIFEST):
        path.rename(folder / path.name)
    aside.rmdir()


def empty(folder: Path, but: tuple[str, ...]) -> None:
    """Remove what a run left; the plan last, without which the rest would look like someone else's."""
    for path in sorted(folder.iterdir(), key=lambda p: p.name == PLAN):
        if path.name in but:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
