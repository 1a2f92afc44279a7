"""Calls to Claude: each written down before and after, retried by count, within a cap.

The SDK's own retries are off: it would send again what may be paid already, without telling. Answers are journalled as
they came, before anything is read out of them but what they cost, so that a better parser can read them again.
"""

import asyncio
import json
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from itertools import islice
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anthropic

from tokalign.claude.journal import Answer, Journal, key_of
from tokalign.claude.limits import Budget, RateLimiter
from tokalign.claude.prices import Rates
from tokalign.claude.retry import Again, Failed, after_status, may_have_passed, nap, never_left, patience
from tokalign.config.options import ClaudeOptions
from tokalign.errors import ServiceError
from tokalign.runtime.disk import check_nesting

T = TypeVar("T")
R = TypeVar("R")
Request = dict[str, Any]
"""Arguments of ``messages.create``."""

_OVERHEAD = 1000
"""Tokens that the service may add to a prompt, for structured answers and the like."""
_AHEAD = 8
"""Calls a place of concurrency may be ahead of the one whose answer is due next."""
_TOLD = 100
"""How often a request heeds the service when it says to come back later."""
_HOPELESS = 10
"""Requests refused for what they are, before any was answered, after which the rest need not be tried."""


class Claude:
    """Asks, under one journal.

    Args:
        journal: where calls are written down.
        rates: of the model.
        options: concurrency, cap, retries.

    Raises:
        ServiceError: there is no key.
    """

    def __init__(self, journal: Journal, rates: Rates, options: ClaudeOptions) -> None:
        self.journal, self.rates, self.options = journal, rates, options
        self.rate_limiter, self._budget = RateLimiter(options.concurrency), Budget(journal, options.max_cost)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._answered = self._refused = 0
        self.sdk = anthropic.AsyncAnthropic(max_retries=0, timeout=options.timeout)
        if not (self.sdk.api_key or self.sdk.auth_token or self.sdk.credentials):
            raise ServiceError("there is no API key", remedy="set ANTHROPIC_API_KEY")

    async def ask(self, request: Request) -> Answer | Failed:
        """The answer to a request; from the journal, if it was answered before.

        Raises:
            BudgetError: the cap is reached.
            ServiceError: no request can succeed: a key, a right, money, a name.
            StoppedError: the end was asked for before it left.
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
            return Failed(f"longer than the {longest} tokens that the price holds for", passing=False)
        return self.rates.most(tokens, int(request["max_tokens"]), batch)

    def after(self, error: anthropic.APIStatusError) -> Failed | Again:
        """What an error status means; see :func:`after_status`. Calls are held back as it says."""
        if error.status_code == 429 or "retry-after" in error.response.headers:
            self.rate_limiter.refuse(error.response.headers)
        return after_status(error, self.sdk.api_key)

    async def _call(self, key: str, request: Request, most: float) -> Answer | Failed:
        """Call until there is an answer, or for as often as is allowed."""
        failures = told = 0
        while True:
            if failures:
                await nap(patience(failures))
            async with self.rate_limiter.place():
                if not await self._budget.reserve(key, most):
                    return Failed("the run ended")
                try:
                    found = await self._once(key, request, most)
                finally:
                    self.journal.forsake(key, "the run ended")
                    await self._budget.settled()
            if not isinstance(found, Again):
                self._count(found)
                return found
            told, failures = (told + 1, failures) if found.told else (told, failures + 1)
            if failures > self.options.max_retries or told > _TOLD:
                return Failed(found.why)

    async def _once(self, key: str, request: Request, most: float) -> Answer | Failed | Again:
        """One call: the answer, a failure for good, or why to try again."""
        try:
            raw = await self.sdk.messages.with_raw_response.create(**request)
        except anthropic.APIStatusError as e:
            note = self.journal.lose if may_have_passed(e.status_code) else self.journal.refuse
            note(key, str(e.status_code))
            return self.after(e)
        except anthropic.APIConnectionError as e:
            if never_left(e):
                self.journal.refuse(key, "no connection")
                return Again("no connection")
            why = "timeout" if isinstance(e, anthropic.APITimeoutError) else "connection lost"
            self.journal.lose(key, why)
            return Again(why)
        self.rate_limiter.learn(raw.headers)
        try:
            message = json.loads(raw.http_response.text)
            check_answer(message)
        except (ValueError, KeyError, TypeError, RecursionError):
            self.journal.lose(key, "not an answer")
            return Again("not an answer")
        cost = cost_of(message, self.rates, most)
        self.journal.answer(key, message, cost)
        return Answer(message, cost)

    def _count(self, found: Answer | Failed) -> None:
        """Stop where every request is refused for what it is.

        Raises:
            ServiceError: so it is.
        """
        self._answered += isinstance(found, Answer)
        self._refused += isinstance(found, Failed) and not found.passing
        if isinstance(found, Failed) and self._refused >= _HOPELESS and not self._answered:
            remedy = "mend it: see --model, --effort, --max-tokens"
            raise ServiceError(f"the first {self._refused} requests were all refused: {found.why}", remedy=remedy)

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
            BudgetError, ServiceError, StoppedError: see :meth:`ask`.
        """
        places, self._budget.closed = asyncio.Semaphore(self.options.concurrency), False

        async def placed(item: T) -> R:
            async with places:
                return await work(item)

        rest = islice(items, start, None)
        waiting: deque[tuple[T, asyncio.Task[R]]] = deque()
        try:
            while True:
                for item in islice(rest, self.options.concurrency * _AHEAD - len(waiting)):
                    waiting.append((item, asyncio.ensure_future(placed(item))))
                if not waiting:
                    return
                found = await waiting[0][1]
                yield waiting.popleft()[0], found
        finally:  # nothing new leaves, but what has left comes home: it is paid
            self._budget.closed = True
            await self._budget.settled()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def close(self) -> None:
        """Give connections back."""
        await self.sdk.close()


def tokens_at_most(request: Request) -> int:
    """No less than the tokens of a request's prompt: no text has more of them than bytes."""
    return len(json.dumps(request, ensure_ascii=False).encode()) + _OVERHEAD


def check_answer(message: Any) -> None:
    """Refuse what is no answer, or could not be read back from the journal.

    Raises:
        ValueError, KeyError, TypeError: it has no content, or is nested too deeply.
    """
    message["content"]
    check_nesting({"answer": message})


def cost_of(message: dict[str, Any], rates: Rates, most: float, batch: bool = False) -> float:
    """US dollars for a message: by what it says was used; where it says nothing that can be, the most it can be."""
    try:
        usage = message["usage"]
        if not {"input_tokens", "output_tokens"} & usage.keys():  # it says nothing
            return most
        cost = rates.cost(usage, batch)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return most
    return cost if 0 <= cost < math.inf else most
