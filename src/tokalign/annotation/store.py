"""Annotation store: the rows to edit, their reservations by browser tabs, drafts and decisions.

Each decision is written to ``annotations.jsonl`` before it counts; the last decision on a row is valid. Rows are
identified by a hash of their texts, not by their ids, so decisions never apply to other texts.
"""

import json
import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, get_args

from tokalign.artifacts import append_log
from tokalign.artifacts.schemas import Prompt
from tokalign.runtime.disk import hash_json, sync

CLAIM = 180.0
"""Seconds after a tab's last activity until its row can be given to another tab."""
LEAVING = 10.0
"""Seconds for which a row stays reserved when the page is closed or reloaded."""
Verdict = Literal["edited", "unchanged", "failed"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Task(NamedTuple):
    """A row to annotate."""

    id: str
    prompt: Prompt
    original: str
    proposed: str
    """Initial text of the edit: the original, or another editor's edit of it."""
    chosen: str | None
    categories: tuple[str, ...] = ()
    rationale: str = ""
    note: str = ""
    """Editor of the proposed edit and the reason or status that the gates gave it."""

    @property
    def key(self) -> str:
        """Hash of the texts of the row; decisions are stored under it."""
        return hash_json([self.prompt, self.original, self.proposed, self.chosen])[:24]

    @property
    def start(self) -> "Work":
        """Initial state of the annotation."""
        return Work(self.proposed, list(self.categories), self.rationale)


@dataclass(frozen=True)
class Work:
    """An annotator's edit of a row, as a draft or in a decision."""

    text: str
    categories: list[str] = field(default_factory=list)
    rationale: str = ""


@dataclass(frozen=True)
class Decision:
    """A saved decision."""

    verdict: Verdict
    work: Work
    annotator: str
    version: int
    """Number of decisions on the row so far, from 1."""


class ConflictError(Exception):
    """The row was decided in another tab since it was shown."""


def _parse_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    value.encode()  # fails for lone surrogates
    return value


def _parse_work(value: Any) -> Work:
    """Parse the ``work`` of a journal entry.

    Raises:
        ValueError, TypeError: it is not valid.
    """
    work = Work(**value)
    if not isinstance(work.categories, list):
        raise ValueError("not a list of categories")
    for text in (work.text, work.rationale, *work.categories):
        _parse_text(text)
    return work


def _parse_decision(entry: dict[str, Any], work: Work) -> Decision:
    """Parse a journal entry as a decision.

    Raises:
        ValueError, KeyError: it is not valid.
    """
    verdict, version = entry["verdict"], entry["version"]
    if verdict not in VERDICTS:
        raise ValueError(f"unknown verdict {verdict!r}")
    if type(version) is not int or version < 1:
        raise ValueError(f"not a version: {version!r}")
    return Decision(verdict, work, _parse_text(entry["annotator"]), version)


class AnnotationStore:
    """Annotation store: ``with AnnotationStore(tasks, path, annotator) as store``.

    The caller must lock the folder against other processes.

    Args:
        tasks: all rows, in order.
        path: file of the journal; created if it does not exist.
        annotator: name of the annotator, recorded with each decision.

    Raises:
        InputError: the file is not a valid journal of annotations.
    """

    def __init__(self, tasks: Sequence[Task], path: Path, annotator: str) -> None:
        self.tasks, self.path, self.annotator = tasks, path, annotator
        self.decisions: dict[str, Decision] = {}
        self.drafts: dict[str, Work] = {}
        self.done = 0
        """Number of decided rows."""
        self._keys = [task.key for task in tasks]
        self._duplicates = Counter(self._keys)
        """Number of rows per key; rows with equal texts are decided together."""
        self._claims: dict[str, tuple[str, float, int]] = {}
        """Reservations: key → client, time of its last activity, row."""
        self._skipped: dict[str, dict[int, None]] = {}
        """Skipped rows per client, in the order of skipping."""
        self._first = 0
        """All rows before this one are decided."""
        self._saves: deque[float] = deque(maxlen=20)
        new = not path.exists()
        self._file = append_log.open_log(path)
        if new:
            sync(path.parent)
        remedy = "repair the line, or move the file away; it contains an annotator's work"
        append_log.replay(self._file, path, self._apply, remedy)

    def _apply(self, entry: dict[str, Any], _: int) -> None:
        work, key = _parse_work(entry["work"]), _parse_text(entry["key"])
        if entry["event"] == "draft":
            self.drafts[key] = work
        elif entry["event"] == "decided":
            self._set_decision(key, _parse_decision(entry, work))
        else:
            raise ValueError(f"unknown event {entry['event']!r}")

    def _set_decision(self, key: str, decision: Decision) -> None:
        if key not in self.decisions:
            self.done += self._duplicates[key]
        self.decisions[key] = decision
        self.drafts.pop(key, None)

    def _write(self, entry: dict[str, Any], durably: bool) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._file.write(json.dumps({**entry, "at": now}).encode() + b"\n")
        self._file.flush()
        if durably:
            os.fsync(self._file.fileno())

    @property
    def rate(self) -> float:
        """Decided rows per hour over the last saves of this session; 0 until there are three."""
        saves = self._saves
        return 3600 * (len(saves) - 1) / max(saves[-1] - saves[0], 1e-9) if len(saves) > 2 else 0.0

    def decision(self, row: int) -> Decision | None:
        """Return the last decision on a row."""
        return self.decisions.get(self._keys[row])

    def draft(self, row: int) -> Work | None:
        """Return the draft of a row."""
        return self.drafts.get(self._keys[row])

    def version(self, row: int) -> int:
        """Return the number of decisions on a row."""
        decision = self.decision(row)
        return decision.version if decision else 0

    def claim(self, row: int, client: str) -> bool:
        """Reserve a row for a client. Returns False if another client has it, or a row with equal texts."""
        key, now = self._keys[row], time.monotonic()
        holder, since, _ = self._claims.get(key, ("", 0.0, 0))
        if holder not in ("", client) and now - since < CLAIM:
            return False
        self._claims = {k: c for k, c in self._claims.items() if c[0] != client}
        self._claims[key] = (client, now, row)
        return True

    def _release(self, row: int, client: str) -> None:
        if self._claims.get(self._keys[row], ("",))[0] == client:
            del self._claims[self._keys[row]]

    def next(self, client: str) -> int | None:
        """Return the client's reserved row, or reserve the next undecided one for it. None: there is no such row.

        Rows that the client skipped come last, in the order of skipping.
        """
        held = next((row for holder, _, row in self._claims.values() if holder == client), None)
        if held is not None and self.claim(held, client):
            return held
        while self._first < len(self.tasks) and self._keys[self._first] in self.decisions:
            self._first += 1
        skipped = self._skipped.get(client, {})
        unseen = (r for r in range(self._first, len(self.tasks)) if r not in skipped)
        for row in chain(unseen, list(skipped)):
            if self._keys[row] not in self.decisions and self.claim(row, client):
                skipped.pop(row, None)
                return row
        return None

    def skip(self, row: int, client: str) -> None:
        """Release a row and move it behind all rows that the client skipped before."""
        skipped = self._skipped.setdefault(client, {})
        skipped.pop(row, None)
        skipped[row] = None
        self._release(row, client)

    def keep(self, row: int, client: str, version: int, work: Work, leaving: bool = False) -> bool:
        """Save a draft and extend the reservation of the row.

        Args:
            row: number of the row.
            client: ID of the browser tab.
            version: version of the decision that the tab shows, 0 if there was none.
            work: the draft.
            leaving: whether the page is being closed or reloaded.

        Returns:
            Whether the draft was saved; False if another client has the row or decided it meanwhile.
        """
        key, decision = self._keys[row], self.decision(row)
        if version != self.version(row) or not self.claim(row, client):
            return False
        if leaving:
            self._claims[key] = (client, time.monotonic() - CLAIM + LEAVING, row)
        if work != (self.drafts.get(key) or (decision.work if decision else self.tasks[row].start)):
            self.drafts[key] = work
            self._write({"event": "draft", "key": key, "work": asdict(work)}, durably=False)
        return True

    def save(self, row: int, version: int, verdict: Verdict, work: Work) -> Decision:
        """Save a decision. It is on disk when this returns.

        Args:
            row: number of the row.
            version: version of the decision that the tab shows, 0 if there was none.
            verdict: ``edited``, ``unchanged`` (nothing to fix) or ``failed`` (cannot be fixed).
            work: text, categories and rationale.

        Raises:
            ConflictError: the row was decided in another tab since it was shown.
        """
        key, before = self._keys[row], self.decision(row)
        if before and before.version == version + 1 and (before.verdict, before.work) == (verdict, work):
            return before  # the same request again, because the response was lost
        if self.version(row) != version:
            raise ConflictError
        decision = Decision(verdict, work, self.annotator, version + 1)
        entry = {"event": "decided", "key": key, "verdict": verdict, "work": asdict(work)}
        self._write({**entry, "annotator": self.annotator, "version": decision.version}, durably=True)
        self._set_decision(key, decision)
        self._claims.pop(key, None)
        self._saves.append(time.monotonic())
        return decision

    def __enter__(self) -> "AnnotationStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
