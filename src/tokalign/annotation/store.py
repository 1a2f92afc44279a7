"""The annotation store: rows to edit, who has which, and what was decided.

Every decision is on disk, in ``annotations.jsonl``, before it counts; what was decided last stands. A row is known by a
hash of what is shown of it, so that work is found again whatever its id, and is not laid on another text.
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
"""Seconds without a sign of life after which a row that lies before someone may be given to another."""
LEAVING = 10.0
"""Seconds for which a row waits for a page that is left: it may only be loaded anew."""
Verdict = Literal["edited", "unchanged", "failed"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Task(NamedTuple):
    """A row as it is given out."""

    id: str
    prompt: Prompt
    original: str
    proposed: str
    """Where the editing starts: the original, or another editor's edit of it."""
    chosen: str | None
    categories: tuple[str, ...] = ()
    rationale: str = ""
    note: str = ""
    """Who proposes, and what came of it."""

    @property
    def key(self) -> str:
        """What decisions are kept under: all that is shown."""
        return hash_json([self.prompt, self.original, self.proposed, self.chosen])[:24]

    @property
    def start(self) -> "Work":
        """Where the editing starts."""
        return Work(self.proposed, list(self.categories), self.rationale)


@dataclass(frozen=True)
class Work:
    """What a person made of a row, decided or not."""

    text: str
    categories: list[str] = field(default_factory=list)
    rationale: str = ""


@dataclass(frozen=True)
class Decision:
    """Work that was handed in."""

    verdict: Verdict
    work: Work
    annotator: str
    version: int
    """How often the row was decided, this time included."""


class ConflictError(Exception):
    """The row was decided by someone else meanwhile."""


def _text_in(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    value.encode()  # half a character cannot be written
    return value


def _work_in(value: Any) -> Work:
    """Work as it stands in a journal.

    Raises:
        ValueError, TypeError: it is none.
    """
    work = Work(**value)
    if not isinstance(work.categories, list):
        raise ValueError("not a list of categories")
    for text in (work.text, work.rationale, *work.categories):
        _text_in(text)
    return work


def _decision_in(entry: dict[str, Any], work: Work) -> Decision:
    """A decision as it stands in a journal.

    Raises:
        ValueError, KeyError: it is none.
    """
    verdict, version = entry["verdict"], entry["version"]
    if verdict not in VERDICTS:
        raise ValueError("no such verdict")
    if type(version) is not int or version < 1:
        raise ValueError("not a version")
    return Decision(verdict, work, _text_in(entry["annotator"]), version)


class AnnotationStore:
    """``with AnnotationStore(tasks, path, annotator) as store``: one process at a time; its caller's lock sees to that.

    Args:
        tasks: all rows, in order.
        path: of the journal.
        annotator: who works here.

    Raises:
        InputError: the file is no journal of such a store.
    """

    def __init__(self, tasks: Sequence[Task], path: Path, annotator: str) -> None:
        self.tasks, self.path, self.annotator = tasks, path, annotator
        self.decisions: dict[str, Decision] = {}
        self.drafts: dict[str, Work] = {}
        self.done = 0
        """Rows that are decided."""
        self._keys = [task.key for task in tasks]
        self._alike = Counter(self._keys)
        """How many rows show the very same: they are decided together."""
        self._claims: dict[str, tuple[str, float, int]] = {}
        """Key → who has it, since when, and as which row."""
        self._skipped: dict[str, dict[int, None]] = {}
        """Of each at work, in the order of skipping."""
        self._first = 0
        """All rows before this one are decided."""
        self._saves: deque[float] = deque(maxlen=20)
        new = not path.exists()
        self._file = append_log.open_log(path)
        if new:
            sync(path.parent)
        append_log.replay(self._file, path, self._take, "mend it, or move it away: it holds a person's work")

    def _take(self, entry: dict[str, Any], _: int) -> None:
        work, key = _work_in(entry["work"]), _text_in(entry["key"])
        if entry["event"] == "draft":
            self.drafts[key] = work
        elif entry["event"] == "decided":
            self._decided(key, _decision_in(entry, work))
        else:
            raise ValueError("no such event")

    def _decided(self, key: str, decision: Decision) -> None:
        if key not in self.decisions:
            self.done += self._alike[key]
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
        """Rows an hour, over the last ones of this session; 0 while there are too few to tell."""
        last = self._saves
        return 3600 * (len(last) - 1) / max(last[-1] - last[0], 1e-9) if len(last) > 2 else 0.0

    def decision(self, row: int) -> Decision | None:
        """What was decided on a row."""
        return self.decisions.get(self._keys[row])

    def draft(self, row: int) -> Work | None:
        """What was left on a row without being handed in."""
        return self.drafts.get(self._keys[row])

    def version(self, row: int) -> int:
        """How often a row was decided."""
        decision = self.decision(row)
        return decision.version if decision else 0

    def claim(self, row: int, client: str) -> bool:
        """Take a row; False: it, or one that shows the very same, lies before someone else."""
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
        """The row that lies before someone already, else one that is not decided and lies before nobody else.

        Those that were skipped come last, in their order. None: there is none.
        """
        held = next((row for holder, _, row in self._claims.values() if holder == client), None)
        if held is not None and self.claim(held, client):
            return held
        while self._first < len(self.tasks) and self._keys[self._first] in self.decisions:
            self._first += 1
        skipped = self._skipped.get(client, {})
        fresh = (r for r in range(self._first, len(self.tasks)) if r not in skipped)
        for row in chain(fresh, list(skipped)):
            if self._keys[row] not in self.decisions and self.claim(row, client):
                skipped.pop(row, None)
                return row
        return None

    def skip(self, row: int, client: str) -> None:
        """Leave a row for later, after all that was skipped before."""
        skipped = self._skipped.setdefault(client, {})
        skipped.pop(row, None)
        skipped[row] = None
        self._release(row, client)

    def keep(self, row: int, client: str, version: int, work: Work, leaving: bool = False) -> bool:
        """Keep what is being written; it is not handed in.

        Args:
            row: which.
            client: who writes.
            version: of the decision that they saw.
            work: what stands there now.
            leaving: the page is being left.

        Returns:
            False, and nothing is kept, where the row lies before someone else or was decided meanwhile.
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
        """Hand work in: when this returns it is on disk.

        Args:
            row: which.
            version: of the decision that the person saw, 0 if there was none.
            verdict: edited, nothing to fix, cannot be fixed.
            work: the text and what goes with it.

        Raises:
            ConflictError: another decision was taken meanwhile.
        """
        key, before = self._keys[row], self.decision(row)
        if before and before.version == version + 1 and (before.verdict, before.work) == (verdict, work):
            return before  # handed in again, because the answer was lost
        if self.version(row) != version:
            raise ConflictError
        decision = Decision(verdict, work, self.annotator, version + 1)
        entry = {"event": "decided", "key": key, "verdict": verdict, "work": asdict(work)}
        self._write({**entry, "annotator": self.annotator, "version": decision.version}, durably=True)
        self._decided(key, decision)
        self._claims.pop(key, None)
        self._saves.append(time.monotonic())
        return decision

    def __enter__(self) -> "AnnotationStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
