"""What can go wrong with a call, and what it means: for money, for trying again, for the run."""

import asyncio
import random
import time
from typing import NamedTuple

import anthropic

from tokalign.errors import ServiceError
from tokalign.runtime import signals

_SPENT_OUT = "enforced_spend_limit_reached"
_FOR_THE_RUN = {
    401: ("the API key is not accepted", "set ANTHROPIC_API_KEY to a key that is"),
    402: ("the account has no credit", "add credit, then run the same command again"),
    403: ("the key may not do this", "use a key with the right to"),
    404: ("there is no such model for this key", "see --model"),
}
"""Status → what it means for the whole run, and what to do."""
_NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError", "InvalidURL")


class Failed(NamedTuple):
    """A call that ended without an answer."""

    why: str
    passing: bool = True
    """Whether it may go better another time; else the request itself is at fault."""


class Again(NamedTuple):
    """Why a call is to be made again."""

    why: str
    told: bool = False
    """Whether the service said when: then it does not count as a failure."""


def after_status(error: anthropic.APIStatusError, key: str | None = None) -> Failed | Again:
    """What an error status means for its request. ``key``: the API key, which is left out of what is said.

    Raises:
        ServiceError: no request can succeed: a key, a right, money, a name.
    """
    status, said = error.status_code, str(error.api_message or "")
    # The message of a limit that a customer sets has no code of its own.
    if error.error_code == _SPENT_OUT or "specified API usage limits" in said or "credit balance" in said:
        raise ServiceError("the spending limit of the account is reached", remedy="raise it, then run again") from None
    if status in _FOR_THE_RUN:
        what, remedy = _FOR_THE_RUN[status]
        raise ServiceError(f"{what} ({status})", remedy=remedy) from None
    if status in (408, 409, 429) or status >= 500:
        return Again(str(status), told=status == 429 and "retry-after" in error.response.headers)
    line = " ".join(said.encode(errors="replace").decode().split())[:200]
    return Failed(f"{status} {error.type or ''}: {line}".replace(key or "\0", "…"), passing=False)


def may_have_passed(status: int, submission: bool = False) -> bool:
    """Whether a request with this error status may have been worked on, and paid, all the same.

    A gateway in between does not know. ``submission``: of a batch; an error of the service says nothing of it either.
    """
    return status in (408, 502, 504) or 520 <= status < 528 or (submission and status == 500)


def never_left(error: anthropic.APIConnectionError) -> bool:
    """Whether a connection could not be made at all, so that the request was not sent."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in _NOT_SENT:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def patience(attempt: int) -> float:
    """Seconds to wait before a call is made again: twice as long each time, to a minute, with chance in it."""
    return float(min(60.0, 0.5 * 2**attempt)) * random.uniform(0.5, 1.0)


async def nap(seconds: float) -> None:
    """Sleep, unless the end is asked for.

    Raises:
        StoppedError: it is.
    """
    until = time.monotonic() + seconds
    signals.check()
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 0.2))
        signals.check()
