"""Message Batches: requests that leave together, for half the price and within a day.

A submission is not idempotent, and a batch carries no name of ours until its results are there. So what is about to
leave is written down first, each request under a name that holds the plan's random one; and a submission whose answer
was lost is neither sent again nor given up, until a batch that the service lists turns out to be it, or the user says
that there is none.
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

from tokalign.claude.client import Claude, R, Request, T, check_answer, cost_of, tokens_at_most
from tokalign.claude.journal import Answer, Plan, key_of
from tokalign.claude.limits import over_the_cap
from tokalign.claude.prices import Rates
from tokalign.claude.retry import Failed, may_have_passed, nap, never_left, patience
from tokalign.errors import ServiceError, TokalignError

COUNT, BYTES = 5_000, 32_000_000
"""Of one batch at most; the service takes 100,000 and 256 MB, but we hold them in memory."""
_LOOKS = 3
"""Looks at the service's list after which a batch that does not appear there is not waited for."""
_SKEW = timedelta(minutes=10)
"""By how much clocks may differ."""
_READS = 3
"""How often results with a bad line are read."""
_FREE = 3
"""Calls that cost nothing are made again so many times as often as others."""
_SAY = 60.0
"""Seconds between words on how far a batch is."""
_AGAIN = "--resend-lost"


class NotAnsweredError(Exception):
    """Raised by :meth:`Batched.ask`: the answer is not there yet."""

    def __init__(self, key: str, request: Request, most: float) -> None:
        self.key, self.request, self.most = key, request, most
        self.size = tokens_at_most(request)


class _GoneError(ServiceError):
    """A batch is not to be found."""


