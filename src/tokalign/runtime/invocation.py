"""The command line of the current run, as recorded in manifests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_PROGRAM = ["tokalign"]


class _Current:
    command: Sequence[str] = _PROGRAM


def command() -> list[str]:
    """Return the arguments of the running command, or the program name alone if they are unknown."""
    return list(_Current.command)


def on_the_command_line() -> bool:
    """Whether the command was started from a shell. If so, modules may be imported from the working directory."""
    return _Current.command[0] == _PROGRAM[0] and len(_Current.command) > 1


@contextmanager
def of(arguments: Sequence[str]) -> Iterator[None]:
    """Set the running command inside the block."""
    before, _Current.command = _Current.command, arguments
    try:
        yield
    finally:
        _Current.command = before
