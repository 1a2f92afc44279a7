"""Cost estimates from the token counts of a sample of requests, which the API provides for free."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anthropic
import numpy as np

from tokalign.artifacts.manifest import JOURNAL
from tokalign.artifacts.result import Estimate
from tokalign.claude import prices
from tokalign.claude.client import Claude, Request, max_prompt_tokens
from tokalign.claude.journal import Journal, key_of
from tokalign.claude.prices import BATCH
from tokalign.claude.retry import Failed, Retry, backoff, sleep
from tokalign.config.options import ClaudeOptions
from tokalign.errors import ServiceError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
SAMPLE = 32
"""Number of rows whose tokens are counted."""
_THINKING_FACTOR, _RETRY_FACTOR = 3, 1.2
"""Factors of the estimate ``high``, see :class:`tokalign.claude.prices.Estimate`."""
_COMPLAINT = 1000
"""Upper bound on the bytes that a second request adds, apart from the first answer."""
_ANSWER_OVERHEAD = 30
"""Tokens of an answer besides its text: field names and a rationale of one line."""


class SizedIterable(Protocol[T_co]):
    """An iterable with a length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


async def estimate(
    items: SizedIterable[T],
    build: Callable[[T], tuple[Request, str]],
    folder: Path,
    model: str,
    options: ClaudeOptions,
    re_ask: bool,
) -> Estimate:
    """Estimate the cost of one request per item.

    Args:
        items: all rows.
        build: returns the request for an item, and a text about as long as its answer.
        folder: output folder; its journal, if there is one, has earlier answers.
        model: model ID, used to look up prices.
        options: request options.
        re_ask: whether a second request follows an answer that cannot be used.

    Raises:
        UsageError: no price is known for the model.
        ServiceError: the API does not count the tokens.
    """
    rates, factor = prices.load(model, options.prices, options.allow_unpriced), BATCH if options.batch else 1
    with tempfile.TemporaryDirectory() as temporary:
        journal_file = Path(temporary) / JOURNAL
        if (folder / JOURNAL).is_file():
            shutil.copy(folder / JOURNAL, journal_file)  # opening a journal can write to it
        with Journal(journal_file) as journal:
            unanswered: dict[str, T] = {}
            max_cost, answered = journal.committed, 0
            for item in items:
                request, _ = build(item)
                key = key_of(request)
                answered += key in journal
                if key not in journal and key not in unanswered:
                    unanswered[key] = item
                    max_cost += _max_cost(request, rates, options.batch, re_ask)
            paid = journal.spent
            claude = Claude(journal, rates, options)
            rows = list(unanswered.values())
            sample = [rows[int(k)] for k in np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows)))]
            try:
                inputs, outputs, static = await _count(claude, [build(item) for item in sample])
            finally:
                await claude.close()
    low = _mean(inputs - static, -2) * rates.input + static * rates.cache_read + _mean(outputs, -2) * rates.output
    retry_factor = _RETRY_FACTOR if re_ask else 1.0
    high = retry_factor * (_mean(inputs, 2) * rates.input + _THINKING_FACTOR * _mean(outputs, 2) * rates.output)
    dollars = factor * len(unanswered) / prices.MILLION
    return Estimate(
        model, len(items), answered, round(_mean(inputs)), round(_mean(outputs)),
        round(low * dollars, 4), round(high * dollars, 4), round(max_cost + 5e-5, 4), round(paid, 4),
    )  # fmt: skip


def _max_cost(request: Request, rates: prices.Rates, batch: bool, re_ask: bool) -> float:
    """Maximum cost in US dollars of a request and, with ``re_ask``, of a second one with twice the answer length."""
    prompt, answer = max_prompt_tokens(request), int(request["max_tokens"])
    first = rates.max_cost(prompt, answer, batch)
    return first + rates.max_cost(prompt + 4 * answer + _COMPLAINT, 2 * answer, batch) if re_ask else first


def _mean(counts: Any, errors: float = 0.0) -> float:
    """Mean of the counts plus ``errors`` standard errors, at least 0; 0 if there are no counts."""
    if not len(counts):
        return 0.0
    error = float(np.std(counts) / np.sqrt(len(counts)))
    return max(0.0, float(np.mean(counts)) + errors * error)


async def _count(claude: Claude, sample: Sequence[tuple[Request, str]]) -> tuple[Any, Any, float]:
    """Count the tokens of each request, of each answer, and of the prefix that all requests share."""
    if not sample:
        return np.zeros(0), np.zeros(0), 0.0

    def plain(request: Request, text: str) -> Request:
        return {"model": request["model"], "messages": [{"role": "user", "content": text}]}

    first = sample[0][0]
    empty = {**first, "messages": [{"role": "user", "content": "."}]}
    requests = [empty, plain(first, "."), *(r for r, _ in sample), *(plain(r, text) for r, text in sample)]
    static, base, *counts = await asyncio.gather(*(_count_tokens(claude, r) for r in requests))
    inputs, outputs = np.array(counts[: len(sample)]), np.array(counts[len(sample) :])
    return inputs, outputs - base + _ANSWER_OVERHEAD, float(static - base)


async def _count_tokens(claude: Claude, request: Request) -> int:
    countable: Any = {k: v for k, v in request.items() if k != "max_tokens"}
    result: Failed | Retry = Retry("")
    for attempt in range(claude.options.max_retries + 1):
        await sleep(backoff(attempt) if attempt else 0.0)
        async with claude.rate_limiter.slot():
            try:
                return (await claude.sdk.messages.count_tokens(**countable)).input_tokens
            except anthropic.APIStatusError as e:
                result = claude.handle(e)
            except (anthropic.APIConnectionError, AttributeError, ValueError):
                result = Retry("no response")
        if isinstance(result, Failed):
            break
    raise ServiceError(f"cannot count tokens: {result.why}", remedy="check --model, or try again later")
