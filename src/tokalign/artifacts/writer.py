"""Write artifacts: atomically, by one process at a time, resuming after a kill.

Repeating a run does nothing if it is finished and resumes it if it is not. A run with other settings is refused without
``--fresh`` (see :func:`writing`).
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from tokalign.config.sharding import Shard, ShardOptions
from tokalign.errors import ConflictError, InputError, UsageError
from tokalign.runtime import invocation, signals
from tokalign.runtime.disk import finite, hash_json, sealed, sha256, sync, write_at

_LIBRARIES = ("datasets", "numpy", "pyarrow", "rapidfuzz", "tokenizers", "torch", "transformers")


class Writer:
    """An artifact that is being written. Created by :func:`writing`."""

    def __init__(self, folder: Path, kind: str, config: StageOptions, inputs: Mapping[str, dict[str, Any]]) -> None:
        self.folder, self.kind, self.config = folder, kind, config
        # Input options are left out: the inputs are compared by content, not by path.
        self.options = config.select("rows", "more", "limit")
        self.inputs = [
            {"name": name, **entry, "path": _relative_path(entry["path"], folder)} for name, entry in inputs.items()
        ]
        self.space = Workspace(folder, None)
        """The files of the run; read-only until :func:`writing` sets the plan."""
        self.finished: Manifest | None = None
        """The manifest, if the run is already finished."""
        self.resumed = False
        """Whether an earlier attempt of the same run left files."""
        self.again = False
        """Whether a finished run retries its failed rows. The old manifest is kept until the new one is written."""
        self._start = time.perf_counter()
        self._rows: RowFile | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the rows: the options, and the inputs by content."""
        contents = {f"input {i['name']}": i["sha256"] for i in self.inputs}
        return {"kind": self.kind, **self.options, **contents}

    def rows(self, name: str = "data.jsonl", head: bytes = b"", tail: bytes = b"", shard: int = 0) -> RowFile:
        """Return a resumable data file; the arguments are those of :class:`RowFile`."""
        self._rows = RowFile(self.space, name, head, tail, shard)
        return self._rows

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yield a temporary path for a data file, which is moved to ``name`` when the block ends without an error."""
        with self.space.saving() as scratch:
            yield scratch / name

    def _shard(self) -> dict[str, Any]:
        """With ``--shard``, what ``tokalign merge`` needs to know about this shard of a run."""
        if self._rows is None or not isinstance(self.config, ShardOptions) or self.config.shard is None:
            return {}
        return {"shard": {**Shard.parse(self.config.shard)._asdict(), "tally": self._rows.tally}}

    def part(
        self, kind: str, config: StageOptions, inputs: Mapping[str, dict[str, Any]], name: str
    ) -> AbstractContextManager["Writer"]:
        """Like :func:`writing`, for an artifact nested in this one. It is deleted together with this one."""
        return writing(kind, replace(config, fresh=False), inputs, self.space.part(name))

    def jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write rows as JSON lines; return their number."""
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
        notes: Sequence[str] = (),
    ) -> Manifest:
        """Write the manifest, which finishes the artifact, and return it. ``notes`` become a part of its ``stats``."""
        files = []
        counted = self._rows.files if self._rows else {"data.jsonl": rows["out"]}
        names = [name for name in self.space.names() if (self.folder / name).is_file() and name != PROGRESS]
        checkpoints = [name for name in names if name.startswith(f"{CHECKPOINTS}/")]
        for name in sorted({*names} - {*checkpoints}):
            path = self.folder / name
            sync(path)
            entry = {"name": name, "sha256": sha256(path), "bytes": path.stat().st_size}
            files.append({**entry, "rows": counted[name]} if name in counted else entry)
        told = {**(stats or {}), **({"notes": list(notes)} if notes else {}), **self._shard()}
        plan = self.space.plan
        manifest = Manifest(
            kind=self.kind,
            version=KINDS[self.kind].version,
            tokalign=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=invocation.command(),
            config=self.config.select("rows", "more", "limit", "run", "input", "out"),
            config_hash=hash_json(self.fingerprint),
            seed=self.config.seed,
            inputs=self.inputs,
            files=files,
            rows={"skipped": 0, "failed": 0, "reasons": {}, **rows},
            stats=stats_schemas.check(self.kind, finite(told)),
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
    """Delete the temporary files of a finished run and the artifact that it replaced."""
    kept = workspace.drop(folder, space.plan)
    space.sweep()
    if PROGRESS in space.names():
        (folder / PROGRESS).unlink(missing_ok=True)
    (folder / PLAN).unlink(missing_ok=True)
    for path in kept:
        _print(config, f"keeping {path}: some of its files are not in its manifest or differ from it")


def _print(config: StageOptions, line: str) -> None:
    if not config.quiet:
        print(f"tokalign: {line}", file=sys.stderr)


@contextmanager
def writing(
    kind: str, config: StageOptions, inputs: Mapping[str, dict[str, Any]], out: Path | None = None
) -> Iterator[Writer]:
    """Lock the output folder and yield a :class:`Writer` for it.

    If the folder holds the same run, finished, ``finished`` is its manifest and there is nothing to do. If it holds a
    part of the same run, ``resumed`` is True and its files can be used. With ``--fresh``, an existing artifact is moved
    to a sibling folder, and moved back if this run is refused. Files of the user are never touched. Signals take effect
    at the next :func:`tokalign.runtime.signals.check`.

    Args:
        kind: kind of the artifact.
        config: options of the command.
        inputs: the lineage (with ``path``) of each input, by name.
        out: output folder, if not ``config.out``.

    Raises:
        ConflictError: the folder holds another run or other files; the message names the differences or the files.
        LockedError: another process is writing to the folder.
    """
    folder = out or config.out
    made = not os.path.lexists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
        raise ConflictError(f"{folder} is a file, not a folder", remedy="choose another --out") from e
    look(folder)  # check before locking, because the lock creates a file
    with locked(folder), signals.patiently():
        writer = Writer(folder, kind, config, inputs)
        found = _finish_move(writer, look(folder))
        if not config.fresh:
            _check_run(writer, found)
        if writer.finished is None:
            _prepare(writer, found)
        elif found.plan is not None:  # killed after the manifest was written
            _tidy(folder, Workspace(folder, found.plan), config)
        try:
            yield writer
        except ConflictError:  # a file of the user has a name that the run needs: the run can resume once it is moved
            raise
        except (InputError, UsageError):  # the request is invalid: restore the earlier state
            begun = any(name.startswith(f"{CHECKPOINTS}/") for name in writer.space.names())
            if writer.finished is None and not (writer.resumed or begun):
                _undo(writer, made)
            raise


def _finish_move(writer: Writer, found: Found) -> Found:
    """Finish or undo the move of an earlier artifact that a kill interrupted."""
    plan = found.plan
    if plan is None or plan.replaces is None or plan.made or plan.parts:
        return found
    if writer.config.fresh or plan.fingerprint != writer.fingerprint:
        workspace.restore(writer.folder, plan)
        return look(writer.folder)
    workspace.complete(writer.folder, plan)
    return Found(None, plan)


def _check_run(writer: Writer, found: Found) -> None:
    """Compare the folder with this run and set ``finished``, ``resumed`` and ``again``; refuse another run."""
    folder, existing = writer.folder, found.manifest
    if existing is None and found.plan is None:
        return
    before = existing.fingerprint(writer.options) if existing else found.plan.fingerprint if found.plan else {}
    # Options that an older version did not have count as their defaults, which keep the old behaviour.
    before = {**{k: v for k, v in writer.config.defaults().items() if k in writer.options}, **before}
    if changes := _changes(before, writer.fingerprint, writer.config, finished=existing is not None):
        run = "another run" if existing else "another unfinished run"
        raise ConflictError(
            f"{folder} holds {run}; changed: {', '.join(changes)}",
            remedy="choose another --out, or pass --fresh to rewrite it",
        )
    if existing and found.plan is None:
        open_artifact(folder)
    if existing and before == writer.fingerprint:
        writer.again = bool(existing.rows.get("failed"))
        writer.finished, writer.resumed = (None, True) if writer.again else (existing, False)
    else:
        writer.resumed = True


def _prepare(writer: Writer, found: Found) -> None:
    """Prepare the folder for a new or resumed run."""
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
            _print(writer.config, f"the previous artifact is in {_replaced_path(folder, plan)} until this run finishes")
    writer.space = Workspace(folder, plan)
    writer.space.save()
    if not writer.again:
        (folder / MANIFEST).unlink(missing_ok=True)  # of a finished run that is now extended


def _replaced_path(folder: Path, plan: workspace.Plan) -> str:
    return os.path.relpath(folder.resolve() / (plan.replaces or ""))


def _undo(writer: Writer, made: bool) -> None:
    """Delete the files of a refused run and restore the artifact that it replaced."""
    folder, plan = writer.folder, writer.space.plan
    workspace.remove_made(folder, plan)
    workspace.restore(folder, plan)
    if made and not any((folder / name).exists() for name in (JOURNAL, ANNOTATIONS)):
        with suppress(OSError):
            (folder / LOCK).unlink()
            folder.rmdir()


def _changes(before: dict[str, Any], now: dict[str, Any], config: StageOptions, *, finished: bool) -> list[str]:
    """Describe the differences between the existing run and the requested one; see the roles of options."""
    if before["kind"] != now["kind"]:
        return [f"kind {before['kind']} → {now['kind']}"]
    grown = {k for k in config.select("more", "limit") if before.get(k) and now[k] > before[k]}
    grown |= {k for k in config.select("limit") if not now[k] or not finished}
    changed = [key for key in {**now, **before} if before.get(key) != now.get(key) and key not in grown]
    return [
        f"{key} (sha256 {_short(before.get(key))} → {_short(now.get(key))})"
        if key.startswith("input ")
        else f"--{key.replace('_', '-')} {before.get(key)!r} → {now.get(key)!r}"
        for key in changed
    ]


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest if ":" in digest else digest[:12]


def _relative_path(path: str, folder: Path) -> str:
    """Make an existing path relative to the artifact, so that a tree of artifacts can be moved."""
    return os.path.relpath(path, folder) if Path(path).exists() else path
