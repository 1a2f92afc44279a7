"""SIGINT and SIGTERM: the first ends a run in good order, the second at once.

In good order means, while an artifact is written: the row or step at hand is finished and its state saved.
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
    """The signal that asked for the end; 0 if none has."""
    patient = 0
    """How many artifacts are being written."""


def listen() -> None:
    """Take both signals from here on (one that the parent told us to ignore stays ignored)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextmanager
def patiently() -> Iterator[None]:
    """Hold a signal back until :func:`check`, or to the end of the block."""
    _State.patient += 1
    try:
        yield
    finally:
        _State.patient -= 1


def received() -> int:
    """The signal that asked for the end; 0 if none has."""
    return _State.received


def asked() -> bool:
    """Whether the end was asked for."""
    return bool(_State.received)


def check() -> None:
    """Call when a row or step is done and saved.

    Raises:
        StoppedError: the end was asked for.
    """
    if _State.received:
        raise StoppedError(_State.received)


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.received:
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        os._exit(128 + number)
    _State.received = number
    if not _State.patient:
        raise StoppedError(number)
    os.write(2, b"\ntokalign: finishing what is at hand; once more leaves at once\n")
