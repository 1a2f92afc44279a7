"""When the next call may leave: rate limits as the service tells them, and a cap on spending."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from tokalign.claude.journal import Journal
from tokalign.claude.retry import nap
from tokalign.errors import BudgetError

_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
"""Of ``anthropic-ratelimit-KIND-remaining`` and ``-reset``."""


class RateLimiter:
    """Holds calls back while the service has none left for us, and has fewer under way once it has said so.

    Args:
        most: calls under way at a time, at most.
    """

    def __init__(self, most: int) -> None:
        self._most, self._allowed, self._out = most, float(most), 0
        self._until = 0.0
        self._changed = asyncio.Condition()

    @property
    def left(self) -> float:
        """Seconds until a call may leave."""
        return max(0.0, self._until - time.monotonic())

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Room for one call, once there is.

        Raises:
            StoppedError: the end was asked for meanwhile.
        """
        while True:
            await nap(self.left)
            async with self._changed:
                if self._out < max(1, int(self._allowed)) and not self.left:
                    self._out += 1
                    break
                if not self.left:
                    await self._changed.wait()
        try:
            yield
        finally:
            async with self._changed:
                self._out -= 1
                self._changed.notify_all()

    def refuse(self, headers: Mapping[str, str]) -> None:
        """The service has had too much: wait as long as it says, and then have half as many calls under way."""
        if not self.left:  # the others that left with this one say the same
            self._allowed = max(1.0, self._allowed / 2)
        self._pause(retry_after(headers) or 0.0)

    def learn(self, headers: Mapping[str, str]) -> None:
        """An answer came: of what it says is left; where that is nothing, calls wait for the reset."""
        self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
        for kind in _KINDS:
            if headers.get(f"anthropic-ratelimit-{kind}-remaining") == "0":
                self._pause(_seconds_to(headers.get(f"anthropic-ratelimit-{kind}-reset", "")))

    def _pause(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() + seconds)


def _seconds_to(moment: str) -> float:
    try:
        return max(0.0, datetime.fromisoformat(moment).timestamp() - time.time())
    except ValueError:
        return 1.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks us to wait, if it does."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


class Budget:
    """Reserves the most that a call can cost before it leaves.

    Args:
        journal: what is paid, perhaps paid, and under way.
        cap: US dollars for all of it; None: no cap.
    """

    def __init__(self, journal: Journal, cap: float | None) -> None:
        self.journal, self.cap = journal, cap
        self.closed = False
        """Whether nothing may leave any more."""
        self._changed = asyncio.Condition()

    async def reserve(self, key: str, most: float) -> bool:
        """Write the call down as sent, once its price fits under the cap; whether it may leave.

        Raises:
            BudgetError: it does not fit, and no call under way can make room.
        """
        async with self._changed:
            while not self.closed and self.cap is not None and self.journal.committed + most > self.cap:
                if not self.journal.reserved:
                    raise over_the_cap(self.journal, most, self.cap)
                await self._changed.wait()
            if not self.closed:
                self.journal.send(key, most)
            return not self.closed

    async def settled(self) -> None:
        """A call has ended, or all are to: those that wait look again."""
        async with self._changed:
            self._changed.notify_all()


def over_the_cap(journal: Journal, most: float, cap: float | None) -> BudgetError:
    """What is said when a call that can cost ``most`` does not fit."""
    return BudgetError(
        f"${journal.spent:.4f} are spent and ${journal.perhaps:.4f} perhaps; the next call can cost ${most:.4f}, "
        f"over the cap of ${cap or 0:.4f}",
        remedy="raise --max-cost and run the same command again: nothing is paid twice",
    )
