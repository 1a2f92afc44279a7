"""Message Batches: requests sent together at half the price and processed within a day.

A submission is not idempotent, and a batch has no client-side ID until its results exist. Therefore a *plan* with a
random ID is recorded before the submission, and the ID of each request starts with the ID of the plan. If the response
to a submission is lost, the batch is searched for among the batches that the API lists. Its requests are not sent again
until it is found or the user passes ``--resend-lost``.
"""

import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from typing import Any

import anthropic

from tokalign.claude.client import Claude, R, Request, T, check_answer, cost_of, max_prompt_tokens
from tokalign.claude.journal import Answer, Plan, key_of
from tokalign.claude.limits import over_budget
from tokalign.claude.prices import Rates
from tokalign.claude.retry import Failed, backoff, may_be_billed, sleep, was_not_sent
from tokalign.errors import ServiceError, TokalignError

COUNT, BYTES = 5_000, 32_000_000
"""Maximum requests and bytes of a batch, held in memory. The limits of the API are 100,000 requests and 256 MB."""
_SEARCHES = 3
"""Number of times that a lost batch is searched for in the API's list."""
_CLOCK_SKEW = timedelta(minutes=10)
"""Largest difference between the API's clock and the local clock."""
_READS = 3
"""Number of times that results are read if a line is invalid."""
_FREE_RETRIES = 3
"""Factor for ``--max-retries`` of calls that cost nothing."""
_PROGRESS_INTERVAL = 60.0
"""Seconds between progress lines."""
_RESEND = "--resend-lost"


class NotAnsweredError(Exception):
    """Raised by :meth:`Batched.ask` for a request without an answer so far."""

    def __init__(self, key: str, request: Request, max_cost: float) -> None:
        self.key, self.request, self.max_cost = key, request, max_cost
        self.size = max_prompt_tokens(request)


class _NotFoundError(ServiceError):
    """A batch does not exist, or its results do not."""


