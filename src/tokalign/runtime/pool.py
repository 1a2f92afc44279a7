"""Process parts of the input in several processes and return the results in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from tokalign.errors import TokalignError

P = TypeVar("P")
R = TypeVar("R")
_ROWS_PER_PROCESS = 5000
"""Minimum number of rows per process; with fewer, starting a process takes longer than it saves."""


def how_many(requested: int, rows: int) -> int:
    """Return the number of processes. If ``requested`` is 0, it is chosen from the number of cores and rows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return requested or max(1, min(cores, rows // _ROWS_PER_PROCESS))


def each(
    parts: Iterable[P], begin: Callable[..., Callable[[P], R]], args: tuple[Any, ...], n: int
) -> Iterator[tuple[P, R]]:
    """Yield ``(part, result)`` for every part, in order.

    At most two parts per process are queued or running, so memory does not grow with the input.

    Args:
        parts: inputs; must be picklable.
        begin: called as ``begin(*args)`` once in each process; returns the function that processes a part.
        args: arguments of ``begin``.
        n: number of processes; 1 runs in this process.

    Raises:
        TokalignError: a worker process died.
    """
    if n == 1:
        work = begin(*args)
        yield from ((part, work(part)) for part in parts)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe with the threads of torch and tokenizers
    remaining = iter(parts)
    with ProcessPoolExecutor(n, context, _start_worker, (begin, args)) as pool:
        pending: deque[tuple[P, Future[R]]] = deque()
        try:
            while True:
                for part in islice(remaining, 2 * n - len(pending)):
                    pending.append((part, pool.submit(_process, part)))
                if not pending:
                    return
                part, future = pending.popleft()
                yield part, future.result()
        except BrokenProcessPool as e:
            raise TokalignError("a worker process died", remedy="possibly out of memory; lower --workers") from e
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Worker:
    work: Any = None


def _start_worker(begin: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles it
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _Worker.work = begin(*args)


def _exit_with_parent() -> None:
    """Exit when the parent process exits."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _process(part: Any) -> Any:
    return _Worker.work(part)
