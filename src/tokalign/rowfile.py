"""A data file that grows by appending. A killed run goes on where its last saved state ends."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tokalign import interrupt
from tokalign.artifacts import sync, write_whole

T = TypeVar("T")
PROGRESS = "progress.json"
EVERY = 1.0
"""Seconds of work that a kill may cost."""


class RowFile:
    """Rows taken from the input, rows written, and what was counted on the way; all three survive together.

    ::

        with out.rows() as file:
            for part in file.left(rows, 256):
                file.append_json(work(part))
    """

    def __init__(self, folder: Path, name: str, head: bytes = b"", tail: bytes = b"") -> None:
        self._path, self._part = folder / name, folder / f".{name}.part"
        self._state = folder / PROGRESS
        self._head, self._tail = head, tail
        self.taken = self.written = 0
        self.tally: dict[str, float] = {}
        """What :meth:`count` added up."""

    def __enter__(self) -> "RowFile":
        if not self._part.exists() and self._path.exists():  # killed between the last row and the manifest
            self._path.rename(self._part)
        start = self._restore()
        self._file = self._part.open("r+b" if start else "wb")
        self._file.truncate(start)
        self._file.seek(start)
        if not start:
            self._file.write(self._head)
        self._saved = time.monotonic()
        return self

    def left(self, rows: Iterable[T], size: int) -> Iterator[list[T]]:
        """The rows that are not done yet, ``size`` at a time, always cut at the same places.

        Raises:
            StoppedError: the end was asked for; what has been appended is saved.
        """
        rest = islice(rows, self.taken, None)
        while part := list(islice(rest, size)):
            yield part
            self.taken += len(part)
            if interrupt.asked() or time.monotonic() - self._saved >= EVERY:
                self._save()
            interrupt.check()

    def append(self, data: bytes, rows: int) -> None:
        """Add rows, as the bytes they are on disk."""
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

    def mean(self, name: str) -> float:
        """A number per row written."""
        return self.tally[name] / self.written

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._save()
            self._file.write(self._tail)
        self._file.close()
        if kind is None:
            sync(self._part)
            self._part.replace(self._path)
            sync(self._path.parent)

    def _save(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"file": self._path.name, "bytes": self._file.tell(), "taken": self.taken, "written": self.written}
        write_whole(self._state, json.dumps({**state, "tally": self.tally}))
        self._saved = time.monotonic()

    def _restore(self) -> int:
        """Take up a saved state; returns where in the file it ends."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            if state["file"] != self._path.name or self._part.stat().st_size < state["bytes"]:
                return 0
            self.taken, self.written, self.tally = state["taken"], state["written"], state["tally"]
            return int(state["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0


def group(tally: Mapping[str, float], name: str) -> dict[str, int]:
    """What was counted as ``name/…``."""
    lead = f"{name}/"
    return {key.removeprefix(lead): int(n) for key, n in tally.items() if key.startswith(lead)}
