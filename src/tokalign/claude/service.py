"""Claude client for a stage, with its journal and prices, and synchronous wrappers around asynchronous calls."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tokalign.artifacts.manifest import JOURNAL
from tokalign.claude import prices
from tokalign.claude.batches import Batched, Batches
from tokalign.claude.client import Claude, R, T
from tokalign.claude.journal import Journal
from tokalign.config.options import ClaudeOptions
from tokalign.errors import UsageError


@asynccontextmanager
async def service(
    folder: Path, model: str, options: ClaudeOptions, say: Callable[[str], None]
) -> AsyncIterator[Claude]:
    """Context manager for a Claude client. Waits first for batches that an earlier run submitted.

    Args:
        folder: output folder of the stage; holds the journal. The caller must hold its lock.
        model: model ID, used to look up prices.
        options: request options.
        say: prints a progress line.

    Raises:
        UsageError: no price is known for the model.
        ServiceError: no API key is set.
        InputError: the journal or the price file is invalid.
    """
    rates = prices.load(model, options.prices, options.allow_unpriced)
    with Journal(folder / JOURNAL) as journal:
        claude = (Batched if options.batch else Claude)(journal, rates, options)
        batches = Batches(claude, say)
        if isinstance(claude, Batched):
            claude.batches = batches
        try:
            await batches.settle()
            if options.discard_journal:
                journal.discard()
            yield claude
            journal.finish()
        finally:
            await claude.close()


async def run_calls(
    items: Iterable[T],
    work: Callable[[T, Claude], Awaitable[R]],
    start: int,
    folder: Path,
    model: str,
    options: ClaudeOptions,
    say: Callable[[str], None],
    report_usage: Callable[[dict[str, Any]], None],
) -> AsyncGenerator[R]:
    """Run ``work`` on each item from index ``start`` and yield the results in order.

    ``report_usage`` is called with the current :func:`usage` once at the start and before each result.
    """
    async with (
        service(folder, model, options, say) as claude,
        aclosing(claude.each(items, lambda item: work(item, claude), start)) as results,
    ):
        report_usage(usage(claude.journal))
        async for _, result in results:
            report_usage(usage(claude.journal))
            yield result


def iterate(generator: AsyncGenerator[R]) -> Iterator[R]:
    """Iterate over an asynchronous generator from synchronous code; its tasks make progress while an item is awaited.

    Raises:
        UsageError: called within a running event loop.
    """
    end = object()

    async def advance() -> Any:
        return await anext(generator, end)

    refuse_running_loop()
    with asyncio.Runner() as runner:
        try:
            while (item := runner.run(advance())) is not end:
                yield item
        finally:
            with suppress(RuntimeError):  # the generator is already running if it was interrupted while closing
                runner.run(generator.aclose())


def run_async(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine from synchronous code and return its result.

    Raises:
        UsageError: called within a running event loop.
    """
    try:
        refuse_running_loop()
    except UsageError:
        coroutine.close()
        raise
    return asyncio.run(coroutine)


def refuse_running_loop() -> None:
    """Check that no event loop runs in this thread, as it does in a notebook.

    Raises:
        UsageError: an event loop is running.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError("called within a running event loop", remedy="in a notebook: await asyncio.to_thread(FUNCTION, …)")


def usage(journal: Journal) -> dict[str, Any]:
    """Usage entry of the manifest.

    Returns:
        US dollars paid, the maximum cost of calls with unknown outcome, the number of answers and of calls with unknown
        outcome, and the number of failed calls by reason.
    """
    return {
        "usd": round(journal.spent, 6),
        "perhaps_usd": round(journal.perhaps, 6),
        "answers": journal.charged,
        "lost_calls": journal.lost,
        "retries": dict(journal.retries),
    }
