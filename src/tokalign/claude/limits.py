"""Limits on calls: the API's rate limits and the budget."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from tokalign.claude.journal import Journal
from tokalign.claude.retry import sleep
from tokalign.errors import BudgetError

_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
"""KIND in the headers ``anthropic-ratelimit-KIND-remaining`` and ``anthropic-ratelimit-KIND-reset``."""


class RateLimiter:
    """Limits concurrent calls. Halves the limit after a 429 response, and pauses until the time that the API gives.

    Args:
        limit: maximum number of concurrent calls.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._allowed, self._active = limit, float(limit), 0
        self._resume_at = 0.0
        self._changed = asyncio.Condition()

    @property
    def wait_time(self) -> float:
        """Seconds until the next call may be sent."""
        return max(0.0, self._resume_at - time.monotonic())

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait until one more call is allowed; the context is the duration of the call.

        Raises:
            StoppedError: the run was interrupted while waiting.
        """
        while True:
            await sleep(self.wait_time)
            async with self._changed:
                if self._active < max(1, int(self._allowed)) and not self.wait_time:
                    self._active += 1
                    break
                if not self.wait_time:
                    await self._changed.wait()
        try:
            yield
        finally:
            async with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def refuse(self, headers: Mapping[str, str]) -> None:
        """Handle a rate-limit response: halve the number of concurrent calls and pause for ``retry-after`` seconds."""
        if not self.wait_time:  # concurrent calls that are refused together count once
            self._allowed = max(1.0, self._allowed / 2)
        self._pause(retry_after(headers) or 0.0)

    def update(self, headers: Mapping[str, str]) -> None:
        """Handle the headers of an answer: raise the limit again, and pause until the reset if nothing remains."""
        self._allowed = min(float(self._limit), self._allowed + 1 / self._allowed)
        for kind in _KINDS:
            if headers.get(f"anthropic-ratelimit-{kind}-remaining") == "0":
                self._pause(_seconds_until(headers.get(f"anthropic-ratelimit-{kind}-reset", "")))

    def _pause(self, seconds: float) -> None:
        self._resume_at = max(self._resume_at, time.monotonic() + seconds)


def _seconds_until(timestamp: str) -> float:
    try:
        return max(0.0, datetime.fromisoformat(timestamp).timestamp() - time.time())
    except ValueError:
        return 1.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in the ``retry-after`` header, or None."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


class Budget:
    """Reserves the maximum cost of a call before it is sent.

    Args:
        journal: records paid and reserved amounts.
        limit: budget in US dollars over all runs with this journal; None: unlimited.
    """

    def __init__(self, journal: Journal, limit: float | None) -> None:
        self.journal, self.limit = journal, limit
        self.closed = False
        """Whether further calls are refused."""
        self._changed = asyncio.Condition()

    async def reserve(self, key: str, max_cost: float) -> bool:
        """Wait until a call fits within the budget and record it as sent.

        Returns:
            Whether the call may be sent; False if the budget is closed.

        Raises:
            BudgetError: the call does not fit, and no call in progress can free any money.
        """
        async with self._changed:
            while not self.closed and self.limit is not None and self.journal.committed + max_cost > self.limit:
                if not self.journal.reserved:
                    raise over_budget(self.journal, max_cost, self.limit)
                await self._changed.wait()
            if not self.closed:
                self.journal.send(key, max_cost)
            return not self.closed

    async def settled(self) -> None:
        """Wake up waiting reservations after a call has ended or the budget was closed."""
        async with self._changed:
            self._changed.notify_all()


def over_budget(journal: Journal, max_cost: float, limit: float | None) -> BudgetError:
    """Build the error for a call that can cost ``max_cost`` US dollars and does not fit within the budget."""
    return BudgetError(
        f"${journal.spent:.4f} spent, and up to ${journal.perhaps:.4f} for calls with unknown outcome; the next call "
        f"can cost up to ${max_cost:.4f}, over the budget of ${limit or 0:.4f}",
        remedy="raise --max-cost and run the same command again; no answer is paid for twice",
    )
