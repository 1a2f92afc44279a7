"""Checkpoints of a training: folders ``checkpoint-STEP``, each sealed by a file of hashes once it is whole."""

import re
from collections.abc import Callable
from pathlib import Path

from tokalign.artifacts.workspace import CHECKPOINTS, Workspace
from tokalign.runtime.disk import read_regular, sealed, sha256, unseal

SEAL = "sealed.json"
KEPT = 2
"""Two, so that one is whole whatever happens to the other."""
_PLACE = re.compile(rf"{CHECKPOINTS}/checkpoint-(\d{{1,9}})/")


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was made after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def keep(space: Workspace, made: Path, step: int) -> None:
    """Seal a checkpoint that lies whole in a scratch folder, and put it in its place; those no longer needed go."""
    hashes = {p.relative_to(made).as_posix(): sha256(p) for p in sorted(made.rglob("*")) if p.is_file()}
    (made / SEAL).write_text(sealed(hashes, indent=1), encoding="utf-8")
    space.remove(_name(step))
    space.place(made, _name(step), last=SEAL)
    whole = [k for k in _steps(space) if (space.folder / _name(k) / SEAL).exists()]
    for old in whole[KEPT:]:
        space.remove(_name(old))


def newest(space: Workspace, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, or None. Later ones are removed; ``say`` is told of each."""
    for step in _steps(space):
        path = space.folder / _name(step)
        if _is_whole(path):
            say(f"going on after step {step}")
            return path
        say(f"{path.name} is not whole: it was being written when the run ended, or has been damaged since")
        space.remove(_name(step))
    return None


def keep_last(space: Workspace) -> None:
    """Remove all but the newest: the run has ended."""
    for old in _steps(space)[1:]:
        space.remove(_name(old))


def _name(step: int) -> str:
    return f"{CHECKPOINTS}/checkpoint-{step}"


def _steps(space: Workspace) -> list[int]:
    """Of the run's own checkpoints, the newest first; what else lies there is not looked at."""
    return sorted({int(found[1]) for name in space.names(CHECKPOINTS) if (found := _PLACE.match(name))}, reverse=True)


def _is_whole(checkpoint: Path) -> bool:
    try:
        hashes, _ = unseal(read_regular(checkpoint / SEAL))
        return bool(hashes) and all(sha256(checkpoint / name) == sha for name, sha in hashes.items())
    except (OSError, ValueError):
        return False
