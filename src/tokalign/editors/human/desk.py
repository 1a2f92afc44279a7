"""What lies on a person's desk: rows to edit, who has which, and what was decided.

Every decision is on disk, in ``annotations.jsonl``, before it counts; what was decided last stands. A row is known by a
hash of what is shown of it, so that work is found again whatever its id, and is not laid on another text.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from tokalign import appendlog
from tokalign.artifacts import hash_json
from tokalign.schemas import Prompt

CLAIM = 900.0
"""Seconds without a sign of life after which a row that lies before someone may be given to another."""
Verdict = Literal["edited", "unchanged", "failed"]


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

    @property
    def key(self) -> str:
        """What decisions are kept under."""
        return hash_json([self.prompt, self.original, self.proposed])[:24]


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


class Desk:
    """``with Desk(tasks, path, annotator) as desk``: one process at a time, which its caller's lock sees to.

    Args:
        tasks: all rows, in order.
        path: of the journal.
        annotator: who works here.

    Raises:
        InputError: the file is no journal of a desk.
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
        self._claims: dict[int, tuple[str, float]] = {}
        self._skipped: dict[str, set[int]] = {}
        self._first = 0
        """All rows before this one are decided."""
        self._saves: list[float] = []
        self._file = path.open("a+b")
        appendlog.replay(self._file, path, self._take, "mend it, or move it away: it holds a person's work")

    def _take(self, entry: dict[str, Any], _: int) -> None:
        work = Work(**entry["work"])
        if entry["event"] == "draft":
            self.drafts[entry["key"]] = work
        else:
            self._decided(entry["key"], Decision(entry["verdict"], work, entry["annotator"], entry["version"]))

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
        last = self._saves[-20:]
        return 3600 * (len(last) - 1) / max(last[-1] - last[0], 1e-9) if len(last) > 2 else 0.0

    def decision(self, row: int) -> Decision | None:
        """What was decided on a row."""
        return self.decisions.get(self._keys[row])

    def draft(self, row: int) -> Work | None:
        """What was left on a row without being handed in."""
        return self.drafts.get(self._keys[row])

    def claim(self, row: int, client: str) -> bool:
        """Take a row; False: it lies before someone else."""
        holder, since = self._claims.get(row, ("", 0.0))
        if holder not in ("", client) and time.monotonic() - since < CLAIM:
            return False
        self._claims = {r: c for r, c in self._claims.items() if c[0] != client}
        self._claims[row] = (client, time.monotonic())
        return True

    def next(self, client: str) -> int | None:
        """A row that is not decided and lies before nobody else, those that were skipped last; None: there is none."""
        while self._first < len(self.tasks) and self._keys[self._first] in self.decisions:
            self._first += 1
        skipped = self._skipped.get(client, set())
        fresh = (r for r in range(self._first, len(self.tasks)) if r not in skipped)
        for row in chain(fresh, sorted(skipped)):
            if self._keys[row] not in self.decisions and self.claim(row, client):
                skipped.discard(row)
                return row
        return None

    def skip(self, row: int, client: str) -> None:
        """Leave a row for later."""
        self._skipped.setdefault(client, set()).add(row)
        self._claims.pop(row, None)

    def keep(self, row: int, client: str, work: Work) -> None:
        """Keep what is being written; it is not handed in."""
        self.claim(row, client)
        if self.drafts.get(self._keys[row]) != work:
            self.drafts[self._keys[row]] = work
            self._write({"event": "draft", "key": self._keys[row], "work": asdict(work)}, durably=False)

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
        if (before.version if before else 0) != version:
            raise ConflictError
        decision = Decision(verdict, work, self.annotator, version + 1)
        entry = {"event": "decided", "key": key, "verdict": verdict, "work": asdict(work)}
        self._write({**entry, "annotator": self.annotator, "version": decision.version}, durably=True)
        self._decided(key, decision)
        self._claims.pop(row, None)
        self._saves.append(time.monotonic())
        return decision

    def __enter__(self) -> "Desk":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
