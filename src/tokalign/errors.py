"""Every error a user can meet, each with the exit code of the command that meets it.

::

    TokalignError            1  something went wrong
    ├── UsageError           2  the command asks for something that cannot be
    │   └── ConflictError    2  the output folder holds another run
    ├── InputError           5  bad input: file:line, field, value, remedy
    │   └── KindError        5  an artifact of the wrong kind
    ├── BudgetError          4  the cap on spending is reached; what was paid for is kept
    ├── LockedError          6  another process writes this folder
    ├── ServiceError         7  the service, or the credentials for it
    └── StoppedError   130/143  SIGINT or SIGTERM; what was done is kept

Other codes: 0 done · 3 finished, with rows that failed or edits of which none can be used.
"""


class TokalignError(Exception):
    """Base of all errors meant for the user: one line of what, one line of what to do."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UsageError(TokalignError):
    """The command line or configuration asks for something that cannot be."""

    exit_code = 2


class ConflictError(UsageError):
    """The output folder holds a run with other inputs or settings."""


class InputError(TokalignError):
    """Bad input.

    Args:
        message: what is wrong, with the offending value.
        where: ``file:line`` (lines from 1) or the artifact, if known.
        field: the column at fault, if one is.
        value: what stands there, where the message is to be the same for many.
        remedy: what the user can do about it.
    """

    exit_code = 5

    def __init__(self, message: str, *, where: str = "", field: str = "", value: str = "", remedy: str = "") -> None:
        self.where, self.field, self.reason = where, field, message
        place = ": ".join(p for p in (where, f"field {field!r}" if field else "") if p)
        whole = f"{message}: {value}" if value else message
        super().__init__(f"{place}: {whole}" if place else whole, remedy=remedy)


class KindError(InputError):
    """An artifact of another kind than the command takes."""


class BudgetError(TokalignError):
    """The next paid call could cost more than the cap on spending leaves."""

    exit_code = 4


class ServiceError(TokalignError):
    """A service refuses to work for us: a key, a right, money, a name."""

    exit_code = 7


class LockedError(TokalignError):
    """Another process is writing the same folder."""

    exit_code = 6


class StoppedError(TokalignError):
    """The user, or the system, asked for the end."""

    def __init__(self, signal: int) -> None:
        super().__init__("interrupted", remedy="run the same command again to go on")
        self.exit_code = 128 + signal


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    said = str(error).strip().splitlines()
    return said[0][:300] if said else "no reason is given"
