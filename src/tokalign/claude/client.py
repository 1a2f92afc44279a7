"""Single calls to Claude, with a journal, retries and a budget.

Each call is recorded before it is sent and after it ends. The SDK's own retries are off, because they could silently
repeat a call that was already billed. Answers are recorded verbatim, before anything but their cost is parsed, so that
a later version of the parser can read them again.
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
from tokalign.claude.retry import Failed, Retry, backoff, classify, may_be_billed, sleep, was_not_sent
from tokalign.config.options import ClaudeOptions
from tokalign.errors import ServiceError
from tokalign.runtime.disk import check_nesting

T = TypeVar("T")
R = TypeVar("R")
Request = dict[str, Any]
"""Keyword arguments of ``messages.create``."""

_OVERHEAD = 1000
"""Upper bound on the tokens that the API adds to a prompt, such as instructions for structured output."""
_LOOKAHEAD = 8
"""Tasks queued per concurrent call; limits how far tasks run ahead of the next result."""
_MAX_SCHEDULED_RETRIES = 100
"""Retries of one request after a 429 response with ``retry-after``; these do not count towards ``--max-retries``."""
_MAX_INVALID = 10
"""Requests that may be rejected as invalid before the run stops, if none has been answered."""


class Claude:
    """Client for one model. Repeated requests are answered from the journal.

    Args:
        journal: records all calls.
        rates: prices of the model.
        options: concurrency, budget, retries and timeout.

    Raises:
        ServiceError: no API key is set.
    """

    def __init__(self, journal: Journal, rates: Rates, options: ClaudeOptions) -> None:
        self.journal, self.rates, self.options = journal, rates, options
        self.rate_limiter, self._budget = RateLimiter(options.concurrency), Budget(journal, options.max_cost)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._answered = self._invalid = 0
        self.sdk = anthropic.AsyncAnthropic(max_retries=0, timeout=options.timeout)
        if not (self.sdk.api_key or self.sdk.auth_token or self.sdk.credentials):
            raise ServiceError("no API key is set", remedy="set ANTHROPIC_API_KEY")

    async def ask(self, request: Request) -> Answer | Failed:
        """Return the answer to a request, from the journal if it was answered before.

        Raises:
            BudgetError: the call could exceed the budget.
            ServiceError: the API rejects all requests: invalid key, missing permission or credit, unknown model.
            StoppedError: the run was interrupted before the request was sent.
        """
        key = key_of(request)
        async with self._locks.setdefault(key, asyncio.Lock()):  # equal requests are paid once
            if key in self.journal:
                return self.journal.recall(key)
            max_cost = self.max_cost(request)
            return max_cost if isinstance(max_cost, Failed) else await self._call(key, request, max_cost)

    def max_cost(self, request: Request, batch: bool = False) -> float | Failed:
        """Return the maximum cost of a request in US dollars, or a failure if its prompt is too long for the rates."""
        tokens, longest = max_prompt_tokens(request), self.rates.longest_prompt
        if longest is not None and tokens > longest:
            return Failed(f"longer than the {longest} tokens that the price holds for", transient=False)
        return self.rates.max_cost(tokens, int(request["max_tokens"]), batch)

    def handle(self, error: anthropic.APIStatusError) -> Failed | Retry:
        """Classify an error status (see :func:`classify`) and slow down further calls if the API asks for it."""
        if error.status_code == 429 or "retry-after" in error.response.headers:
            self.rate_limiter.refuse(error.response.headers)
        return classify(error, self.sdk.api_key)

    async def _call(self, key: str, request: Request, max_cost: float) -> Answer | Failed:
        """Send a request, with retries."""
        failures = scheduled = 0
        while True:
            if failures:
                await sleep(backoff(failures))
            async with self.rate_limiter.slot():
                if not await self._budget.reserve(key, max_cost):
                    return Failed("the run ended")
                try:
                    result = await self._call_once(key, request, max_cost)
                finally:
                    self.journal.lose_if_open(key, "the run ended")
                    await self._budget.settled()
            if not isinstance(result, Retry):
                self._check_invalid(result)
                return result
            scheduled, failures = (scheduled + 1, failures) if result.scheduled else (scheduled, failures + 1)
            if failures > self.options.max_retries or scheduled > _MAX_SCHEDULED_RETRIES:
                return Failed(result.why)

    async def _call_once(self, key: str, request: Request, max_cost: float) -> Answer | Failed | Retry:
        """Send a request once and record the outcome in the journal."""
        try:
            raw = await self.sdk.messages.with_raw_response.create(**request)
        except anthropic.APIStatusError as e:
            record = self.journal.lose if may_be_billed(e.status_code) else self.journal.refuse
            record(key, str(e.status_code))
            return self.handle(e)
        except anthropic.APIConnectionError as e:
            if was_not_sent(e):
                self.journal.refuse(key, "no connection")
                return Retry("no connection")
            why = "timeout" if isinstance(e, anthropic.APITimeoutError) else "connection lost"
            self.journal.lose(key, why)
            return Retry(why)
        self.rate_limiter.update(raw.headers)
        try:
            message = json.loads(raw.http_response.text)
            check_answer(message)
        except (ValueError, KeyError, TypeError, RecursionError):
            self.journal.lose(key, "not an answer")
            return Retry("not an answer")
        cost = cost_of(message, self.rates, max_cost)
        self.journal.answer(key, message, cost)
        return Answer(message, cost)

    def _check_invalid(self, result: Answer | Failed) -> None:
        """Stop the run if the API rejects every request as invalid.

        Raises:
            ServiceError: the first ``_MAX_INVALID`` requests were rejected and none was answered.
        """
        self._answered += isinstance(result, Answer)
        self._invalid += isinstance(result, Failed) and not result.transient
        if isinstance(result, Failed) and self._invalid >= _MAX_INVALID and not self._answered:
            remedy = "check --model, --effort and --max-tokens"
            raise ServiceError(f"the first {self._invalid} requests were all rejected: {result.why}", remedy=remedy)

    async def each(
        self, items: Iterable[T], work: Callable[[T], Awaitable[R]], start: int = 0
    ) -> AsyncGenerator[tuple[T, R]]:
        """Run ``work``, which calls :meth:`ask`, on each item, several at a time. Yield items with results in order.

        When the iteration ends, also after an error, calls in progress are completed and recorded first.

        Args:
            items: an iterable that can be iterated more than once.
            work: processes one item.
            start: number of items to skip.

        Raises:
            BudgetError, ServiceError, StoppedError: see :meth:`ask`.
        """
        semaphore, self._budget.closed = asyncio.Semaphore(self.options.concurrency), False

        async def limited(item: T) -> R:
            async with semaphore:
                return await work(item)

        rest = islice(items, start, None)
        tasks: deque[tuple[T, asyncio.Task[R]]] = deque()
        try:
            while True:
                for item in islice(rest, self.options.concurrency * _LOOKAHEAD - len(tasks)):
                    tasks.append((item, asyncio.ensure_future(limited(item))))
                if not tasks:
                    return
                result = await tasks[0][1]
                yield tasks.popleft()[0], result
        finally:  # send nothing new, but wait for calls in progress: they are billed
            self._budget.closed = True
            await self._budget.settled()
            await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)

    async def close(self) -> None:
        """Close the connections."""
        await self.sdk.close()


def max_prompt_tokens(request: Request) -> int:
    """Upper bound on the number of prompt tokens of a request: a text has no more tokens than UTF-8 bytes."""
    return len(json.dumps(request, ensure_ascii=False).encode()) + _OVERHEAD


def check_answer(message: Any) -> None:
    """Check that a decoded response body has content and can be read back from the journal.

    Raises:
        ValueError, KeyError, TypeError: it has no content, or is nested too deeply.
    """
    message["content"]
    check_nesting({"answer": message})


def cost_of(message: dict[str, Any], rates: Rates, max_cost: float, batch: bool = False) -> float:
    """Return the cost of a message in US dollars by its usage field, or ``max_cost`` if the field is not valid."""
    try:
        usage = message["usage"]
        if not {"input_tokens", "output_tokens"} & usage.keys():
            return max_cost
        cost = rates.cost(usage, batch)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return max_cost
    return cost if 0 <= cost < math.inf else max_cost
