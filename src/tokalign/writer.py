"""Writing an artifact: one process at a time, whole or not at all, and on from where a killed run ended.

Making the same thing again does nothing when it is finished and goes on when it is not; making another thing
over it is refused without ``--fresh`` (see :func:`writing`).
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tokalign import __version__, interrupt
from tokalign.artifacts import (
    ANNOTATIONS,
    JOURNAL,
    MANIFEST,
    PLAN,
    Manifest,
    hash_json,
    is_artifact,
    sha256,
    sync,
    verify,
    write_whole,
)
from tokalign.errors import ConflictError, InputError, UsageError
from tokalign.folder import ASIDE, OURS, STAYS, empty, locked, planned, put_aside, refuse_foreign, restore, spent
from tokalign.knobs import Stage
from tokalign.rowfile import PROGRESS, RowFile
from tokalign.schemas import KINDS

_LIBRARIES = ("datasets", "numpy", "pyarrow", "rapidfuzz", "tokenizers", "torch", "transformers")


class Writer:
    """One artifact being written. Use :func:`writing`."""

    def __init__(self, folder: Path, kind: str, config: Stage, inputs: Mapping[str, dict[str, Any]]) -> None:
        self.folder, self.kind, self.config = folder, kind, config
        # A knob that names an input counts by the content that was read, not by how its path was spelt.
        self.knobs = config.select("rows", "more")
        self.inputs = [
            {"name": name, **entry, "path": _relative(entry["path"], folder)} for name, entry in inputs.items()
        ]
        self.finished: Manifest | None = None
        self.resumed = False
        """Whether something of this very run is there already."""
        self.again = False
        """Whether it is all there, but with rows that failed and are tried again; it stays until they are."""
        self.spent = 0.0
        """Seconds that earlier, cut runs took."""
        self._start = time.perf_counter()
        self._rows: RowFile | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the rows: knobs, and inputs by content."""
        contents = {f"input {i['name']}": i["sha256"] for i in self.inputs}
        return {"kind": self.kind, **self.knobs, **contents}

    def rows(self, name: str = "data.jsonl", head: bytes = b"", tail: bytes = b"", shard: int = 0) -> RowFile:
        """A data file that grows by appending and survives a kill; see :class:`RowFile`."""
        self._rows = RowFile(self.folder, name, head, tail, shard)
        return self._rows

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write a data file at; it takes its name only when the block ends well."""
        temporary = self.folder / f".{name}.tmp"
        yield temporary
        sync(temporary)
        temporary.replace(self.folder / name)
        sync(self.folder)

    def jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write rows as JSON lines; returns how many."""
        n = 0
        with self.file(name) as path, path.open("w", encoding="utf-8") as f:
            for row in rows:
                f.write(json.dumps(row, ensure_ascii=False) + "\n")
                n += 1
        return n

    def commit(
        self,
        rows: Mapping[str, Any],
        stats: Mapping[str, Any] | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Write the manifest: from here on the artifact exists."""
        files = []
        counted = self._rows.files if self._rows else {"data.jsonl": rows["out"]}
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder).as_posix()
            if (
                name.split("/")[0] in (MANIFEST, *OURS)
                or _of_a_run(path.relative_to(self.folder))
                or _inside_nested(path, self.folder)
            ):
                continue
            sync(path)
            entry = {"name": name, "sha256": sha256(path), "bytes": path.stat().st_size}
            files.append({**entry, "rows": counted[name]} if name in counted else entry)
        manifest = Manifest(
            kind=self.kind,
            version=KINDS[self.kind].version,
            tokalign=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=["tokalign", *sys.argv[1:]],
            config=self.config.select("rows", "more", "run", "input", "out"),
            config_hash=hash_json(self.fingerprint),
            seed=self.config.seed,
            inputs=self.inputs,
            files=files,
            rows={"skipped": 0, "failed": 0, "reasons": {}, **rows},
            stats=dict(stats or {}),
            usage=dict(usage or {}),
            libraries={n: metadata.version(n) for n in _LIBRARIES if n in sys.modules},
            seconds=round(self.spent + time.perf_counter() - self._start, 3),
        )
        write_whole(self.folder / MANIFEST, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")
        for name in (PROGRESS, PLAN):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / ASIDE, ignore_errors=True)
        return manifest


@contextmanager
def writing(
    kind: str, config: Stage, inputs: Mapping[str, dict[str, Any]], out: Path | None = None
) -> Iterator[Writer]:
    """Hold the output folder while a stage writes it.

    If the folder already holds this very run, ``finished`` is its manifest and there is nothing to do; if it
    holds a part of it, ``resumed`` is true and what is there may be used. With ``--fresh`` what was there is put
    aside, and comes back if this run is refused. Signals wait for :func:`tokalign.interrupt.check`.

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
    refuse_foreign(folder)  # before the lock, which leaves a file
    with locked(folder), interrupt.patiently():
        if (folder / ASIDE).is_dir() and not is_artifact(folder) and not (folder / PLAN).is_file():
            restore(folder)  # killed while it was put aside
        writer = Writer(folder, kind, config, inputs)
        if not config.fresh:
            _compare(writer)
        if writer.finished is None:
            _begin(writer)
        try:
            yield writer
        except (InputError, UsageError):  # what was asked for cannot be: leave things as they were
            kept = writer.resumed or any(folder.glob("checkpoints/checkpoint-*"))
            if writer.finished is None and not kept and not is_artifact(folder):
                empty(folder, but=STAYS)
                if (folder / ASIDE).is_dir():
                    restore(folder)
                elif made and not any((folder / name).exists() for name in (JOURNAL, ANNOTATIONS)):
                    shutil.rmtree(folder)
            raise


def _compare(writer: Writer) -> None:
    """Find out what is there of this run: all of it, a part, or nothing."""
    folder = writer.folder
    there = Manifest.read(folder) if is_artifact(folder) else None
    before = there.fingerprint(writer.knobs) if there else planned(folder)
    if before is None:
        return
    # A knob that an older version did not have is taken as its default, which does what was done without it.
    before = {**{k: v for k, v in writer.config.defaults().items() if k in writer.knobs}, **before}
    if changes := _changes(before, writer.fingerprint, writer.config.select("more")):
        run = "another run" if there else "an unfinished other run"
        raise ConflictError(
            f"{folder} holds {run}; changed: {', '.join(changes)}",
            remedy="choose another --out, or pass --fresh to rewrite it",
        )
    if there and not (folder / PLAN).is_file():
        verify(folder)
    if there and before == writer.fingerprint:
        writer.again = bool(there.rows.get("failed"))
        writer.finished, writer.resumed = (None, True) if writer.again else (there, False)
    else:
        writer.resumed = True


def _begin(writer: Writer) -> None:
    """Make the folder ready for a run that is not finished."""
    folder = writer.folder
    if writer.resumed:
        writer.spent = spent(folder)
        for path in folder.glob(".*.tmp"):
            path.unlink()
    elif is_artifact(folder):
        put_aside(folder)
    else:
        empty(folder, but=STAYS)
    plan = {"fingerprint": writer.fingerprint, "began": time.time(), "spent": writer.spent}
    write_whole(folder / PLAN, json.dumps(plan))
    if not writer.again:
        (folder / MANIFEST).unlink(missing_ok=True)  # of a finished run that is asked for more


def _changes(before: dict[str, Any], now: dict[str, Any], more: Iterable[str]) -> list[str]:
    """What differs between the run that is there and the one asked for, in words; ``more`` knobs may have grown."""
    if before["kind"] != now["kind"]:
        return [f"kind {before['kind']} → {now['kind']}"]
    grown = {k for k in more if before.get(k) and now[k] > before[k]}
    changed = [key for key in {**now, **before} if before.get(key) != now.get(key) and key not in grown]
    return [
        f"{key} (sha256 {_short(before.get(key))} → {_short(now.get(key))})"
        if key.startswith("input ")
        else f"--{key.replace('_', '-')} {before.get(key)!r} → {now.get(key)!r}"
        for key in changed
    ]


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest if ":" in digest else digest[:12]


def _relative(path: str, folder: Path) -> str:
    """Paths that exist are kept relative to the artifact, so that a tree of artifacts can be moved."""
    return os.path.relpath(path, folder) if Path(path).exists() else path


def _of_a_run(path: Path) -> bool:
    """Whether a file serves to go on with a run: half-written ones, and checkpoints, which are sealed apart."""
    first, *below = path.parts
    return path.suffix in (".tmp", ".part") or (first == "checkpoints" and below[0].startswith("checkpoint-"))


def _inside_nested(path: Path, folder: Path) -> bool:
    """Whether a file belongs to an artifact inside this one, which vouches for it itself."""
    return any(is_artifact(p) for p in path.parents if folder in p.parents)
