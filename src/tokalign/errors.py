"""Errors shown to the user, with the exit code of the command.

::

    TokalignError            1  unexpected failure, such as a full disk
    ├── UsageError           2  invalid or conflicting options
    │   └── ConflictError    2  the output folder holds another run
    ├── InputError           5  bad input: place (file:line), field, value and remedy
    │   ├── KindError        5  wrong kind of artifact
    │   └── VersionError     5  artifact of a newer version of tokalign
    ├── BudgetError          4  budget reached; paid answers are kept
    ├── LockedError          6  another process is writing this folder
    ├── ServiceError         7  the API rejected the request: key, permission, credit or model name
    └── StoppedError   130/143  SIGINT or SIGTERM; finished work is kept

Other exit codes: 0 success · 3 finished, but rows failed or no edit is usable.
"""


class TokalignError(Exception):
    """Base class of all errors shown to the user.

    Args:
        message: what is wrong, in one line.
        remedy: what the user can do about it, in one line; "" if unknown.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UsageError(TokalignError):
    """An option has an invalid value, or options conflict."""

    exit_code = 2


class ConflictError(UsageError):
    """The output folder holds a run with other inputs or other settings."""


class InputError(TokalignError):
    """The input is invalid.

    Args:
        message: what is wrong; also kept as ``reason``, by which skipped rows are counted.
        where: ``file:line`` (first line 1) or the path of the artifact; "" if unknown.
        field: name of the invalid column; "" if unknown.
        value: the offending value, added to the text but not to ``reason``, so that equal problems count together.
        remedy: what the user can do about it.
    """

    exit_code = 5

    def __init__(self, message: str, *, where: str = "", field: str = "", value: str = "", remedy: str = "") -> None:
        self.where, self.field, self.reason = where, field, message
        place = ": ".join(p for p in (where, f"field {field!r}" if field else "") if p)
        problem = f"{message}: {value}" if value else message
        super().__init__(f"{place}: {problem}" if place else problem, remedy=remedy)


class VersionError(InputError):
    """A newer version of tokalign wrote the artifact."""


class KindError(InputError):
    """The command does not accept this kind of artifact."""


class BudgetError(TokalignError):
    """The next API call could exceed the budget (``--max-cost``)."""

    exit_code = 4


class ServiceError(TokalignError):
    """The API rejected the request (key, permission, credit or model name) or cannot be used."""

    exit_code = 7


class LockedError(TokalignError):
    """Another process is writing to the same folder."""

    exit_code = 6


class StoppedError(TokalignError):
    """The command was interrupted by a signal.

    Args:
        signal: number of the signal; the exit code is 128 plus this number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__("interrupted", remedy="run the same command again to resume")
        self.exit_code = 128 + signal


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no reason is given"
