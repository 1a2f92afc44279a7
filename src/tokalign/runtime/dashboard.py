"""Training progress on stderr: a live panel on a terminal, a plain line every 20 seconds elsewhere."""

import sys
import time
from collections import defaultdict
from typing import Any

from tokalign.runtime.progress import Progress

ROWS = {
    "win_rate": ("win rate, %", ".1f"),
    "reward": ("reward", ".3f"),
    "kl": ("KL, nats per response", ".2f"),
    "length": ("length, tokens", ".1f"),
    "entropy": ("entropy, nats", ".3f"),
    "explained_variance": ("explained variance", ".2f"),
    "clip_fraction": ("clip fraction", ".3f"),
    "tokens_per_second": ("tokens/s", ".0f"),
}
"""Metric → label and number format."""
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""Number of steps in a sparkline."""


class Dashboard(Progress):
    """``with Dashboard("train-ppo", steps) as bar: bar.advance(1, **metrics)``."""

    def __init__(self, label: str, total: int, quiet: bool = False) -> None:
        super().__init__(label, total, quiet)
        self._history: dict[str, list[float]] = defaultdict(list)
        self._live: Any = None

    def __enter__(self) -> "Dashboard":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        return self

    def say(self, line: str) -> None:
        """Print a line above the panel."""
        if self._live is None:
            super().say(line)
        else:
            self._live.console.print(f"{self.label}: {line}", markup=False, highlight=False)

    def advance(self, n: int = 1, **numbers: float) -> None:
        """Count ``n`` more steps and show these metrics."""
        for key in ROWS:
            if key in numbers:
                self._history[key].append(numbers[key])
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
            if history := self._history[key]:
                table.add_row(
                    Text(name), Text(format(history[-1], spec), justify="right"), Text(spark(history[-WIDTH:]))
                )
        pace = (time.monotonic() - self._start) / max(self.done - self._before, 1)
        minutes, seconds = divmod(round((self.total - self.done) * pace), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        return Panel(
            table,
            title=f"{self.label} · step {self.done} of {self.total} · {pace:.1f} s per step · {left} left",
            title_align="left",
            expand=False,
        )

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


def spark(history: list[float]) -> str:
    """Draw numbers as a line of bars, scaled between their minimum and maximum."""
    low, high = min(history), max(history)
    return "".join(BARS[round((x - low) / (high - low) * (len(BARS) - 1)) if high > low else 0] for x in history)
