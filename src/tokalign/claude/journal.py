"""What was asked of a paid service and what it answered: written down before and after each call, never rewritten.

One JSON object a line: ``{"event", "key", …}``. The key is a hash of the request; retries of one request have one key.

==========  ===================================================================================
event       meaning
==========  ===================================================================================
sent        a request is about to leave; with the most it can cost
answered    the answer, as it came, and what it cost
refused     no answer, and certainly nothing to pay (an error status, no connection)
lost        no answer, and perhaps paid: it left, and then the connection went
==========  ===================================================================================

A ``sent`` without any of the others, because the run was killed, is lost too. Of an answer only its place in the file
is held. Requests that are submitted together, as a batch, have a plan of theirs, whose key is drawn at random:

==========  ===================================================================================
planned     the keys of the requests that are about to leave together, and the most they can cost
created     the service took them; with its name of the batch
closed      its answers are all written down
refused     it did not take them
lost        it is not to be found
==========  ===================================================================================

A ``planned`` without the others is not lost: it is looked for among the service's batches.

==========  ===================================================================================
discarded   the user wants all asked anew: answers up to here are forgotten, what they cost is not
finished    a run has come to its end
==========  ===================================================================================
"""

import hashlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from tokalign.artifacts import append_log

SENT, ANSWERED, REFUSED, LOST = "sent", "answered", "refused", "lost"
PLANNED, CREATED, CLOSED = "planned", "created", "closed"
DISCARDED, FINISHED = "discarded", "finished"
SYNC = 1.0
"""Seconds of answers that a loss of power may cost; a killed process loses none."""


_DEAREST = 1e100
"""US dollars; any sum of so much is still a number."""


class Answer(NamedTuple):
    """A message, as the API gives it, and what it cost in US dollars."""

    message: dict[str, Any]
    cost: float


@dataclass
class Plan:
    """Requests that left, or were about to leave, together."""

    id: str
    keys: list[str]
    most: float
    """US dollars they can cost."""
    at: datetime
    rates: dict[str, Any]
    """What they are priced by."""
    left: set[str]
    """Keys of those of which nothing is written down yet."""
    batch: str | None = None
    """The service's name of them, once it is known."""


def key_of(request: Any) -> str:
    """The hash of a request: equal for equal ones, in whatever order their fields stand."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _dollars(amount: Any) -> float:
    """A sum of money as a journal has it: one that is none, or negative, would switch the cap off.

    Raises:
        ValueError: it is.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= _DEAREST:
        raise ValueError(f"no sum of money: {amount!r}")
    return float(amount)


