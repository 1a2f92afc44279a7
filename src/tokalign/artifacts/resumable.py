"""Data files that are written by appending. A killed run resumes from its last saved state."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tokalign.artifacts.workspace import PROGRESS, Workspace
from tokalign.errors import InputError
from tokalign.runtime import signals
from tokalign.runtime.disk import read_regular, sealed, sync, unseal

T = TypeVar("T")
EVERY = 1.0
"""Seconds between saved states: the most work that a kill can lose."""


class RowFile:
    """A data file together with its progress: input rows processed, rows written and counters, saved as one state.

    ::

        with out.rows() as file:
            for part in file.left(rows, 256):
                file.append_json(work(part))

    Args:
        space: workspace of the run.
        name: file name. With several shards, the files are named ``STEM-00000-of-00002.SUFFIX``.
        head: bytes at the start of every shard.
        tail: bytes at the end of every shard.
        shard: rows per shard; 0 writes a single file.
    """

    def __init__(self, space: Workspace, name: str, head: bytes = b"", tail: bytes = b"", shard: int = 0) -> None:
        self._space, self._folder, self._name, self._state = space, space.folder, Path(name), space.folder / PROGRESS
        self._head, self._tail, self._shard = head, tail, shard
        self._full: list[int] = []
        """Number of rows in each complete shard."""
        self.taken = self.written = 0
        self.tally: dict[str, float] = {}
        """Sums of the numbers that were passed to :meth:`count`."""

    def __enter__(self) -> "RowFile":
        """Open the file and resume after the rows of an earlier run.

        Raises:
            InputError: the saved state of the earlier run is damaged.
            ConflictError: another file has this name.
        """
        for name in (str(self._name), PROGRESS):
            self._space.refuse_taken(name)
        self._reopen()
        start = self._restore()
        self._open("r+b" if start else "wb")
        self._file.truncate(start)
        self._file.seek(start)
        if not start:
            self._file.write(self._head)
        self._saved = time.monotonic()
        return self

    def parts(self, rows: Iterable[T], size: int) -> Iterator[list[T]]:
        """Yield the remaining rows in chunks of ``size``. A resumed run gets the same chunks; see :meth:`done`."""
        remaining = islice(rows, self.taken, None)
        while part := list(islice(remaining, size)):
            yield part

    def done(self, rows: int) -> None:
        """Mark ``rows`` more input rows as processed; save the state once per second.

        Raises:
            StoppedError: SIGINT or SIGTERM was received; the state has been saved.
        """
        self.taken += rows
        if signals.received() or time.monotonic() - self._saved >= EVERY:
            self._save()
        signals.check()

    def left(self, rows: Iterable[T], size: int) -> Iterator[list[T]]:
        """Like :meth:`parts`, but call :meth:`done` for each chunk when the next one is requested."""
        for part in self.parts(rows, size):
            yield part
            self.done(len(part))

    def append(self, data: bytes, rows: int) -> None:
        """Append serialised rows; ``rows`` is their number."""
        if self._shard and self.written - sum(self._full) >= self._shard:
            self._close()
            self._full.append(self.written - sum(self._full))
            self._open("wb")
            self._file.write(self._head)
        self._file.write(data)
        self.written += rows

    def append_json(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows as JSON lines."""
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        self.append("".join(line + "\n" for line in lines).encode(), len(lines))

    def count(self, numbers: Mapping[str, float]) -> None:
        """Add numbers to the counters of the same names; see :func:`group`."""
        for name, n in numbers.items():
            self.tally[name] = self.tally.get(name, 0) + n

    def count_most(self, name: str, numbers: Mapping[str, float], limit: int) -> None:
        """Keep the ``limit`` largest of the counters ``name/…`` and ``numbers``."""
        self.tally = with_largest(self.tally, name, numbers, limit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._file.close()
            return
        self._save()
        self._close()
        sizes = self._sizes()
        for shard, name in enumerate(sizes):
            self._space.renamed(self._part_of(shard).name, name)
        sync(self._folder)
        self.files = sizes

    files: Mapping[str, int] = {}
    """File name → number of rows. Set when the block ends."""

    def _sizes(self) -> dict[str, int]:
        rows = [*self._full, self.written - sum(self._full)]
        if len(rows) == 1:
            return {str(self._name): rows[0]}
        return {f"{self._name.stem}-{k:05d}-of-{len(rows):05d}{self._name.suffix}": n for k, n in enumerate(rows)}

    def _part_of(self, shard: int) -> Path:
        return self._folder / f".{shard:05d}.{self._name}.part"

    @property
    def _part(self) -> Path:
        return self._part_of(len(self._full))

    def _open(self, mode: str) -> None:
        self._space.claim(self._part.name)
        self._file = self._part.open(mode)

    def _close(self) -> None:
        self._file.write(self._tail)
        self._file.close()
        sync(self._part)

    def _reopen(self) -> None:
        """Rename final files back to parts, after a kill between the last row and the manifest."""
        if not self._state.exists():  # any files are those of a finished run
            return
        stem, suffix, own = self._name.stem, self._name.suffix, set(self._space.names())
        for path in self._folder.glob(f"{stem}-?????-of-?????{suffix}"):
            if path.name in own:
                self._space.renamed(path.name, self._part_of(int(path.name.split("-")[-3])).name)
        whole = self._folder / self._name
        if whole.name in own and whole.exists() and not self._part_of(0).exists():
            self._space.renamed(whole.name, self._part_of(0).name)

    def _save(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        where = {"file": str(self._name), "full": self._full, "bytes": self._file.tell()}
        done = {"taken": self.taken, "written": self.written, "tally": self.tally}
        self._space.write(PROGRESS, sealed({**where, **done}))
        self._saved = time.monotonic()

    def _restore(self) -> int:
        """Load the saved state. Returns the length of the current part in bytes, or 0 if there is no state."""
        if not os.path.lexists(self._state):
            return 0
        try:
            state, is_sealed = unseal(read_regular(self._state))
            full, size = [int(n) for n in state["full"]], int(state["bytes"])
            exist = all(self._part_of(shard).exists() for shard in range(len(full)))
            if not is_sealed or state["file"] != str(self._name):
                raise ValueError("it is the state of another run")
            if not exist or self._part_of(len(full)).stat().st_size < size:
                raise ValueError("the data file is missing or too short")
            self.taken, self.written, self.tally = state["taken"], state["written"], state["tally"]
            self._full = full
            return size
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(
                f"cannot read the progress of the run: {e}",
                where=str(self._state),
                remedy="restore the file, or start again with --fresh (answers that were paid for are reused)",
            ) from e


def with_largest(tally: Mapping[str, float], name: str, numbers: Mapping[str, float], limit: int) -> dict[str, float]:
    """Return a tally with only the ``limit`` largest of its counters ``name/…`` and ``numbers``."""
    found = {**group(tally, name), **numbers}
    largest = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:limit]
    remaining = {key: n for key, n in tally.items() if not key.startswith(f"{name}/")}
    return {**remaining, **{f"{name}/{key}": n for key, n in largest}}


def group(tally: Mapping[str, float], name: str) -> dict[str, int]:
    """Return the counters ``name/KEY`` of a tally as ``{KEY: count}``."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): int(n) for key, n in tally.items() if key.startswith(prefix)}
