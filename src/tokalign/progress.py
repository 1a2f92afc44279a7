"""Telling the user how far a stage is: a bar on a terminal, a plain line now and then elsewhere. On stderr."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
EVERY = 20.0
"""Seconds between plain lines."""


class Progress:
    """``with Progress("diff", total) as bar: bar.advance(n)``."""

    def __init__(self, label: str, total: int, quiet: bool = False) -> None:
        self.label, self.total, self.quiet = label, total, quiet
        self.done = 0
        self._start = self._said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}", markup=False),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, rate="")
        return self

    def advance(self, n: int = 1, **numbers: float) -> None:
        """``n`` more are done; ``numbers`` are worth a look."""
        self.done += n
        now = time.monotonic()
        rate = self.done / max(now - self._start, 1e-9)
        extra = " ".join(f"{k} {v:.4g}" for k, v in numbers.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{rate:.1f}/s {extra}")
        elif not self.quiet and now - self._said >= EVERY:
            self._said = now
            left = (self.total - self.done) / rate
            print(f"{self.label}: {self.done}/{self.total} {rate:.1f}/s {extra} {left:.0f} s left", file=sys.stderr)

    def over(self, items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
        """Slices of ``items``; each counts as done when the next is asked for."""
        for i in range(0, len(items), size):
            part = items[i : i + size]
            yield part
            self.advance(len(part))

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """``items``, counted as they pass."""
        for item in items:
            yield item
            self.advance()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
