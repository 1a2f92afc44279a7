"""Content types of the columns of a file, from which its layout is detected."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from tokalign.data.conversation import is_turns, parsed

Raw = Mapping[str, Any]
TRANSCRIPT = "\n\nHuman:"
"""Start of a transcript."""


class Shape:
    """The content type of each column, by majority vote over a sample of rows.

    Args:
        rows: sample of raw rows.
        cells: whether every cell is text that may contain JSON, as in CSV.
    """

    def __init__(self, rows: Iterable[Raw], cells: bool = False) -> None:
        votes: dict[str, Counter[str]] = {}
        for row in rows:
            for name, value in row.items():
                votes.setdefault(name, Counter())[_kind(value, cells)] += 1
        self.kinds = {name: _winner(counts, cells) for name, counts in votes.items()}
        """Column → ``text``, ``transcript``, ``turns``, ``list``, ``object``, ``number`` or ``nothing``."""

    def has(self, *names: str) -> bool:
        """Whether all these columns exist."""
        return all(name in self.kinds for name in names)

    def holds(self, kind: str, *names: str) -> bool:
        """Whether all these columns exist and have this content type."""
        return all(self.kinds.get(name) == kind for name in names)

    @property
    def prompt_like(self) -> list[str]:
        """Non-empty columns whose names suggest a prompt or a part of one."""
        return [name for name in self._filled if is_prompt_name(name)]

    @property
    def strange(self) -> list[str]:
        """Non-empty columns other than the responses whose names do not rule out a prompt."""
        known = ("chosen", "rejected")
        return [name for name in self._filled if name not in known and _OTHER_NAMES.isdisjoint(_words(name))]

    @property
    def _filled(self) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind not in ("number", "nothing")]


def _kind(value: Any, cells: bool) -> str:
    if value is None or value in ("", [], {}):
        return "nothing"
    if isinstance(value, str):
        if cells and is_turns(parsed(value)):
            return "turns"
        return "transcript" if value.startswith(TRANSCRIPT) else "text"
    if isinstance(value, list):
        return "turns" if is_turns(value) else "list"
    return "object" if isinstance(value, dict) else "number"


def _winner(counts: Counter[str], cells: bool) -> str:
    """The most frequent content type. Text cells count as turns only if all of them contain turns."""
    real = {kind: n for kind, n in counts.items() if kind != "nothing"}
    if cells and len(real) > 1:
        real.pop("turns", None)
    return max(real, key=lambda kind: real[kind]) if real else "nothing"


_PROMPT_NAMES = frozenset((
    "prompt", "prompts", "instruction", "instructions", "question", "questions", "query", "queries", "input", "inputs",
    "system", "messages", "message", "conversation", "conversations", "context", "contexts", "history", "user",
    "human", "request", "task", "problem", "dialogue", "dialog", "chat", "post", "document", "article", "passage",
    "passages", "title", "body", "subject", "turns", "ask", "q", "problems", "tasks", "requests", "topic",
))  # fmt: skip
_OTHER_NAMES = frozenset((
    "id", "ids", "uid", "uuid", "hash", "len", "length", "tokens", "count", "version", "source", "type", "name", "lang",
    "language", "category", "categories", "model", "models", "score", "scores", "rating", "ratings", "dataset",
    "subset", "split", "domain", "tag", "tags", "label", "labels", "annotator", "date", "time", "timestamp", "url",
    "license", "rationale", "reason", "comment", "metadata", "meta", "generator", "margin", "origin", "winner",
    "judge",
))  # fmt: skip
"""Words in column names that suggest a prompt, or metadata of a row."""


@lru_cache(maxsize=4096)
def is_prompt_name(name: str) -> bool:
    """Whether a column name suggests a prompt or a part of one."""
    return not _PROMPT_NAMES.isdisjoint(_words(name)) and _OTHER_NAMES.isdisjoint(_words(name))


def _words(name: str) -> list[str]:
    return re.split(r"[\W_]+", name.lower())
