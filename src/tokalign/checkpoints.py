"""Checkpoints of a training: folders ``checkpoint-STEP``, each sealed by a file of hashes once it is whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tokalign import artifacts

SEAL = "sealed.json"
KEPT = 2
"""Two, so that one is whole whatever happens to the other."""


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was made after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def seal(checkpoint: Path) -> None:
    """Vouch for a checkpoint that has been written in full; remove those that are no longer needed."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file())
    hashes = {p.relative_to(checkpoint).as_posix(): artifacts.sha256(p) for p in files}
    for path in files:
        artifacts.sync(path)
    artifacts.write_whole(checkpoint / SEAL, json.dumps(hashes, indent=1))
    for old in [p for p in _all(checkpoint.parent) if (p / SEAL).exists()][KEPT:]:
        shutil.rmtree(old)


def newest(parent: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, or None. Later ones are removed; ``say`` is told of each."""
    for path in _all(parent):
        if _whole(path):
            say(f"going on after step {step_of(path)}")
            return path
        say(f"{path.name} is not whole: it was being written when the run ended, or has been damaged since")
        shutil.rmtree(path)
    return None


def keep_last(parent: Path) -> None:
    """Remove all but the newest: the run has ended."""
    for old in _all(parent)[1:]:
        shutil.rmtree(old)


def _all(parent: Path) -> list[Path]:
    return sorted((p for p in parent.glob("checkpoint-*") if p.is_dir()), key=step_of, reverse=True)


def _whole(checkpoint: Path) -> bool:
    try:
        hashes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return all(artifacts.sha256(checkpoint / name) == sha for name, sha in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False
