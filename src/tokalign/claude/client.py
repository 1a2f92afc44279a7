"""Calls to Claude: each written down before and after, retried by count, within a cap.

The SDK's own retries are off: it would send again what may be paid already, without telling. Answers are journalled as
they came, before anything is read out of them, so that a better parser can read them again without a new call.
"""

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import anthropic

from tokalign.claude.journal import Answer, Journal, key_of
from tokalign.claude.limits import Pace, Purse, retry_after
from tokalign.claude.prices import Rates
from tokalign.config import Paid
from tokalign.errors import ServiceError

T = TypeVar("T")
R = TypeVar("R")
Request = dict[str, Any]
"""Arguments of ``messages.create``."""

_OVERHEAD = 1000
"""Tokens that the service may add to a prompt, for structured answers and the like."""
_AHEAD = 8
"""Calls a place of concurrency may be ahead of the one whose answer is due next."""
_SPENT_OUT = "enforced_spend_limit_reached"
_REFUSALS = {
    401: ("the API key is not accepted", "set ANTHROPIC_API_KEY to a key that is"),
    402: ("the account has no credit", "add credit, then run the same command again"),
    403: ("the key may not do this", "use a key with the right to"),
    404: ("there is no such model for this key", "see --model"),
}
"""Status → what it means for the whole run, and what to do."""


class Failed(NamedTuple):
    """A call that ended without an answer, for good."""

    why: str


class Claude:
    """Asks, under one journal.

    Args:
        journal: where calls are written down.
        rates: of the model.
        knobs: concurrency, cap, retries.

    Raises:
        ServiceError: there is no key.
    """

    def __init__(self, journal: Journal, rates: Rates, knobs: Paid) -> None:
        self.journal, self.rates, self.knobs = journal, rates, knobs
        self.pace, self._purse = Pace(), Purse(journal, knobs.max_cost)
        self._closing = False
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.sdk = anthropic.AsyncAnthropic(max_retries=0, timeout=knobs.timeout)
        if not (self.sdk.api_key or self.sdk.auth_token or self.sdk.credentials):
            raise ServiceError("there is no API key", remedy="set ANTHROPIC_API_KEY")

    async def ask(self, request: Request) -> Answer | Failed:
        """The answer to a request; from the journal, if it was answered before.

        Raises:
            BudgetError: the cap is reached.
            ServiceError: no request can succeed: a key, a right, money, a name.
        """
        key = key_of(request)
        async with self._asking.setdefault(key, asyncio.Lock()):  # two equal requests are paid once
            if key in self.journal:
                return self.journal.recall(key)
            most = self.most(request)
            return most if isinstance(most, Failed) else await self._call(key, request, most)

    def most(self, request: Request, batch: bool = False) -> float | Failed:
        """US dollars that a request can cost at most, or why that cannot be said."""
        tokens, longest = tokens_at_most(request), self.rates.longest_prompt
        if longest is not None and tokens > longest:
            return Failed(f"longer than the {longest} tokens that the price holds for")
        return self.rates.most(tokens, int(request["max_tokens"]), batch)

    async def _call(self, key: str, request: Request, most: float) -> Answer | Failed:
        """Call until there is an answer, or for as often as is allowed."""
        why = ""
        for attempt in range(self.knobs.max_retries + 1):
            if attempt:
                await asyncio.sleep(patience(attempt))
            await self.pace.wait()
            if self._closing:
                return Failed("the run ended")
            await self._purse.reserve(key, most)
            try:
                found = await self._once(key, request)
            finally:
                await self._purse.settled()
            if not isinstance(found, str):
                return found
            why = found
        return Failed(why)

    async def _once(self, key: str, request: Request) -> Answer | Failed | str:
        """One call: the answer, a failure for good, or why to try again."""
        try:
            raw = await self.sdk.messages.with_raw_response.create(**request)
        except anthropic.APIStatusError as e:
            self.journal.refuse(key, str(e.status_code))
            return self.after_status(e)
        except anthropic.APITimeoutError:
            self.journal.lose(key, "timeout")
            return "timeout"
        except anthropic.APIConnectionError as e:
            if never_left(e):
                self.journal.refuse(key, "no connection")
            else:
                self.journal.lose(key, "connection lost")
            return "no connection"
        except asyncio.CancelledError:
            self.journal.lose(key, "the run ended")
            raise
        self.pace.learn(raw.headers)
        try:
            message = json.loads(raw.http_response.text)
            cost = self.rates.cost(message["usage"])
        except (ValueError, KeyError, TypeError, AttributeError):
            self.journal.lose(key, "not an answer")
            return "not an answer"
        self.journal.answer(key, message, cost)
        return Answer(message, cost)

    def after_status(self, error: anthropic.APIStatusError) -> Failed | str:
        """What an error status means: for the run (raises), for this request, or to try again."""
        status, said = error.status_code, str(error.api_message or "")
        # The message of a limit that a customer sets has no code of its own.
        if error.error_code == _SPENT_OUT or "specified API usage limits" in said or "credit balance" in said:
            raise ServiceError("the spending limit of the account is reached", remedy="raise it, then run again")
        if status in _REFUSALS:
            what, remedy = _REFUSALS[status]
            raise ServiceError(f"{what} ({status})", remedy=remedy)
        if status in (408, 409, 429) or status >= 500:
            if (seconds := retry_after(error.response.headers)) is not None:
                self.pace.pause(seconds)
            return str(status)
        return Failed(f"{status} {error.type or ''}".strip())

    async def each(
        self, items: Iterable[T], work: Callable[[T], Awaitable[R]], start: int = 0
    ) -> AsyncGenerator[tuple[T, R]]:
        """``work`` (which asks) on every item, several at a time; items with what came of them, in their order.

        However it ends, what is under way is awaited first, and journalled.

        Args:
            items: may be gone through more than once.
            work: what is done with one.
            start: items to pass over.

        Raises:
            BudgetError, ServiceError: see :meth:`ask`.
        """
        places, self._closing = asyncio.Semaphore(self.knobs.concurrency), False

        async def placed(item: T) -> R:
            async with places:
                return await work(item)

        rest = islice(items, start, None)
        waiting: deque[tuple[T, asyncio.Task[R]]] = deque()
        try:
            while True:
                for item in islice(rest, self.knobs.concurrency * _AHEAD - len(waiting)):
                    waiting.append((item, asyncio.ensure_future(placed(item))))
                if not waiting:
                    return
                found = await waiting[0][1]
                yield waiting.popleft()[0], found
        finally:  # nothing new leaves, but what has left comes home: it is paid
            self._closing = True
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def close(self) -> None:
        """Give connections back."""
        await self.sdk.close()


def tokens_at_most(request: Request) -> int:
    """No less than the tokens of a request's prompt: no text has more of them than bytes."""
    return len(json.dumps(request, ensure_ascii=False).encode()) + _OVERHEAD


def patience(attempt: int) -> float:
    """Seconds to wait before a call is made again: twice as long each time, to a minute, with chance in it."""
    return float(min(60.0, 0.5 * 2**attempt)) * random.uniform(0.5, 1.0)


def never_left(error: anthropic.APIConnectionError) -> bool:
    """Whether a connection could not be made at all, so that the request was not sent."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout"):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
