"""Progress on stderr: a bar on a terminal, a plain line every 20 seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

Sized = TypeVar("Sized", bound=Sequence[Any])
EVERY = 20.0
"""Seconds between plain lines."""


class Progress:
    """``with Progress("diff", total) as bar: bar.advance(n)``. ``done``: items that an earlier run has finished."""

    def __init__(self, label: str, total: int, quiet: bool = False, done: int = 0) -> None:
        self.label, self.total, self.quiet = label, total, quiet
        self.done = self._before = done
        self._start = self._printed = time.monotonic()
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
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, rate="")
        return self

    def skip_to(self, done: int) -> None:
        """Set the number of items that an earlier run has finished."""
        self.done = self._before = done

    def say(self, line: str) -> None:
        """Print a line."""
        if not self.quiet:
            print(f"{self.label}: {line}", file=sys.stderr)

    def advance(self, n: int = 1, **numbers: float) -> None:
        """Count ``n`` more items and show ``numbers``."""
        self.done += n
        now = time.monotonic()
        rate = (self.done - self._before) / max(now - self._start, 1e-9)
        extra = " ".join(f"{k} {v:.4g}" for k, v in numbers.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, total=self.total, rate=f"{pace(rate)} {extra}")
        elif not self.quiet and now - self._printed >= EVERY:
            self._printed = now
            left = (self.total - self.done) / max(rate, 1e-9)
            print(f"{self.label}: {self.done}/{self.total} {pace(rate)} {extra} {left:.0f} s left", file=sys.stderr)

    def parts(self, items: Iterable[Sized]) -> Iterator[Sized]:
        """Yield ``items``; advance by the length of each when the next one is requested."""
        for item in items:
            yield item
            self.advance(len(item))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def pace(rate: float) -> str:
    """Format items per second; below one per second, as seconds per item."""
    return f"{rate:.1f}/s" if rate >= 1 or rate <= 0 else f"{1 / rate:.1f} s each"
