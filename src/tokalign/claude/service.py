"""Opening the service for a stage: its journal in the stage's folder, its prices, one call at a time or in batches."""

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
    """Claude, with a journal in ``folder``; what an earlier run submitted is waited for first.

    Args:
        folder: of the stage, which holds it locked.
        model: whose prices count.
        options: how to ask.
        say: tells the user something that takes long.

    Raises:
        UsageError: the price of the model is not known.
        ServiceError: there is no key.
        InputError: the journal, or the file of prices, is not one.
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


async def worked(
    items: Iterable[T],
    work: Callable[[T, Claude], Awaitable[R]],
    start: int,
    folder: Path,
    model: str,
    options: ClaudeOptions,
    say: Callable[[str], None],
    tell: Callable[[dict[str, Any]], None],
) -> AsyncGenerator[R]:
    """What came of ``work`` on each item from ``start``, in order. ``tell`` hears before each what is spent so far."""
    async with (
        service(folder, model, options, say) as claude,
        aclosing(claude.each(items, lambda item: work(item, claude), start)) as found,
    ):
        tell(spent(claude.journal))
        async for _, result in found:
            tell(spent(claude.journal))
            yield result


def in_turn(found: AsyncGenerator[R]) -> Iterator[R]:
    """What an asynchronous generator gives, for a loop that does not wait by itself; the calls go on while it waits."""
    nothing = object()

    async def following() -> Any:
        return await anext(found, nothing)

    refuse_running_loop()
    with asyncio.Runner() as runner:
        try:
            while (item := runner.run(following())) is not nothing:
                yield item
        finally:
            with suppress(RuntimeError):  # it is running already, where an interruption came while it ended
                runner.run(found.aclose())


def one(asked: Coroutine[Any, Any, R]) -> R:
    """What comes of one call that waits."""
    try:
        refuse_running_loop()
    except UsageError:
        asked.close()
        raise
    return asyncio.run(asked)


def refuse_running_loop() -> None:
    """Say what to do in a notebook, where a loop runs that waits for this very call.

    Raises:
        UsageError: one runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError("called within a running event loop", remedy="in a notebook: await asyncio.to_thread(FUNCTION, …)")


def spent(journal: Journal) -> dict[str, Any]:
    """What a manifest says of money: dollars paid, dollars perhaps paid besides, calls lost, and why calls failed."""
    return {
        "usd": round(journal.spent, 6),
        "perhaps_usd": round(journal.perhaps, 6),
        "answers": journal.charged,
        "lost_calls": journal.lost,
        "retries": dict(journal.retries),
    }
