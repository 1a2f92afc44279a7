"""Training checkpoints: folders ``checkpoint-STEP``. A file of hashes marks a complete checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path

from tokalign.artifacts.workspace import CHECKPOINTS, Workspace
from tokalign.runtime.disk import read_regular, sealed, sha256, unseal

SEAL = "sealed.json"
KEPT = 2
"""Number of checkpoints to keep: if one is damaged, the other can be used."""
_FILE = re.compile(rf"{CHECKPOINTS}/checkpoint-(\d{{1,9}})/")


def step_of(checkpoint: Path) -> int:
    """Return the training step of a checkpoint folder."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def keep(space: Workspace, made: Path, step: int) -> None:
    """Move a complete checkpoint from a scratch folder to its final place and delete old checkpoints.

    Args:
        space: workspace of the run.
        made: scratch folder that holds the checkpoint.
        step: training step of the checkpoint.
    """
    hashes = {p.relative_to(made).as_posix(): sha256(p) for p in sorted(made.rglob("*")) if p.is_file()}
    (made / SEAL).write_text(sealed(hashes, indent=1), encoding="utf-8")
    space.remove(_name(step))
    space.place(made, _name(step), last=SEAL)
    complete = [k for k in _steps(space) if (space.folder / _name(k) / SEAL).exists()]
    for old in complete[KEPT:]:
        space.remove(_name(old))


def newest(space: Workspace, say: Callable[[str], None]) -> Path | None:
    """Return the newest complete checkpoint, or None. Newer, incomplete ones are deleted.

    Args:
        space: workspace of the run.
        say: prints a line: the step from which the run resumes, and each checkpoint that was deleted.
    """
    for step in _steps(space):
        path = space.folder / _name(step)
        if _is_complete(path):
            say(f"resuming after step {step}")
            return path
        say(f"deleting {path.name}: incomplete or damaged")
        space.remove(_name(step))
    return None


def keep_last(space: Workspace) -> None:
    """Delete all checkpoints but the newest, at the end of a run."""
    for old in _steps(space)[1:]:
        space.remove(_name(old))


def _name(step: int) -> str:
    return f"{CHECKPOINTS}/checkpoint-{step}"


def _steps(space: Workspace) -> list[int]:
    """Steps of the run's own checkpoints, newest first. Other folders are ignored."""
    return sorted({int(found[1]) for name in space.names(CHECKPOINTS) if (found := _FILE.match(name))}, reverse=True)


def _is_complete(checkpoint: Path) -> bool:
    try:
        hashes, _ = unseal(read_regular(checkpoint / SEAL))
        return bool(hashes) and all(sha256(checkpoint / name) == sha for name, sha in hashes.items())
    except (OSError, ValueError):
        return False
