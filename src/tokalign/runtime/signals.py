"""Handling of SIGINT and SIGTERM: the first signal ends the run cleanly, the second one immediately.

While an artifact is being written, a clean end means that the current row or step is finished and its state saved.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tokalign.errors import StoppedError

_SHOW_CURSOR = b"\x1b[?25h"


class _State:
    received = 0
    """Number of the signal that was received; 0 if none."""
    deferring = 0
    """Number of nested blocks that defer signals."""


def listen() -> None:
    """Install the handlers. A signal that the parent process ignores stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def patiently() -> Iterator[None]:
    """Inside the block, record a signal instead of raising; :func:`check` raises it."""
    _State.deferring += 1
    try:
        yield
    finally:
        _State.deferring -= 1


def received() -> int:
    """Return the number of the signal that was received; 0 if none."""
    return _State.received


def check() -> None:
    """Raise if a signal was received. Call this after a row or step is finished and saved.

    Raises:
        StoppedError: SIGINT or SIGTERM was received.
    """
    if _State.received:
        raise StoppedError(_State.received)


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.received:
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        os._exit(128 + number)
    _State.received = number
    if not _State.deferring:
        raise StoppedError(number)
    os.write(2, b"\ntokalign: finishing this step; press Ctrl-C again to quit now\n")
