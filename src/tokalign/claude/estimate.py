"""What work will cost, before any of it is paid: tokens counted by the service, which is free, on a sample."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import numpy as np

from tokalign.artifacts import JOURNAL
from tokalign.claude import prices
from tokalign.claude.client import Claude, Failed, Request, tokens_at_most
from tokalign.claude.journal import Journal, answered, key_of
from tokalign.claude.prices import BATCH, Estimate
from tokalign.config import Paid
from tokalign.errors import ServiceError

T = TypeVar("T")
SAMPLE = 32
"""Rows whose tokens are counted."""
_THOUGHTS, _AGAIN = 3, 1.2
"""See :class:`tokalign.claude.prices.Estimate`: ``high``."""
_WRAPPING = 30
"""Tokens of an answer besides the text: the fields, a rationale of one line."""


async def estimate(
    items: Sequence[T], asks: Callable[[T], tuple[Request, str]], folder: Path, model: str, knobs: Paid
) -> Estimate:
    """What it may cost to ask about ``items``.

    Args:
        items: all of them.
        asks: the request of one, and a text about as long as its answer.
        folder: where the journal of earlier runs lies, if there is one.
        model: whose prices count.
        knobs: how it will be asked.

    Raises:
        UsageError: the price of the model is not known.
        ServiceError: the service does not count.
    """
    rates, factor = prices.load(model, knobs.prices, knobs.allow_unpriced), BATCH if knobs.batch else 1
    there = set(answered(folder / JOURNAL))
    left, most = [], 0.0
    for item in items:
        request, _ = asks(item)
        if key_of(request) not in there:
            left.append(item)
            most += 2 * rates.most(tokens_at_most(request), int(request["max_tokens"]), knobs.batch)
    sample = [left[int(k)] for k in np.linspace(0, len(left) - 1, min(SAMPLE, len(left)))]
    inputs, outputs, static = await _count([asks(item) for item in sample], knobs)
    low = _mean(inputs - static, -2) * rates.input + static * rates.cache_read + _mean(outputs, -2) * rates.output
    high = _AGAIN * (_mean(inputs, 2) * rates.input + _THOUGHTS * _mean(outputs, 2) * rates.output)
    dollars = factor * len(left) / prices.MILLION
    return Estimate(
        model, len(items), len(items) - len(left), round(_mean(inputs)), round(_mean(outputs)),
        round(low * dollars, 4), round(high * dollars, 4), round(most, 4),
    )  # fmt: skip


def _mean(counts: Any, errors: float = 0.0) -> float:
    """Mean, so many standard errors up; 0 of nothing."""
    if not len(counts):
        return 0.0
    error = float(np.std(counts) / np.sqrt(len(counts)))
    return max(0.0, float(np.mean(counts)) + errors * error)


async def _count(asked: Sequence[tuple[Request, str]], knobs: Paid) -> tuple[Any, Any, float]:
    """Tokens of each request, of each answer, and of what all requests begin with."""
    if not asked:
        return np.zeros(0), np.zeros(0), 0.0
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / JOURNAL) as journal:
        claude = Claude(journal, prices.FREE, knobs)
        places = asyncio.Semaphore(knobs.concurrency)

        async def count(request: Request) -> int:
            countable = {k: v for k, v in request.items() if k != "max_tokens"}
            async with places:
                return await _counted(claude, countable)

        def plain(request: Request, text: str) -> Request:
            return {"model": request["model"], "messages": [{"role": "user", "content": text}]}

        try:
            first = asked[0][0]
            empty = {**first, "messages": [{"role": "user", "content": "."}]}
            static, nothing, *rest = await asyncio.gather(
                count(empty), count(plain(first, ".")), *(count(r) for r, _ in asked),
                *(count(plain(r, text)) for r, text in asked),
            )  # fmt: skip
        finally:
            await claude.close()
    inputs, outputs = np.array(rest[: len(asked)]), np.array(rest[len(asked) :])
    return inputs, outputs - nothing + _WRAPPING, float(static - nothing)


async def _counted(claude: Claude, countable: Request) -> int:
    why: Failed | str = ""
    for _ in range(claude.knobs.max_retries + 1):
        await claude.pace.wait()
        try:
            return (await claude.sdk.messages.count_tokens(**countable)).input_tokens
        except anthropic.APIStatusError as e:
            why = claude.after_status(e)
            if isinstance(why, Failed):
                break
        except (anthropic.APIConnectionError, AttributeError):
            why = "no answer"
        await asyncio.sleep(0.2)
    said = why.why if isinstance(why, Failed) else why
    raise ServiceError(f"tokens cannot be counted: {said}", remedy="see --model, or try again later")
