"""Work on parts of the input in several processes, the results in order."""

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
_WORTH = 5000
"""Rows for which it pays to start a process."""


def how_many(asked: int, rows: int) -> int:
    """Processes to use; ``asked`` 0: as many as there are cores and rows for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or max(1, min(cores, rows // _WORTH))


def each(
    parts: Iterable[P], begin: Callable[..., Callable[[P], R]], args: tuple[Any, ...], n: int
) -> Iterator[tuple[P, R]]:
    """Every part with what is made of it, in order, by ``begin(*args)`` in each of ``n`` processes (1: in this one).

    A process holds one part; no more than two for each are under way, so memory stays flat.

    Raises:
        TokalignError: a process died.
    """
    if n == 1:
        work = begin(*args)
        yield from ((part, work(part)) for part in parts)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch and the tokenizer
    rest = iter(parts)
    with ProcessPoolExecutor(n, context, _start, (begin, args)) as pool:
        waiting: deque[tuple[P, Future[R]]] = deque()
        try:
            while True:
                for part in islice(rest, 2 * n - len(waiting)):
                    waiting.append((part, pool.submit(_do, part)))
                if not waiting:
                    return
                part, future = waiting.popleft()
                yield part, future.result()
        except BrokenProcessPool as e:
            raise TokalignError("a worker process died", remedy="perhaps for want of memory: fewer --workers") from e
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Here:
    work: Any = None


def _start(begin: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run in good order
    threading.Thread(target=_follow, daemon=True).start()
    _Here.work = begin(*args)


def _follow() -> None:
    """End when the parent does, however it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(part: Any) -> Any:
    return _Here.work(part)