class Journal:
    """``with Journal(path) as journal``: one process at a time, which its caller's lock sees to.

    ``spent``: US dollars paid; ``perhaps``: the most that lost calls cost besides; ``lost``: how many there are.

    Raises:
        InputError: the file is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent = self.perhaps = 0.0
        self.lost = 0
        self.charged = 0
        """Answers paid for."""
        self.retries: Counter[str] = Counter()
        """Why calls had to be made again, with counts."""
        self.plans: dict[str, Plan] = {}
        """Those whose answers are not all written down."""
        self.batches: set[str] = set()
        """The service's names of all that were created."""
        self.discarded = False
        """Whether answers were forgotten for a run that has not come to its end."""
        self._answers: dict[str, int] = {}
        self._planned: dict[str, Plan] = {}
        self._synced = time.monotonic()
        self._open: dict[str, float] = {}
        self._file: BinaryIO = append_log.open_log(path)
        remedy = "mend it, or pass --discard-journal (what was paid is then paid again)"
        append_log.replay(self._file, path, self._take, remedy)
        for key in list(self._open):
            self.lose(key, "the run ended")

    def _take(self, entry: dict[str, Any], at: int) -> None:
        event, key = entry["event"], entry["key"]
        if event == SENT:
            self._open[key] = _dollars(entry["most"])
        elif event == PLANNED:
            keys, at_time = list(entry["keys"]), datetime.fromisoformat(entry["at"])
            plan = Plan(key, keys, _dollars(entry["most"]), at_time, entry["rates"], set(keys))
            self.plans[key] = plan
            self._planned |= dict.fromkeys(keys, plan)
        elif event == CREATED:
            self.plans[key].batch = entry["batch"]
            self.batches.add(entry["batch"])
        elif event == CLOSED:
            self._drop(key)
        elif event == DISCARDED:
            self._answers.clear()
            self.discarded = True
        elif event == FINISHED:
            self.discarded = False
        else:
            self._end(event, key, entry, at)

    def _end(self, event: str, key: str, entry: dict[str, Any], at: int) -> None:
        """A request has come to an end, or a plan as a whole."""
        most, plan = self._open.pop(key, 0.0), self.plans.get(key)
        if event == ANSWERED:
            self.spent += _dollars(entry["cost"])
            self._answers[key] = at
            self.charged += 1
        elif event == LOST:
            self.perhaps += _dollars(entry.get("most", most))
            self.lost += len(plan.left) if plan else 1
            self.retries[entry["why"]] += 1
        elif event == REFUSED:
            self.retries[entry["why"]] += 1
        else:
            raise KeyError(event)
        if plan is not None:
            self._drop(key)
        elif key in self._planned:
            self._planned[key].left.discard(key)

    def _drop(self, plan: str) -> None:
        for key in self.plans.pop(plan).keys:
            self._planned.pop(key, None)

    def _write(self, event: str, key: str, **more: Any) -> None:
        for name in more.keys() & {"cost", "most"}:  # what cannot be read back is not written
            _dollars(more[name])
        entry = {"event": event, "key": key, **more}
        at = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")  # in ASCII: an answer may hold half a character
        self._file.flush()
        self._take(entry, at)
        if time.monotonic() - self._synced > SYNC:
            self.sync()

    def send(self, key: str, most: float) -> None:
        """A request is about to leave. ``most``: what it can cost, in US dollars."""
        self._write(SENT, key, most=most)

    def answer(self, key: str, answer: Any, cost: float) -> None:
        """An answer came, and was paid."""
        self._write(ANSWERED, key, cost=cost, answer=answer)

    def refuse(self, key: str, why: str) -> None:
        """No answer, nothing to pay. ``key``: of a request or of a plan."""
        self._write(REFUSED, key, why=why)

    def lose(self, key: str, why: str, **most: float) -> None:
        """No answer, and perhaps paid. ``key``: of a request or of a plan; ``most``: US dollars, if it was no call."""
        self._write(LOST, key, why=why, **most)

    def forsake(self, key: str, why: str) -> None:
        """As :meth:`lose`, of a call that may be over already. It counts even where it cannot be written down."""
        if key in self._open:
            try:
                self.lose(key, why)
            except OSError:
                self._end(LOST, key, {"why": why}, 0)

    def discard(self) -> None:
        """Forget all answers, but for a run that has done so and not come to its end."""
        if not self.discarded:
            self._write(DISCARDED, "")

    def finish(self) -> None:
        """A run has come to its end."""
        if self.discarded:
            self._write(FINISHED, "")

    def plan(self, keys: Sequence[str], most: float, rates: dict[str, Any]) -> Plan:
        """Requests are about to leave together."""
        key, now = secrets.token_hex(8), datetime.now(UTC).isoformat()
        self._write(PLANNED, key, keys=list(keys), most=most, rates=rates, at=now)
        self.sync()
        return self.plans[key]

    def create(self, plan: Plan, batch: str) -> None:
        """The service took the requests of a plan as ``batch``."""
        self._write(CREATED, plan.id, batch=batch)

    def close(self, plan: Plan) -> None:
        """All that came of a plan is written down."""
        self._write(CLOSED, plan.id)

    @property
    def reserved(self) -> float:
        """The most that the calls under way can cost."""
        return sum(self._open.values()) + sum(plan.most for plan in self.plans.values())

    @property
    def committed(self) -> float:
        """US dollars that are paid, perhaps paid, or may yet be."""
        return self.spent + self.perhaps + self.reserved

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def recall(self, key: str) -> Answer:
        """The answer to a request that was answered before.

        Raises:
            KeyError: it was not.
        """
        self._file.seek(self._answers[key])
        entry = json.loads(self._file.readline())
        return Answer(entry["answer"], float(entry["cost"]))

    def sync(self) -> None:
        """Have all of it on disk, against a loss of power."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        self._file.close()
