"""A training as it runs: one panel on a terminal, a plain line now and then elsewhere. On stderr."""

import sys
import time
from collections import defaultdict
from typing import Any

from tokalign.runtime.progress import Progress

ROWS = {
    "win_rate": ("win rate, %", ".1f"),
    "reward": ("reward", ".3f"),
    "kl": ("KL, nats a response", ".2f"),
    "length": ("length, tokens", ".1f"),
    "entropy": ("entropy, nats", ".3f"),
    "explained_variance": ("explained variance", ".2f"),
    "clip_fraction": ("clip fraction", ".3f"),
    "tokens_per_second": ("tokens/s", ".0f"),
}
"""Metric → how it is called and written."""
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""Steps of which a line shows the course."""


class Dashboard(Progress):
    """``with Dashboard("train-ppo", steps) as bar: bar.advance(1, **metrics)``."""

    def __init__(self, label: str, total: int, quiet: bool = False) -> None:
        super().__init__(label, total, quiet)
        self._course: dict[str, list[float]] = defaultdict(list)
        self._live: Any = None

    def __enter__(self) -> "Dashboard":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        return self

    def say(self, line: str) -> None:
        """A line of its own, above the panel."""
        if self._live is None:
            super().say(line)
        else:
            self._live.console.print(f"{self.label}: {line}", markup=False, highlight=False)

    def advance(self, n: int = 1, **numbers: float) -> None:
        """``n`` more steps are done, with these metrics."""
        for key in ROWS:
            if key in numbers:
                self._course[key].append(numbers[key])
        if self._live is None:
            super().advance(n, **{k: numbers[k] for k in ("win_rate", "reward", "kl", "length") if k in numbers})
            return
        self.done += n
        self._live.update(self._panel(), refresh=True)

    def _panel(self) -> Any:
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for key, (name, spec) in ROWS.items():
            if course := self._course[key]:
                table.add_row(Text(name), Text(format(course[-1], spec), justify="right"), Text(spark(course[-WIDTH:])))
        took = (time.monotonic() - self._start) / max(self.done - self._before, 1)
        minutes, seconds = divmod(round((self.total - self.done) * took), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        return Panel(
            table, title=f"{self.label} · step {self.done} of {self.total} · {took:.1f} s a step · {left} left",
            title_align="left", expand=False,
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


def spark(course: list[float]) -> str:
    """Numbers as a line of bars between their least and their greatest."""
    low, high = min(course), max(course)
    return "".join(BARS[round((x - low) / (high - low) * (len(BARS) - 1)) if high > low else 0] for x in course)
