"""Manifests that were changed, by hand or by a stranger who makes the seal fit again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokalign import __version__
from tokalign.artifacts.manifest import MANIFEST
from tokalign.artifacts.schemas import KINDS
from tokalign.runtime.disk import SEAL, sealed, sha256


def change(folder: Path, by: Callable[[dict[str, Any]], Any] | None = None, **changes: Any) -> None:
    """Change a folder's manifest, in place by ``by`` or field by field, and seal it again."""
    path = folder / MANIFEST
    whole = json.loads(path.read_text(encoding="utf-8"))
    whole.pop(SEAL, None)
    whole |= changes
    if by is not None:
        by(whole)
    path.write_text(sealed(whole, indent=2), encoding="utf-8")


PLAIN_STATS: dict[str, dict[str, Any]] = {
    "edits": {"status": {}, "reasons": {}, "categories": {}, "similarity_mean": None},
    "policy": {"steps": 1, "final_loss": 1.0, "weights": 1},
    "token-rewards": {"level": "token", "score_mean": 0.0},
}


def vouch(folder: Path, kind: str, **fields: Any) -> Path:
    """Write a manifest of this kind that lists all the files in a folder, as a stranger who knows how might."""
    folder.mkdir(parents=True, exist_ok=True)
    name = KINDS[kind].data
    if "*" not in name and not (folder / name).exists():
        (folder / name).touch()
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    files = [{"name": p.relative_to(folder).as_posix(), "sha256": sha256(p), "bytes": p.stat().st_size} for p in found]
    manifest = {
        "kind": kind, "version": KINDS[kind].version, "tokalign": __version__, "created": "", "command": [],
        "config": {}, "config_hash": "", "seed": 0, "inputs": [], "files": files, "rows": {"out": 0},
        "stats": PLAIN_STATS.get(kind, {}), **fields,
    }  # fmt: skip
    (folder / MANIFEST).write_text(sealed(manifest, indent=2), encoding="utf-8")
    return folder
