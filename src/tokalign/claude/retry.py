"""API errors: whether a failed call may have been billed, is retried, or stops the run."""

import asyncio
import random
import time
from typing import NamedTuple

import anthropic

from tokalign.errors import ServiceError
from tokalign.runtime import signals

_SPEND_LIMIT = "enforced_spend_limit_reached"
_FATAL = {
    401: ("the API key is invalid", "set ANTHROPIC_API_KEY to a valid key"),
    402: ("the account has no credit", "add credit, then run the same command again"),
    403: ("the API key does not have permission for this request", "use a key that has it"),
    404: ("the model does not exist or is not available to this API key", "check --model"),
}
"""Statuses that stop the run, each with the problem and the remedy."""
_NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError", "InvalidURL")


class Failed(NamedTuple):
    """A call without an answer, not to be retried in this run."""

    why: str
    transient: bool = True
    """Whether a later run may succeed. False: the API rejected the request itself."""


class Retry(NamedTuple):
    """A call to be retried."""

    why: str
    scheduled: bool = False
    """Whether the API said when to retry; such a retry does not count towards ``--max-retries``."""


def classify(error: anthropic.APIStatusError, key: str | None = None) -> Failed | Retry:
    """Decide whether a request with an error status is retried.

    Args:
        error: error raised by the SDK.
        key: API key, which is removed from the message of a failure.

    Raises:
        ServiceError: the API rejects all requests: invalid key, missing permission or credit, unknown model.
    """
    status, message = error.status_code, str(error.api_message or "")
    # A spending limit set by the customer has no error code.
    if error.error_code == _SPEND_LIMIT or "specified API usage limits" in message or "credit balance" in message:
        remedy = "raise the limit, then run the same command again"
        raise ServiceError("the spending limit of the account is reached", remedy=remedy) from None
    if status in _FATAL:
        problem, remedy = _FATAL[status]
        raise ServiceError(f"{problem} (status {status})", remedy=remedy) from None
    if status in (408, 409, 429) or status >= 500:
        return Retry(str(status), scheduled=status == 429 and "retry-after" in error.response.headers)
    line = " ".join(message.encode(errors="replace").decode().split())[:200]
    return Failed(f"{status} {error.type or ''}: {line}".replace(key or "\0", "…"), transient=False)


def may_be_billed(status: int, submission: bool = False) -> bool:
    """Whether a request with this error status may have been processed and billed, as after an error of a gateway.

    ``submission``: the request creates a batch; then status 500 leaves this open too.
    """
    return status in (408, 502, 504) or 520 <= status < 528 or (submission and status == 500)


def was_not_sent(error: anthropic.APIConnectionError) -> bool:
    """Whether the connection failed before the request was sent."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in _NOT_SENT:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def backoff(attempt: int) -> float:
    """Seconds to wait before retry number ``attempt``: exponential, at most one minute, with jitter."""
    return float(min(60.0, 0.5 * 2**attempt)) * random.uniform(0.5, 1.0)


async def sleep(seconds: float) -> None:
    """Sleep for some seconds, checking for signals.

    Raises:
        StoppedError: the run was interrupted.
    """
    deadline = time.monotonic() + seconds
    signals.check()
    while (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 0.2))
        signals.check()
