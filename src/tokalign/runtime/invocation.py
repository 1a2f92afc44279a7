"""What manifests say of how they came to be: the command, as it was given."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_PROGRAM = ["tokalign"]


class _Now:
    command: Sequence[str] = _PROGRAM


def command() -> list[str]:
    """The command that is running; the program's name alone where nobody said."""
    return list(_Now.command)


def on_the_command_line() -> bool:
    """Whether a user typed it, so that what is named by a module may lie where it was typed."""
    return _Now.command[0] == _PROGRAM[0] and len(_Now.command) > 1


@contextmanager
def of(given: Sequence[str]) -> Iterator[None]:
    """Within, this is the command."""
    before, _Now.command = _Now.command, given
    try:
        yield
    finally:
        _Now.command = before