class Batches:
    """Submits batches, waits for them and records their results.

    Args:
        claude: client with the journal and the options.
        say: prints a progress line.
    """

    def __init__(self, claude: Claude, say: Callable[[str], None]) -> None:
        self.claude, self.journal, self.options, self._say = claude, claude.journal, claude.options, say
        self._api = claude.sdk.messages.batches
        self.failures: Counter[str] = Counter()
        """Number of times that a request ended without an answer, by key."""
        self.failed: dict[str, Failed] = {}
        """Requests that are not sent again in this run, by key."""
        self._earlier = set(self.journal.plans)
        """Plans of earlier runs; only these can be given up with ``--resend-lost``."""
        self._foreign: set[str] = set()
        """IDs of batches that belong to other runs."""
        self._reported_at = 0.0

    async def submit(self, wanted: list[NotAnsweredError]) -> int:
        """Submit as many of the requests, from the first on, as fit within the budget. Return their number.

        Raises:
            ServiceError: the API rejects the batch.
            StoppedError: the run was interrupted.
        """
        left = float("inf") if self.options.max_cost is None else self.options.max_cost - self.journal.committed
        fitting, total = [], 0.0
        for request in wanted:
            if (total := total + request.max_cost) > left:
                break
            fitting.append(request)
        if fitting:
            await self._create(fitting)
        return len(fitting)

    async def _create(self, wanted: list[NotAnsweredError]) -> None:
        for attempt in range(self.options.max_retries + 1):
            await self._wait(attempt)
            max_cost = sum(w.max_cost for w in wanted)
            plan = self.journal.plan([w.key for w in wanted], max_cost, asdict(self.claude.rates))
            requests: Any = [{"custom_id": f"{plan.id}_{w.key}", "params": w.request} for w in wanted]
            try:
                batch = await self._api.create(requests=requests)
            except anthropic.APIStatusError as e:
                if may_be_billed(e.status_code, submission=True):
                    return  # the batch may exist
                self.journal.refuse(plan.id, str(e.status_code))
                if isinstance(failed := self.claude.handle(e), Failed):
                    raise ServiceError(f"the batch was rejected: {failed.why}", remedy="check --model") from None
            except anthropic.APIConnectionError as e:
                if not was_not_sent(e):
                    return
                self.journal.refuse(plan.id, "no connection")
            except ValueError:  # the response cannot be parsed
                return
            else:
                if getattr(batch, "id", None):  # otherwise it is the page of a proxy
                    self.journal.create(plan, batch.id)
                    self._say(f"batch {batch.id} with {len(wanted)} requests submitted")
                return
        raise ServiceError("the API accepts no batches at present", remedy="run the same command again later")

    async def settle(self) -> None:
        """Wait for all submitted batches, including those of earlier runs, and record their results.

        Raises:
            ServiceError: a batch cannot be found, or the API does not respond.
            StoppedError: the run was interrupted.
        """
        for plan in list(self.journal.plans.values()):
            try:
                batch = plan.batch or await self._find(plan)
                while not await self._has_ended(batch):
                    await sleep(self.options.poll)
                await self._record(plan, batch)
            except _NotFoundError:
                if not self.options.resend_lost or plan.id not in self._earlier:
                    raise
                self.journal.lose(plan.id, "given up by the user", max_cost=plan.max_cost)
            else:
                self.journal.close(plan)
            self.journal.sync()

    async def _find(self, plan: Plan) -> str:
        """Return the ID of the batch whose submission got no response."""
        self._say(f"searching for a batch of {len(plan.keys)} requests, submitted {plan.at:%Y-%m-%d %H:%M} UTC")
        searches = 0
        while searches < _SEARCHES:
            in_progress = False
            for batch, ended in await self._candidates(plan):
                in_progress |= not ended
                if ended and await self._belongs_to(batch, plan):
                    self.journal.create(plan, batch)
                    return batch
                if ended:
                    self._foreign.add(batch)
            searches += not in_progress
            await sleep(self.options.poll)
        raise _NotFoundError(
            f"{len(plan.keys)} requests were submitted at {plan.at:%Y-%m-%d %H:%M} UTC without a response, and the API "
            "lists no batch with these requests",
            remedy=f"run the same command again later, or pass {_RESEND} to send them again (may be billed twice)",
        )

    async def _candidates(self, plan: Plan) -> list[tuple[str, bool]]:
        """Return the IDs of unknown batches that could be the plan's, and whether each has ended."""

        async def list_batches() -> list[tuple[str, bool]]:
            found = []
            async for batch in self._api.list(limit=100):
                if batch.created_at < plan.at - _CLOCK_SKEW:
                    break  # newest first
                counts = batch.request_counts
                n = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                if batch.id not in self.journal.batches | self._foreign and n == len(plan.keys):
                    found.append((batch.id, batch.processing_status == "ended"))
            return found

        return await self._with_retries(list_batches, "the list of batches")

    async def _belongs_to(self, batch: str, plan: Plan) -> bool:
        try:
            return any([name.startswith(plan.id) async for name, _ in self._results(batch)])
        except _NotFoundError:
            return False

    async def _has_ended(self, batch: str) -> bool:
        async def retrieve() -> tuple[bool, int]:
            found = await self._api.retrieve(batch)
            return found.processing_status == "ended", found.request_counts.processing

        ended, processing = await self._with_retries(retrieve, f"batch {batch}")
        if not ended and time.monotonic() - self._reported_at > _PROGRESS_INTERVAL:
            self._reported_at = time.monotonic()
            self._say(f"batch {batch}: {processing} requests in progress")
        return ended

    async def _record(self, plan: Plan, batch: str) -> None:
        """Record the results of a batch in the journal."""
        for _ in range(_READS):
            async for name, result in self._results(batch):
                key = name.removeprefix(f"{plan.id}_")
                if key in plan.open_keys:
                    self._record_one(key, result, plan)
            if not plan.open_keys:
                break
        for key in list(plan.open_keys):  # its line is missing or invalid
            self.journal.lose(key, "not in the results", max_cost=plan.max_cost / len(plan.keys))
            self._count_failure(key, "not in the results")
        self._say(f"batch {batch} has ended; ${self.journal.spent:.4f} spent so far")

    def _record_one(self, key: str, result: Any, plan: Plan) -> None:
        """Record one result. An invalid one is skipped."""
        try:
            kind = result["type"]
            if kind == "succeeded":
                message = result["message"]
                check_answer(message)
                cost = cost_of(message, Rates(**plan.rates), plan.max_cost / len(plan.keys), batch=True)
                self.journal.answer(key, message, cost)
                return
            error = result["error"]["error"] if kind == "errored" else {"type": kind}
            why = str(error["type"])
        except (ValueError, KeyError, TypeError):
            return
        self.journal.refuse(key, why)
        if why == "invalid_request_error":
            self.failed[key] = Failed(f"{why}: {error.get('message')}", transient=False)
        else:
            self._count_failure(key, why)

    def _count_failure(self, key: str, why: str) -> None:
        self.failures[key] += 1
        if self.failures[key] > self.options.max_retries:
            self.failed[key] = Failed(why)

    async def _results(self, batch: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield the request IDs and results of a batch. Invalid lines are skipped."""

        async def read() -> bytes:
            async with self._api.with_streaming_response.results(batch) as response:
                return await response.read()

        # Split at \n only: an answer may contain other characters that splitlines() treats as line ends.
        for line in (await self._with_retries(read, f"the results of batch {batch}")).split(b"\n"):
            try:
                row = json.loads(line)
                yield str(row["custom_id"]), row["result"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue

    async def _wait(self, attempt: int) -> None:
        """Wait before retry number ``attempt`` (0: the first call)."""
        await sleep(max(backoff(attempt) if attempt else 0.0, self.claude.rate_limiter.wait_time))

    async def _with_retries(self, call: Callable[[], Awaitable[R]], what: str) -> R:
        """Run a call that costs nothing, with retries. ``what``: the resource, for the error message."""
        why, kind = "", ServiceError
        for attempt in range(_FREE_RETRIES * self.options.max_retries + 1):
            await self._wait(attempt)
            try:
                return await call()
            except TokalignError:
                raise
            except anthropic.APIStatusError as e:
                if e.status_code == 404:
                    why, kind = "not found", _NotFoundError
                    continue
                result = self.claude.handle(e)
                if isinstance(result, Failed):
                    raise ServiceError(f"{what}: {result.why}", remedy="run the same command again") from None
                why, kind = result.why, ServiceError
            except anthropic.APIConnectionError:
                why, kind = "no response", ServiceError
            except anthropic.AnthropicError as e:  # the batch has ended, but its results do not exist or have expired
                why, kind = str(e), _NotFoundError
            except Exception as e:  # a broken stream or the page of a proxy, in whatever way the SDK reports it
                why, kind = type(e).__name__, ServiceError
        remedy = f"run the same command again later{f', or pass {_RESEND}' if kind is _NotFoundError else ''}"
        raise kind(f"{what}: {why}", remedy=remedy)


class Batched(Claude):
    """Client that works in rounds: run ``work`` on all items, submit the requests without an answer, wait, repeat."""

    batches: Batches

    async def ask(self, request: Request) -> Answer | Failed:
        """Return the answer to a request from the journal, or its failure.

        Raises:
            NotAnsweredError: the request has no answer so far.
        """
        key = key_of(request)
        if key in self.journal:
            return self.journal.recall(key)
        if key in self.batches.failed:
            return self.batches.failed[key]
        max_cost = self.max_cost(request, batch=True)
        if isinstance(max_cost, Failed):
            return max_cost
        raise NotAnsweredError(key, request, max_cost)

    async def each(
        self, items: Iterable[T], work: Callable[[T], Awaitable[R]], start: int = 0
    ) -> AsyncGenerator[tuple[T, R]]:
        """See :meth:`Claude.each`. Results are yielded after the last round."""
        while await self._round(islice(items, start, None), work):
            pass
        async for result in super().each(items, work, start):
            yield result

    async def _round(self, items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> bool:
        """Submit the requests without an answer and wait for them. Return whether there were any.

        Raises:
            BudgetError: not one request fits within the budget.
        """
        sent: set[str] = set()
        wanted: dict[str, NotAnsweredError] = {}
        size = 0

        async def submit() -> bool:
            """Submit ``wanted`` and return whether all of it fit within the budget."""
            n = await self.batches.submit(list(wanted.values()))
            sent.update(islice(wanted, n))
            all_fit = n == len(wanted)
            if all_fit:
                wanted.clear()
            return all_fit

        within_budget = True
        for item in items:
            try:
                await work(item)
            except NotAnsweredError as request:
                if request.key not in sent and request.key not in wanted:
                    wanted[request.key] = request
                    size += request.size
            if len(wanted) >= COUNT or size >= BYTES:
                within_budget, size = await submit(), 0
                if not within_budget:
                    break
        if within_budget and wanted:
            await submit()
        if wanted and not sent:
            raise over_budget(self.journal, next(iter(wanted.values())).max_cost, self.options.max_cost)
        await self.batches.settle()
        return bool(sent)
