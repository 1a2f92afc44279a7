"""Artifacts on disk: a folder of data files and a ``manifest.json``, written last, that vouches for them.

A folder without a manifest is an unfinished run. Reading verifies kind, version and hashes. Writing the
same thing again does nothing; writing another thing over it is refused (see :func:`writing`).
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tokalign import __version__
from tokalign.config import Stage
from tokalign.errors import ConflictError, InputError, KindError, LockedError, UsageError
from tokalign.schemas import KINDS

MANIFEST, PLAN, LOCK = "manifest.json", "unfinished.json", ".lock"
_LIBRARIES = ("numpy", "pyarrow", "rapidfuzz", "tokenizers", "torch", "transformers")


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
        """One hash of all data files: equal content, equal digest, whenever it was made."""
        return hash_json([[f["name"], f["sha256"]] for f in self.files])

    def fingerprint(self, knobs: Iterable[str]) -> dict[str, Any]:
        """As :attr:`Writer.fingerprint`, of these knobs."""
        contents = {f"input {i['name']}": i["sha256"] for i in self.inputs}
        return {"kind": self.kind, **{k: self.config.get(k) for k in knobs}, **contents}

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


class Writer:
    """One artifact being written. Use :func:`writing`."""

    def __init__(self, folder: Path, kind: str, config: Stage, inputs: Mapping[str, dict[str, Any]]) -> None:
        self.folder, self.kind, self.config = folder, kind, config
        # A knob that names an input counts by the content that was read, not by how its path was spelt.
        self.knobs = config.select("rows")
        self.inputs = [
            {"name": name, **entry, "path": _relative(entry["path"], folder)} for name, entry in inputs.items()
        ]
        self.finished: Manifest | None = None
        self._start = time.perf_counter()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the rows: knobs, and inputs by content."""
        contents = {f"input {i['name']}": i["sha256"] for i in self.inputs}
        return {"kind": self.kind, **self.knobs, **contents}

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write a data file at; it takes its name only when the block ends well."""
        temporary = self.folder / f".{name}.tmp"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(self.folder / name)
        _sync(self.folder)

    def jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write rows as JSON lines; returns how many."""
        n = 0
        with self.file(name) as path, path.open("w", encoding="utf-8") as f:
            for row in rows:
                f.write(json.dumps(row, ensure_ascii=False) + "\n")
                n += 1
        return n

    def commit(
        self, rows: Mapping[str, Any], stats: Mapping[str, Any] | None = None, status: str = "complete"
    ) -> Manifest:
        """Write the manifest: from here on the artifact exists."""
        skip = {MANIFEST, PLAN, LOCK}
        paths = sorted(p for p in self.folder.rglob("*") if p.is_file() and p.name not in skip)
        files = []
        for path in paths:
            if _inside_nested(path, self.folder):
                continue
            _sync(path)
            name = path.relative_to(self.folder).as_posix()
            entry = {"name": name, "sha256": sha256(path), "bytes": path.stat().st_size}
            files.append({**entry, "rows": rows["out"]} if name in ("data.jsonl", "data.arrow") else entry)
        manifest = Manifest(
            kind=self.kind,
            version=KINDS[self.kind].version,
            tokalign=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=["tokalign", *sys.argv[1:]],
            config=self.config.select("rows", "run", "input", "out"),
            config_hash=hash_json(self.fingerprint),
            seed=self.config.seed,
            inputs=self.inputs,
            files=files,
            rows={"skipped": 0, "failed": 0, "reasons": {}, **rows},
            stats=dict(stats or {}),
            libraries={n: metadata.version(n) for n in _LIBRARIES if n in sys.modules},
            seconds=round(time.perf_counter() - self._start, 3),
            status=status,
        )
        with self.file(MANIFEST) as path:
            path.write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (self.folder / PLAN).unlink(missing_ok=True)
        return manifest


@contextmanager
def writing(
    kind: str, config: Stage, inputs: Mapping[str, dict[str, Any]], out: Path | None = None
) -> Iterator[Writer]:
    """Hold the output folder while a stage writes it.

    If the folder already holds this very run, ``finished`` is its manifest and there is nothing to do.

    Args:
        kind: what is written.
        config: the stage's knobs.
        inputs: by name, the ``lineage`` of each input with its ``path``.
        out: the folder, where it is not ``config.out``.

    Raises:
        ConflictError: the folder holds something else; the fields that differ are named.
        LockedError: another process writes it.
    """
    folder = out or config.out
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
        raise ConflictError(f"{folder} is a file, not a folder", remedy="choose another --out") from e
    _refuse_foreign(folder)  # before the lock, which leaves a file
    with _locked(folder):
        writer = Writer(folder, kind, config, inputs)
        if not config.fresh:
            there = Manifest.read(folder) if is_artifact(folder) else None
            before = there.fingerprint(writer.knobs) if there else _planned(folder)
            if before and (changes := _changes(before, writer.fingerprint)):
                run = "another run" if there else "an unfinished other run"
                raise ConflictError(
                    f"{folder} holds {run}; changed: {', '.join(changes)}",
                    remedy="choose another --out, or pass --fresh to rewrite it",
                )
            if there:
                verify(folder)
                writer.finished = there
        if writer.finished is None:
            (folder / PLAN).write_text(json.dumps({"fingerprint": writer.fingerprint}), encoding="utf-8")
            _clear(folder)
        try:
            yield writer
        except (InputError, UsageError):  # what was asked for cannot be: leave nothing behind
            if writer.finished is None and not is_artifact(folder):
                _clear(folder)
                (folder / PLAN).unlink(missing_ok=True)
                if made:
                    shutil.rmtree(folder)
            raise


def _refuse_foreign(folder: Path) -> None:
    if is_artifact(folder) or (folder / PLAN).is_file():
        return
    if any(p.name != LOCK for p in folder.iterdir()):
        raise ConflictError(f"{folder} is not empty and not an artifact of tokalign", remedy="choose another --out")


def _planned(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of the unfinished run there; None where there is none, or it was killed writing that."""
    try:
        plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between the fingerprints of the run that is there and the one asked for, in words."""
    if before["kind"] != now["kind"]:
        return [f"kind {before['kind']} → {now['kind']}"]
    changed = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    return [
        key if key.startswith("input ") else f"--{key.replace('_', '-')} {before.get(key)!r} → {now.get(key)!r}"
        for key in changed
    ]


def _clear(folder: Path) -> None:
    """Empty a folder of ours; the manifest first, so that a half-emptied one is never taken for whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name in (LOCK, PLAN):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
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


def _inside_nested(path: Path, folder: Path) -> bool:
    """Whether a file belongs to an artifact inside this one, which vouches for it itself."""
    return any(is_artifact(p) for p in path.parents if folder in p.parents)


def _relative(path: str, folder: Path) -> str:
    """Paths that exist are kept relative to the artifact, so that a tree of artifacts can be moved."""
    return os.path.relpath(path, folder) if Path(path).exists() else path


def hash_json(value: Any) -> str:
    """Hash of a plain JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
