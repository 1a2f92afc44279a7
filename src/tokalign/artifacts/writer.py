"""Writing an artifact: one process at a time, whole or not at all, and on from where a killed run ended.

Making the same thing again does nothing when it is finished and goes on when it is not; making another thing
over it is refused without ``--fresh`` (see :func:`writing`).
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tokalign import __version__
from tokalign.artifacts import stats as stats_schemas
from tokalign.artifacts import workspace
from tokalign.artifacts.manifest import ANNOTATIONS, JOURNAL, MANIFEST, PLAN, Manifest, open_artifact
from tokalign.artifacts.resumable import RowFile
from tokalign.artifacts.schemas import KINDS
from tokalign.artifacts.workspace import CHECKPOINTS, LOCK, PROGRESS, Found, Workspace, locked, look
from tokalign.config.options import StageOptions
from tokalign.errors import ConflictError, InputError, UsageError
from tokalign.runtime import invocation, signals
from tokalign.runtime.disk import finite, hash_json, sealed, sha256, sync, write_at

_LIBRARIES = ("datasets", "numpy", "pyarrow", "rapidfuzz", "tokenizers", "torch", "transformers")


class Writer:
    """One artifact being written. Use :func:`writing`."""

    def __init__(self, folder: Path, kind: str, config: StageOptions, inputs: Mapping[str, dict[str, Any]]) -> None:
        self.folder, self.kind, self.config = folder, kind, config
        # An option that names an input counts by the content that was read, not by how its path was spelt.
        self.options = config.select("rows", "more")
        self.inputs = [
            {"name": name, **entry, "path": _relative(entry["path"], folder)} for name, entry in inputs.items()
        ]
        self.space = Workspace(folder, None)
        """The files of the run; :func:`writing` lets it write."""
        self.finished: Manifest | None = None
        self.resumed = False
        """Whether something of this very run is there already."""
        self.again = False
        """Whether it is all there, but with rows that failed and are tried again; it stays until they are."""
        self._start = time.perf_counter()
        self._rows: RowFile | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the rows: options, and inputs by content."""
        contents = {f"input {i['name']}": i["sha256"] for i in self.inputs}
        return {"kind": self.kind, **self.options, **contents}

    def rows(self, name: str = "data.jsonl", head: bytes = b"", tail: bytes = b"", shard: int = 0) -> RowFile:
        """A data file that grows by appending and survives a kill; see :class:`RowFile`."""
        self._rows = RowFile(self.space, name, head, tail, shard)
        return self._rows

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write a data file at; it takes its name only when the block ends well."""
        with self.space.saving() as scratch:
            yield scratch / name

    def part(
        self, kind: str, config: StageOptions, inputs: Mapping[str, dict[str, Any]], name: str
    ) -> AbstractContextManager["Writer"]:
        """:func:`writing` of an artifact inside this one that is a part of it: it goes when this one goes."""
        return writing(kind, replace(config, fresh=False), inputs, self.space.part(name))

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
        names = [name for name in self.space.names() if (self.folder / name).is_file() and name != PROGRESS]
        checkpoints = [name for name in names if name.startswith(f"{CHECKPOINTS}/")]
        for name in sorted({*names} - {*checkpoints}):
            path = self.folder / name
            sync(path)
            entry = {"name": name, "sha256": sha256(path), "bytes": path.stat().st_size}
            files.append({**entry, "rows": counted[name]} if name in counted else entry)
        plan = self.space.plan
        manifest = Manifest(
            kind=self.kind,
            version=KINDS[self.kind].version,
            tokalign=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=invocation.command(),
            config=self.config.select("rows", "more", "run", "input", "out"),
            config_hash=hash_json(self.fingerprint),
            seed=self.config.seed,
            inputs=self.inputs,
            files=files,
            rows={"skipped": 0, "failed": 0, "reasons": {}, **rows},
            stats=stats_schemas.check(self.kind, finite(dict(stats or {}))),
            usage=dict(usage or {}),
            libraries={n: metadata.version(n) for n in _LIBRARIES if n in sys.modules},
            seconds=round(plan.spent + time.perf_counter() - self._start, 3),
            parts=list(plan.parts),
            checkpoints=checkpoints,
        )
        text = sealed(asdict(manifest), indent=2)
        write_at(self.space.temporary(MANIFEST), self.folder / MANIFEST, text)
        _tidy(self.folder, self.space, self.config)
        return manifest


def _tidy(folder: Path, space: Workspace, config: StageOptions) -> None:
    """The artifact is whole: what it was made with, and what it replaces, can go."""
    kept = workspace.drop(folder, space.plan)
    space.sweep()
    if PROGRESS in space.names():
        (folder / PROGRESS).unlink(missing_ok=True)
    (folder / PLAN).unlink(missing_ok=True)
    for path in kept:
        _say(config, f"{path} holds files that are not as its manifest says; it stays")


def _say(config: StageOptions, line: str) -> None:
    if not config.quiet:
        print(f"tokalign: {line}", file=sys.stderr)


@contextmanager
def writing(
    kind: str, config: StageOptions, inputs: Mapping[str, dict[str, Any]], out: Path | None = None
) -> Iterator[Writer]:
    """Hold the output folder while a stage writes it.

    If the folder already holds this very run, ``finished`` is its manifest and there is nothing to do; if it
    holds a part of it, ``resumed`` is true and what is there may be used. With ``--fresh`` what was there is moved to
    a folder beside, and comes back if this run is refused. Files of others are left alone, wherever they lie. Signals
    wait for :func:`tokalign.runtime.signals.check`.

    Args:
        kind: what is written.
        config: the stage's options.
        inputs: by name, the ``lineage`` of each input with its ``path``.
        out: the folder, where it is not ``config.out``.

    Raises:
        ConflictError: the folder holds something else; the fields that differ, or the files in the way, are named.
        LockedError: another process writes it.
    """
    folder = out or config.out
    made = not os.path.lexists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
        raise ConflictError(f"{folder} is a file, not a folder", remedy="choose another --out") from e
    look(folder)  # before the lock, which leaves a file
    with locked(folder), signals.patiently():
        writer = Writer(folder, kind, config, inputs)
        found = _settled(writer, look(folder))
        if not config.fresh:
            _compare(writer, found)
        if writer.finished is None:
            _begin(writer, found)
        elif found.plan is not None:  # killed when all was done
            _tidy(folder, Workspace(folder, found.plan), config)
        try:
            yield writer
        except ConflictError:  # something of the user's is in the way: once it is gone, the run can go on
            raise
        except (InputError, UsageError):  # what was asked for cannot be: leave things as they were
            begun = any(name.startswith(f"{CHECKPOINTS}/") for name in writer.space.names())
            if writer.finished is None and not (writer.resumed or begun):
                _undo(writer, made)
            raise


def _settled(writer: Writer, found: Found) -> Found:
    """Go on with, or take back, what a kill left of moving away what was there."""
    plan = found.plan
    if plan is None or plan.replaces is None or plan.made or plan.parts:
        return found
    if writer.config.fresh or plan.fingerprint != writer.fingerprint:
        workspace.restore(writer.folder, plan)
        return look(writer.folder)
    workspace.complete(writer.folder, plan)
    return Found(None, plan)


def _compare(writer: Writer, found: Found) -> None:
    """Find out what is there of this run: all of it, a part, or nothing."""
    folder, there = writer.folder, found.manifest
    if there is None and found.plan is None:
        return
    before = there.fingerprint(writer.options) if there else found.plan.fingerprint if found.plan else {}
    # An option that an older version did not have is taken as its default, which does what was done without it.
    before = {**{k: v for k, v in writer.config.defaults().items() if k in writer.options}, **before}
    if changes := _changes(before, writer.fingerprint, writer.config.select("more")):
        run = "another run" if there else "an unfinished other run"
        raise ConflictError(
            f"{folder} holds {run}; changed: {', '.join(changes)}",
            remedy="choose another --out, or pass --fresh to rewrite it",
        )
    if there and found.plan is None:
        open_artifact(folder)
    if there and before == writer.fingerprint:
        writer.again = bool(there.rows.get("failed"))
        writer.finished, writer.resumed = (None, True) if writer.again else (there, False)
    else:
        writer.resumed = True


def _begin(writer: Writer, found: Found) -> None:
    """Make the folder ready for a run that is not finished."""
    folder, fingerprint = writer.folder, writer.fingerprint
    if writer.resumed:
        if found.plan is not None:
            plan = replace(found.plan, spent=workspace.spent(folder, found.plan), began=time.time())
            workspace.Workspace(folder, plan).sweep()
        else:
            assert found.manifest is not None
            plan = workspace.plan_of(folder, found.manifest, fingerprint)
        plan = replace(plan, fingerprint=fingerprint)
    else:
        plan = workspace.new_plan(fingerprint)
        if found != Found(None, None):
            plan = workspace.replace_in(folder, found, plan)
            _say(writer.config, f"what was there is in {_aside(folder, plan)} until this has come to its end")
    writer.space = Workspace(folder, plan)
    writer.space.save()
    if not writer.again:
        (folder / MANIFEST).unlink(missing_ok=True)  # of a finished run that is asked for more


def _aside(folder: Path, plan: workspace.Plan) -> str:
    return os.path.relpath(folder.resolve() / (plan.replaces or ""))


def _undo(writer: Writer, made: bool) -> None:
    """Remove what a run that was refused has made, and bring back what it replaced."""
    folder, plan = writer.folder, writer.space.plan
    workspace.remove_made(folder, plan)
    workspace.restore(folder, plan)
    if made and not any((folder / name).exists() for name in (JOURNAL, ANNOTATIONS)):
        with suppress(OSError):
            (folder / LOCK).unlink()
            folder.rmdir()


def _changes(before: dict[str, Any], now: dict[str, Any], more: Iterable[str]) -> list[str]:
    """What differs between the run that is there and the one asked for, in words; ``more`` options may have grown."""
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
