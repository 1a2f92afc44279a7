"""A data file that grows by appending. A killed run goes on where its last saved state ends."""

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
"""Seconds of work that a kill may cost."""


class RowFile:
    """Rows taken from the input, rows written, and what was counted on the way; all three survive together.

    ::

        with out.rows() as file:
            for part in file.left(rows, 256):
                file.append_json(work(part))
    """

    def __init__(self, space: Workspace, name: str, head: bytes = b"", tail: bytes = b"", shard: int = 0) -> None:
        self._space, self._folder, self._name, self._state = space, space.folder, Path(name), space.folder / PROGRESS
        self._head, self._tail, self._shard = head, tail, shard
        self._full: list[int] = []
        """Rows of the shards that are full."""
        self.taken = self.written = 0
        self.tally: dict[str, float] = {}
        """What :meth:`count` added up."""

    def __enter__(self) -> "RowFile":
        """Open the file, where an earlier run left it.

        Raises:
            InputError: what that left is damaged.
            ConflictError: something else has the name.
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
        """The rows that are not done yet, ``size`` at a time, always cut at the same places; see :meth:`done`."""
        rest = islice(rows, self.taken, None)
        while part := list(islice(rest, size)):
            yield part

    def done(self, rows: int) -> None:
        """So many more rows of the input are done with.

        Raises:
            StoppedError: the end was asked for; what has been appended is saved.
        """
        self.taken += rows
        if signals.asked() or time.monotonic() - self._saved >= EVERY:
            self._save()
        signals.check()

    def left(self, rows: Iterable[T], size: int) -> Iterator[list[T]]:
        """:meth:`parts`, each done with when the next is asked for."""
        for part in self.parts(rows, size):
            yield part
            self.done(len(part))

    def append(self, data: bytes, rows: int) -> None:
        """Add rows, as the bytes they are on disk."""
        if self._shard and self.written - sum(self._full) >= self._shard:
            self._close()
            self._full.append(self.written - sum(self._full))
            self._open("wb")
            self._file.write(self._head)
        self._file.write(data)
        self.written += rows

    def append_json(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows as JSON lines."""
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        self.append("".join(line + "\n" for line in lines).encode(), len(lines))

    def count(self, numbers: Mapping[str, float]) -> None:
        """Add to numbers that are kept by name; see :func:`group`."""
        for name, n in numbers.items():
            self.tally[name] = self.tally.get(name, 0) + n

    def count_most(self, name: str, numbers: Mapping[str, float], most: int) -> None:
        """Keep the largest of numbers that are counted as ``name/…``."""
        found = {**group(self.tally, name), **numbers}
        best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
        rest = {key: n for key, n in self.tally.items() if not key.startswith(f"{name}/")}
        self.tally = {**rest, **{f"{name}/{key}": n for key, n in best}}

    def mean(self, name: str) -> float:
        """A number per row written."""
        return self.tally[name] / self.written

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
    """When all is written: the names of the files, with the rows of each."""

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
        """Undo the names of a run that was killed between the last row and the manifest."""
        if not self._state.exists():  # what lies there is of a run that came to its end
            return
        stem, suffix, mine = self._name.stem, self._name.suffix, set(self._space.names())
        for path in self._folder.glob(f"{stem}-?????-of-?????{suffix}"):
            if path.name in mine:
                self._space.renamed(path.name, self._part_of(int(path.name.split("-")[-3])).name)
        whole = self._folder / self._name
        if whole.name in mine and whole.exists() and not self._part_of(0).exists():
            self._space.renamed(whole.name, self._part_of(0).name)

    def _save(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        where = {"file": str(self._name), "full": self._full, "bytes": self._file.tell()}
        done = {"taken": self.taken, "written": self.written, "tally": self.tally}
        self._space.write(PROGRESS, sealed({**where, **done}))
        self._saved = time.monotonic()

    def _restore(self) -> int:
        """Take up a saved state; returns where in the file at hand it ends."""
        if not os.path.lexists(self._state):
            return 0
        try:
            state, is_sealed = unseal(read_regular(self._state))
            full, size = [int(n) for n in state["full"]], int(state["bytes"])
            there = all(self._part_of(shard).exists() for shard in range(len(full)))
            if not is_sealed or state["file"] != str(self._name):
                raise ValueError("not the state of this run")
            if not there or self._part_of(len(full)).stat().st_size < size:
                raise ValueError("more was written than is there")
            self.taken, self.written, self.tally = state["taken"], state["written"], state["tally"]
            self._full = full
            return size
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(
                f"how far the run came cannot be read: {e}",
                where=str(self._state),
                remedy="bring the file back, or begin anew with --fresh (what was paid is not paid again)",
            ) from e


def group(tally: Mapping[str, float], name: str) -> dict[str, int]:
    """What was counted as ``name/…``."""
    lead = f"{name}/"
    return {key.removeprefix(lead): int(n) for key, n in tally.items() if key.startswith(lead)}
