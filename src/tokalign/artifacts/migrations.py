"""Migrations of rows from older schema versions. Rows are migrated as they are read; files are never rewritten.

To change the schema of a kind, increase its version in :mod:`tokalign.artifacts.schemas` by one, add a migration here,
and add a sample of the old version in ``data/KIND/vN``, which a test reads.
"""

from collections.abc import Callable
from typing import Any

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: dict[tuple[str, int], Migration] = {}
"""Maps (kind, version) to a function that converts a row of that version to the next. All kinds have version 1."""


def migrate(kind: str, version: int, newest: int, row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of ``kind/version`` to ``kind/newest``."""
    for step in range(version, newest):
        row = MIGRATIONS[kind, step](row)
    return row
