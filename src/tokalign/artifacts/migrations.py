"""Steps from an older version of a kind to the next. A row is migrated as it is read; files are never rewritten.

A kind whose layout changes gets its version in :mod:`tokalign.artifacts.schemas` raised by one, an entry here, and a
sample of the old version in ``data/`` (``data/KIND/vN``) that a test reads for ever.
"""

from collections.abc import Callable
from typing import Any

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: dict[tuple[str, int], Migration] = {}
"""(kind, version) → a row of that version to a row of the next. Every kind is at version 1 so far."""


def migrate(kind: str, version: int, newest: int, row: dict[str, Any]) -> dict[str, Any]:
    """A row of ``kind/version`` as ``kind/newest`` has it."""
    for step in range(version, newest):
        row = MIGRATIONS[kind, step](row)
    return row
