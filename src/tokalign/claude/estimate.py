"""What work will cost, before any of it is paid: tokens counted by the service, which is free, on a sample."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anthropic
import numpy as np

from tokalign.artifacts.manifest import JOURNAL
from tokalign.claude import prices
from tokalign.claude.client import Claude, Request, tokens_at_most
from tokalign.claude.journal import Journal, key_of
from tokalign.claude.prices import BATCH, Estimate
from tokalign.claude.retry import Again, Failed, nap, patience
from tokalign.config.options import ClaudeOptions
from tokalign.errors import ServiceError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
SAMPLE = 32
"""Rows whose tokens are counted."""
_THOUGHTS, _AGAIN = 3, 1.2
"""See :class:`tokalign.claude.prices.Estimate`: ``high``."""
_COMPLAINT = 1000
"""Bytes of what a second try says was wrong, and of what stands around it."""
_WRAPPING = 30
"""Tokens of an answer besides the text: the fields, a rationale of one line."""


class Many(Protocol[T_co]):
    """Things that can be counted and gone through."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


async def estimate(
    items: Many[T],
    asks: Callable[[T], tuple[Request, str]],
    folder: Path,
    model: str,
    options: ClaudeOptions,
    twice: bool,
) -> Estimate:
    """What it may cost to ask about ``items``.

    Args:
        items: all of them.
        asks: the request of one, and a text about as long as its answer.
        folder: where the journal of earlier runs lies, if there is one.
        model: whose prices count.
        options: how it will be asked.
        twice: whether an answer that is no good is asked for again.

    Raises:
        UsageError: the price of the model is not known.
        ServiceError: the service does not count.
    """
    rates, factor = prices.load(model, options.prices, options.allow_unpriced), BATCH if options.batch else 1
    with tempfile.TemporaryDirectory() as temporary:
        journal_file = Path(temporary) / JOURNAL
        if (folder / JOURNAL).is_file():
            shutil.copy(folder / JOURNAL, journal_file)  # opening one writes into it
        with Journal(journal_file) as journal:
            left: dict[str, T] = {}
            most, answered = journal.committed, 0
            for item in items:
                request, _ = asks(item)
                key = key_of(request)
                answered += key in journal
                if key not in journal and key not in left:
                    left[key] = item
                    most += _most(request, rates, options.batch, twice)
            paid = journal.spent
            claude = Claude(journal, rates, options)
            rows = list(left.values())
            sample = [rows[int(k)] for k in np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows)))]
            try:
                inputs, outputs, static = await _count(claude, [asks(item) for item in sample])
            finally:
                await claude.close()
    low = _mean(inputs - static, -2) * rates.input + static * rates.cache_read + _mean(outputs, -2) * rates.output
    again = _AGAIN if twice else 1.0
    high = again * (_mean(inputs, 2) * rates.input + _THOUGHTS * _mean(outputs, 2) * rates.output)
    dollars = factor * len(left) / prices.MILLION
    return Estimate(
        model, len(items), answered, round(_mean(inputs)), round(_mean(outputs)),
        round(low * dollars, 4), round(high * dollars, 4), round(most + 5e-5, 4), round(paid, 4),
    )  # fmt: skip


def _most(request: Request, rates: prices.Rates, batch: bool, twice: bool) -> float:
    """The most that a request can cost; ``twice``: and a second, with the first answer in it, or twice the room."""
    prompt, answer = tokens_at_most(request), int(request["max_tokens"])
    first = rates.most(prompt, answer, batch)
    return first + rates.most(prompt + 4 * answer + _COMPLAINT, 2 * answer, batch) if twice else first


def _mean(counts: Any, errors: float = 0.0) -> float:
    """Mean, so many standard errors up; 0 of nothing."""
    if not len(counts):
        return 0.0
    error = float(np.std(counts) / np.sqrt(len(counts)))
    return max(0.0, float(np.mean(counts)) + errors * error)


async def _count(claude: Claude, asked: Sequence[tuple[Request, str]]) -> tuple[Any, Any, float]:
    """Tokens of each request, of each answer, and of what all requests begin with."""
    if not asked:
        return np.zeros(0), np.zeros(0), 0.0

    def plain(request: Request, text: str) -> Request:
        return {"model": request["model"], "messages": [{"role": "user", "content": text}]}

    first = asked[0][0]
    empty = {**first, "messages": [{"role": "user", "content": "."}]}
    requests = [empty, plain(first, "."), *(r for r, _ in asked), *(plain(r, text) for r, text in asked)]
    static, nothing, *rest = await asyncio.gather(*(_counted(claude, r) for r in requests))
    inputs, outputs = np.array(rest[: len(asked)]), np.array(rest[len(asked) :])
    return inputs, outputs - nothing + _WRAPPING, float(static - nothing)


async def _counted(claude: Claude, request: Request) -> int:
    countable: Any = {k: v for k, v in request.items() if k != "max_tokens"}
    found: Failed | Again = Again("")
    for attempt in range(claude.options.max_retries + 1):
        await nap(patience(attempt) if attempt else 0.0)
        async with claude.rate_limiter.place():
            try:
                return (await claude.sdk.messages.count_tokens(**countable)).input_tokens
            except anthropic.APIStatusError as e:
                found = claude.after(e)
            except (anthropic.APIConnectionError, AttributeError, ValueError):
                found = Again("no answer")
        if isinstance(found, Failed):
            break
    raise ServiceError(f"tokens cannot be counted: {found.why}", remedy="see --model, or try again later")
