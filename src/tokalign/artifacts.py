"""Artifacts on disk: a folder of data files and a ``manifest.json``, written last, that vouches for them.

A folder without a manifest is an unfinished run. Reading verifies kind, version and hashes. How one is
written stands in :mod:`tokalign.writer`.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokalign import __version__
from tokalign.errors import InputError, KindError
from tokalign.schemas import KINDS

MANIFEST, PLAN = "manifest.json", "unfinished.json"
JOURNAL, ANNOTATIONS = "journal.jsonl", "annotations.jsonl"
"""What was paid, or done by a person: it stays, whatever is made of it."""
LOGS = ("metrics.jsonl", "tensorboard", "wandb")
"""What tells of a run and not of its result: two equal results have different ones."""


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``. ``rows`` holds in, out, skipped, failed and ``reasons`` with counts."""

    kind: str
    version: int
    tokalign: str
    created: str
    command: list[str]
    config: dict[str, Any]
    config_hash: str
    seed: int
    inputs: list[dict[str, Any]]
    files: list[dict[str, Any]]
    rows: dict[str, Any]
    stats: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    status: str = "complete"

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read a folder's manifest and check its version.

        Raises:
            InputError: it cannot be read, is not one of ours, or is newer than this program.
        """
        path = folder / MANIFEST
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            known = {k: v for k, v in raw.items() if k in cls.__dataclass_fields__}
            manifest = cls(**known)
            manifest._check_types()
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise InputError(f"not a readable manifest: {e}", where=str(path), remedy="make the artifact again") from e
        if manifest.kind not in KINDS:
            raise InputError(f"unknown kind {manifest.kind!r}", where=str(path), field="kind")
        newest = KINDS[manifest.kind].version
        if manifest.version > newest:
            raise InputError(
                f"{manifest.kind}/{manifest.version} is newer than {manifest.kind}/{newest}, the latest known here",
                where=str(path),
                field="version",
                remedy=f"upgrade tokalign (this is {__version__}, that was {manifest.tokalign})",
            )
        return manifest

    def _check_types(self) -> None:
        types = {"kind": str, "version": int, "config": dict, "inputs": list, "files": list, "rows": dict}
        for name, kind in types.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {getattr(self, name)!r}")
        for entry in (*self.files, *self.inputs):
            if not {"name", "sha256"} <= entry.keys():
                raise TypeError(f"an entry without name and sha256: {entry!r}")

    @property
    def digest(self) -> str:
        """One hash of all files but logs: equal content, equal digest, whenever it was made."""
        return hash_json([[f["name"], f["sha256"]] for f in self.files if f["name"].split("/")[0] not in LOGS])

    def fingerprint(self, knobs: Iterable[str]) -> dict[str, Any]:
        """What decided the rows, by those of these knobs that there were: as ``Writer.fingerprint``."""
        contents = {f"input {i['name']}": i["sha256"] for i in self.inputs}
        return {"kind": self.kind, **{k: self.config[k] for k in knobs if k in self.config}, **contents}

    def lineage(self) -> dict[str, Any]:
        """What another artifact's manifest says of this one (but for the path)."""
        return {"kind": self.kind, "version": self.version, "sha256": self.digest, "rows": self.rows.get("out")}


def is_artifact(path: Path) -> bool:
    """Whether a finished artifact lies there."""
    return (path / MANIFEST).is_file()


def verify(folder: Path, *kinds: str) -> Manifest:
    """Read a manifest, check that it is one of ``kinds``, and check every file it names.

    Raises:
        KindError: another kind lies there.
        InputError: a file is missing, changed, or not inside the folder.
    """
    manifest = Manifest.read(folder)
    if kinds and manifest.kind not in kinds:
        raise KindError(
            f"this artifact holds {manifest.kind}, not {' or '.join(kinds)}",
            where=str(folder),
            remedy=f"make one with: {KINDS[kinds[0]].made_by}",
        )
    for entry in manifest.files:
        path = folder / str(entry["name"])
        if path.is_symlink() or folder.resolve() not in path.resolve().parents:
            raise InputError(
                f"{entry['name']!r} points outside the artifact", where=str(folder / MANIFEST), field="files"
            )
        if not path.is_file():
            raise InputError("the file is missing", where=str(path), remedy="make the artifact again")
        if sha256(path) != entry["sha256"]:
            raise InputError(
                "the content is not what the manifest says (sha256 differs)",
                where=str(path),
                remedy="make the artifact again; artifacts are never edited in place",
            )
    return manifest


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Hash of a plain JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all, whenever the machine stops."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
