"""When the next call may leave: rate limits as the service tells them, and a cap on spending."""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime

from tokalign.claude.journal import Journal
from tokalign.errors import BudgetError

_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
"""Of ``anthropic-ratelimit-KIND-remaining`` and ``-reset``."""


class Pace:
    """Holds calls back while the service has none left for us."""

    def __init__(self) -> None:
        self._until = 0.0

    async def wait(self) -> None:
        """Until a call may leave."""
        while (left := self._until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def pause(self, seconds: float) -> None:
        """No call for so long."""
        self._until = max(self._until, time.monotonic() + seconds)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Of what an answer says is left; where that is nothing, calls wait for the reset."""
        for kind in _KINDS:
            if headers.get(f"anthropic-ratelimit-{kind}-remaining") == "0":
                self.pause(_seconds_to(headers.get(f"anthropic-ratelimit-{kind}-reset", "")))


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


class Purse:
    """Reserves the most that a call can cost before it leaves.

    Args:
        journal: what is paid, perhaps paid, and under way.
        cap: US dollars for all of it; None: no cap.
    """

    def __init__(self, journal: Journal, cap: float | None) -> None:
        self.journal, self.cap = journal, cap
        self._changed = asyncio.Condition()

    async def reserve(self, key: str, most: float) -> None:
        """Write the call down as sent, once its price fits under the cap.

        Raises:
            BudgetError: it does not, and no call under way can make room.
        """
        async with self._changed:
            while self.cap is not None and self.journal.committed + most > self.cap:
                if not self.journal.reserved:
                    raise over_the_cap(self.journal, most, self.cap)
                await self._changed.wait()
            self.journal.send(key, most)

    async def settled(self) -> None:
        """A call has ended: those that wait look again."""
        async with self._changed:
            self._changed.notify_all()


def over_the_cap(journal: Journal, most: float, cap: float | None) -> BudgetError:
    """What is said when a call that can cost ``most`` does not fit."""
    return BudgetError(
        f"${journal.spent:.4f} are spent and ${journal.perhaps:.4f} perhaps; the next call can cost ${most:.4f}, "
        f"over the cap of ${cap or 0:.4f}",
        remedy="raise --max-cost and run the same command again: nothing is paid twice",
    )
