"""A limit on the time of a training run."""

import time


class TimeLimit:
    """``--max-minutes``: time for training, over all attempts on an output folder.

    Args:
        minutes: the limit; 0: none.
        spent: seconds that earlier attempts took.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.minutes, self._start = minutes, time.monotonic() - spent

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start

    @property
    def reason(self) -> str:
        """Why the run stops, or "" while there is time left."""
        return f"{REASON} {self.minutes:g}" if self.minutes and self.spent >= 60 * self.minutes else ""


REASON = "--max-minutes"
"""Beginning of the reason for stopping."""