class Batches:
    """Submits batches, waits for them, and writes down what came of them.

    Args:
        claude: who is asked.
        say: tells the user something that takes long.
    """

    def __init__(self, claude: Claude, say: Callable[[str], None]) -> None:
        self.claude, self.journal, self.options, self._say = claude, claude.journal, claude.options, say
        self._api = claude.sdk.messages.batches
        self.tries: Counter[str] = Counter()
        """How often the service ended a request without an answer."""
        self.failed: dict[str, Failed] = {}
        self._older = set(self.journal.plans)
        """Plans of earlier runs; only these may be given up."""
        self._strangers: set[str] = set()
        """Batches that are none of ours."""
        self._said = 0.0

    async def submit(self, wanted: list[NotAnsweredError]) -> int:
        """Send the first so many of them as fit under the cap; returns how many.

        Raises:
            ServiceError: the service takes none.
            StoppedError: the end was asked for.
        """
        room = float("inf") if self.options.max_cost is None else self.options.max_cost - self.journal.committed
        fitting, most = [], 0.0
        for want in wanted:
            if (most := most + want.most) > room:
                break
            fitting.append(want)
        if fitting:
            await self._create(fitting)
        return len(fitting)

    async def _create(self, wanted: list[NotAnsweredError]) -> None:
        for attempt in range(self.options.max_retries + 1):
            await self._wait(attempt)
            most = sum(w.most for w in wanted)
            plan = self.journal.plan([w.key for w in wanted], most, asdict(self.claude.rates))
            requests: Any = [{"custom_id": f"{plan.id}_{w.key}", "params": w.request} for w in wanted]
            try:
                batch = await self._api.create(requests=requests)
            except anthropic.APIStatusError as e:
                if may_have_passed(e.status_code, submission=True):
                    return  # it may have been created all the same
                self.journal.refuse(plan.id, str(e.status_code))
                if isinstance(failed := self.claude.after(e), Failed):
                    raise ServiceError(f"the batch was refused: {failed.why}", remedy="mend it; see --model") from None
            except anthropic.APIConnectionError as e:
                if not never_left(e):
                    return
                self.journal.refuse(plan.id, "no connection")
            except ValueError:  # an answer that cannot be read
                return
            else:
                if getattr(batch, "id", None):  # else it is a page of some proxy
                    self.journal.create(plan, batch.id)
                    self._say(f"batch {batch.id} of {len(wanted)} requests is submitted")
                return
        raise ServiceError("the service takes no batches at present", remedy="run the same command again later")

    async def settle(self) -> None:
        """Wait for all that was submitted, in this run or an earlier one, and write down what came of it.

        Raises:
            ServiceError: a batch is not to be found, or the service does not answer.
            StoppedError: the end was asked for.
        """
        for plan in list(self.journal.plans.values()):
            try:
                batch = plan.batch or await self._look_for(plan)
                while not await self._ended(batch, aloud=True):
                    await nap(self.options.poll)
                await self._take(plan, batch)
            except _GoneError:
                if not self.options.resend_lost or plan.id not in self._older:
                    raise
                self.journal.lose(plan.id, "given up by the user", most=plan.most)
            else:
                self.journal.close(plan)
            self.journal.sync()

    async def _look_for(self, plan: Plan) -> str:
        """The service's name of a batch that it took without our hearing of it."""
        self._say(f"looking for a batch of {len(plan.keys)} requests, submitted {plan.at:%Y-%m-%d %H:%M} UTC")
        looks = 0
        while looks < _LOOKS:
            waiting = False
            for batch, ended in await self._candidates(plan):
                waiting |= not ended
                if ended and await self._holds(batch, plan):
                    self.journal.create(plan, batch)
                    return batch
                if ended:
                    self._strangers.add(batch)
            looks += not waiting
            await nap(self.options.poll)
        raise _GoneError(
            f"{len(plan.keys)} requests were submitted {plan.at:%Y-%m-%d %H:%M} UTC, no answer came, and the service "
            "lists no batch that holds them",
            remedy=f"run the same command again later; or, to pay perhaps twice, with {_AGAIN}",
        )

    async def _candidates(self, plan: Plan) -> list[tuple[str, bool]]:
        """Batches, not yet known, that could be the one of a plan, and whether they have ended."""

        async def listed() -> list[tuple[str, bool]]:
            found = []
            async for batch in self._api.list(limit=100):
                if batch.created_at < plan.at - _SKEW:
                    break  # the newest come first
                counts = batch.request_counts
                n = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                if batch.id not in self.journal.batches | self._strangers and n == len(plan.keys):
                    found.append((batch.id, batch.processing_status == "ended"))
            return found

        return await self._patiently(listed, "the list of batches")

    async def _holds(self, batch: str, plan: Plan) -> bool:
        try:
            return any([name.startswith(plan.id) async for name, _ in self._results(batch)])
        except _GoneError:
            return False

    async def _ended(self, batch: str, aloud: bool = False) -> bool:
        async def look() -> tuple[bool, int]:
            found = await self._api.retrieve(batch)
            return found.processing_status == "ended", found.request_counts.processing

        ended, processing = await self._patiently(look, f"batch {batch}")
        if aloud and not ended and time.monotonic() - self._said > _SAY:
            self._said = time.monotonic()
            self._say(f"batch {batch}: {processing} requests are still to be answered")
        return ended

    async def _take(self, plan: Plan, batch: str) -> None:
        """Write down what came of every request of a batch."""
        for _ in range(_READS):
            async for name, result in self._results(batch):
                key = name.removeprefix(f"{plan.id}_")
                if key in plan.left:
                    self._settle_one(key, result, plan)
            if not plan.left:
                break
        for key in list(plan.left):  # its line cannot be read, or is not there
            self.journal.lose(key, "not in the results", most=plan.most / len(plan.keys))
            self._ended_without(key, "not in the results")
        self._say(f"batch {batch} has ended: ${self.journal.spent:.4f} are spent")

    def _settle_one(self, key: str, result: Any, plan: Plan) -> None:
        """Write a result down, if it can be made out."""
        try:
            kind = result["type"]
            if kind == "succeeded":
                message = result["message"]
                check_answer(message)
                cost = cost_of(message, Rates(**plan.rates), plan.most / len(plan.keys), batch=True)
                self.journal.answer(key, message, cost)
                return
            error = result["error"]["error"] if kind == "errored" else {"type": kind}
            why = str(error["type"])
        except (ValueError, KeyError, TypeError):
            return
        self.journal.refuse(key, why)
        if why == "invalid_request_error":
            self.failed[key] = Failed(f"{why}: {error.get('message')}", passing=False)
        else:
            self._ended_without(key, why)

    def _ended_without(self, key: str, why: str) -> None:
        self.tries[key] += 1
        if self.tries[key] > self.options.max_retries:
            self.failed[key] = Failed(why)

    async def _results(self, batch: str) -> AsyncIterator[tuple[str, Any]]:
        """Names and results of a batch; lines that cannot be read are passed over, and do not hide those after."""

        async def read() -> bytes:
            async with self._api.with_streaming_response.results(batch) as response:
                return await response.read()

        # Lines end where JSON says so: an answer may hold other characters that some take for the end of a line.
        for line in (await self._patiently(read, f"the results of batch {batch}")).split(b"\n"):
            try:
                row = json.loads(line)
                yield str(row["custom_id"]), row["result"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue

    async def _wait(self, attempt: int) -> None:
        """Before a call is made, for the ``attempt``-th time again."""
        await nap(max(patience(attempt) if attempt else 0.0, self.claude.rate_limiter.left))

    async def _patiently(self, call: Callable[[], Awaitable[R]], what: str) -> R:
        """A call that costs nothing, made until it succeeds, or for as often as is allowed."""
        why, kind = "", ServiceError
        for attempt in range(_FREE * self.options.max_retries + 1):
            await self._wait(attempt)
            try:
                return await call()
            except TokalignError:
                raise
            except anthropic.APIStatusError as e:
                if e.status_code == 404:
                    why, kind = "not found", _GoneError
                    continue
                found = self.claude.after(e)
                if isinstance(found, Failed):
                    raise ServiceError(f"{what}: {found.why}", remedy="run the same command again") from None
                why, kind = found.why, ServiceError
            except anthropic.APIConnectionError:
                why, kind = "no answer", ServiceError
            except anthropic.AnthropicError as e:  # ended, but its results are not there, or no more
                why, kind = str(e), _GoneError
            except Exception as e:  # a stream that broke, a page of some proxy: whatever the SDK makes of these
                why, kind = type(e).__name__, ServiceError
        again = f"run the same command again later{f'; or with {_AGAIN}' if kind is _GoneError else ''}"
        raise kind(f"{what}: {why}", remedy=again)


class Batched(Claude):
    """Asks in rounds: work is done as far as answers are there; what it still wants is submitted, and awaited."""

    batches: Batches

    async def ask(self, request: Request) -> Answer | Failed:
        """The answer to a request, if it is there.

        Raises:
            NotAnsweredError: it is not.
        """
        key = key_of(request)
        if key in self.journal:
            return self.journal.recall(key)
        if key in self.batches.failed:
            return self.batches.failed[key]
        most = self.most(request, batch=True)
        if isinstance(most, Failed):
            return most
        raise NotAnsweredError(key, request, most)

    async def each(
        self, items: Iterable[T], work: Callable[[T], Awaitable[R]], start: int = 0
    ) -> AsyncGenerator[tuple[T, R]]:
        """As :meth:`Claude.each`."""
        while await self._round(islice(items, start, None), work):
            pass
        async for found in super().each(items, work, start):
            yield found

    async def _round(self, items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> bool:
        """Submit what the items want, and wait for it; whether there was anything.

        Raises:
            BudgetError: nothing that is wanted fits under the cap.
        """
        sent: set[str] = set()
        wanted: dict[str, NotAnsweredError] = {}
        size = 0

        async def submit() -> bool:
            """Whether all that is wanted left; if so, it is wanted no more."""
            n = await self.batches.submit(list(wanted.values()))
            sent.update(islice(wanted, n))
            fit = n == len(wanted)
            if fit:
                wanted.clear()
            return fit

        room = True
        for item in items:
            try:
                await work(item)
            except NotAnsweredError as want:
                if want.key not in sent and want.key not in wanted:
                    wanted[want.key] = want
                    size += want.size
            if len(wanted) >= COUNT or size >= BYTES:
                room, size = await submit(), 0
                if not room:
                    break
        if room and wanted:
            await submit()
        if wanted and not sent:
            raise over_the_cap(self.journal, next(iter(wanted.values())).most, self.options.max_cost)
        await self.batches.settle()
        return bool(sent)
