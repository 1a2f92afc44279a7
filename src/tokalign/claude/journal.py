"""Append-only journal of paid API calls, written before and after each call.

Each line is one JSON object: ``{"event", "key", …}``. The key is a hash of the request; retries of a request have the
same key.

==========  ===================================================================================
event       meaning
==========  ===================================================================================
sent        a request is about to be sent; with its maximum cost
answered    the answer, verbatim, and its cost
refused     no answer, and certainly not billed (error status, no connection)
lost        no answer, but possibly billed (the connection was lost after the request was sent)
==========  ===================================================================================

A ``sent`` without any other event, left by a killed run, counts as lost. Only the file offsets of answers are kept in
memory. Requests that are submitted together as a batch share a plan with a random key:

==========  ===================================================================================
planned     a batch is about to be submitted; with the keys of its requests and its maximum cost
created     the API accepted the batch; with the ID of the batch
closed      the outcomes of all requests are recorded
refused     the API rejected the batch
lost        the batch cannot be found
==========  ===================================================================================

A ``planned`` without any other event is not lost: the batch is searched for among the batches that the API lists.

==========  ===================================================================================
discarded   the user discarded all answers before this line; their cost still counts
finished    a run is complete
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
"""Seconds between syncs to disk. A power failure loses at most this much; a killed process loses nothing."""


_MAX_DOLLARS = 1e100
"""Largest valid amount in US dollars; sums of such amounts stay finite."""


class Answer(NamedTuple):
    """A message as the API returned it, and its cost in US dollars."""

    message: dict[str, Any]
    cost: float


@dataclass
class Plan:
    """Requests submitted, or about to be submitted, as one batch."""

    id: str
    keys: list[str]
    max_cost: float
    """Maximum cost of all requests in US dollars."""
    at: datetime
    """Time of submission."""
    rates: dict[str, Any]
    """Fields of :class:`tokalign.claude.prices.Rates` at submission."""
    open_keys: set[str]
    """Keys of the requests without a recorded outcome."""
    batch: str | None = None
    """The API's ID of the batch, once it is known."""


def key_of(request: Any) -> str:
    """Return a hash of a request that does not depend on the order of its fields."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _dollars(amount: Any) -> float:
    """Check an amount of money; a negative or invalid one would disable the budget.

    Raises:
        ValueError: it is not a number from 0 to ``_MAX_DOLLARS``.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= _MAX_DOLLARS:
        raise ValueError(f"not an amount of money: {amount!r}")
    return float(amount)


class Journal:
    """Journal of calls: ``with Journal(path) as journal``. The caller must lock the folder against other processes.

    Args:
        path: file of the journal; created if it does not exist.

    Raises:
        InputError: the file is not a valid journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent = 0.0
        """US dollars paid for answers."""
        self.perhaps = 0.0
        """Maximum cost of lost calls in US dollars."""
        self.lost = 0
        """Number of lost calls."""
        self.charged = 0
        """Number of answers paid for."""
        self.retries: Counter[str] = Counter()
        """Number of failed calls by reason."""
        self.plans: dict[str, Plan] = {}
        """Batches with unrecorded outcomes, by plan ID."""
        self.batches: set[str] = set()
        """The API's IDs of all created batches."""
        self.discarded = False
        """Whether answers were discarded for a run that is not complete."""
        self._answers: dict[str, int] = {}
        self._planned: dict[str, Plan] = {}
        self._synced = time.monotonic()
        self._open: dict[str, float] = {}
        self._file: BinaryIO = append_log.open_log(path)
        remedy = "repair the line, or move the file away (its answers are then paid for again)"
        append_log.replay(self._file, path, self._apply, remedy)
        for key in list(self._open):
            self.lose(key, "the run ended")

    def _apply(self, entry: dict[str, Any], at: int) -> None:
        """Update the state by an entry at file offset ``at``."""
        event, key = entry["event"], entry["key"]
        if event == SENT:
            self._open[key] = _dollars(entry["most"])
        elif event == PLANNED:
            keys, time_ = list(entry["keys"]), datetime.fromisoformat(entry["at"])
            plan = Plan(key, keys, _dollars(entry["most"]), time_, entry["rates"], set(keys))
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
            self._settle(event, key, entry, at)

    def _settle(self, event: str, key: str, entry: dict[str, Any], at: int) -> None:
        """Settle a request, or a plan as a whole."""
        max_cost, plan = self._open.pop(key, 0.0), self.plans.get(key)
        if event == ANSWERED:
            self.spent += _dollars(entry["cost"])
            self._answers[key] = at
            self.charged += 1
        elif event == LOST:
            self.perhaps += _dollars(entry.get("most", max_cost))
            self.lost += len(plan.open_keys) if plan else 1
            self.retries[entry["why"]] += 1
        elif event == REFUSED:
            self.retries[entry["why"]] += 1
        else:
            raise KeyError(event)
        if plan is not None:
            self._drop(key)
        elif key in self._planned:
            self._planned[key].open_keys.discard(key)

    def _drop(self, plan: str) -> None:
        for key in self.plans.pop(plan).keys:
            self._planned.pop(key, None)

    def _write(self, event: str, key: str, **fields: Any) -> None:
        for name in fields.keys() & {"cost", "most"}:  # validate before writing
            _dollars(fields[name])
        entry = {"event": event, "key": key, **fields}
        at = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")  # ASCII: an answer may contain lone surrogates
        self._file.flush()
        self._apply(entry, at)
        if time.monotonic() - self._synced > SYNC:
            self.sync()

    def send(self, key: str, max_cost: float) -> None:
        """Record that a request is about to be sent. ``max_cost``: its maximum cost in US dollars."""
        self._write(SENT, key, most=max_cost)

    def answer(self, key: str, answer: Any, cost: float) -> None:
        """Record an answer and its cost in US dollars."""
        self._write(ANSWERED, key, cost=cost, answer=answer)

    def refuse(self, key: str, why: str) -> None:
        """Record that a request, or a plan, got no answer and was not billed."""
        self._write(REFUSED, key, why=why)

    def lose(self, key: str, why: str, max_cost: float | None = None) -> None:
        """Record that a request, or a plan, got no answer and was possibly billed.

        ``max_cost``: its maximum cost in US dollars; by default the amount given to :meth:`send`.
        """
        self._write(LOST, key, why=why, **({} if max_cost is None else {"most": max_cost}))

    def lose_if_open(self, key: str, why: str) -> None:
        """Call :meth:`lose` if the request has no recorded outcome. It counts even if it cannot be written."""
        if key in self._open:
            try:
                self.lose(key, why)
            except OSError:
                self._settle(LOST, key, {"why": why}, 0)

    def discard(self) -> None:
        """Discard all answers, unless an incomplete run has already done so."""
        if not self.discarded:
            self._write(DISCARDED, "")

    def finish(self) -> None:
        """Record that the run is complete."""
        if self.discarded:
            self._write(FINISHED, "")

    def plan(self, keys: Sequence[str], max_cost: float, rates: dict[str, Any]) -> Plan:
        """Record that a batch is about to be submitted, and return its plan.

        Args:
            keys: keys of the requests.
            max_cost: maximum cost of all requests in US dollars.
            rates: fields of :class:`tokalign.claude.prices.Rates`.
        """
        key, now = secrets.token_hex(8), datetime.now(UTC).isoformat()
        self._write(PLANNED, key, keys=list(keys), most=max_cost, rates=rates, at=now)
        self.sync()
        return self.plans[key]

    def create(self, plan: Plan, batch: str) -> None:
        """Record that the API accepted a plan as the batch with this ID."""
        self._write(CREATED, plan.id, batch=batch)

    def close(self, plan: Plan) -> None:
        """Record that the outcomes of all requests of a plan are recorded."""
        self._write(CLOSED, plan.id)

    @property
    def reserved(self) -> float:
        """Maximum cost of the calls and batches in progress, in US dollars."""
        return sum(self._open.values()) + sum(plan.max_cost for plan in self.plans.values())

    @property
    def committed(self) -> float:
        """US dollars paid, possibly paid and reserved."""
        return self.spent + self.perhaps + self.reserved

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def recall(self, key: str) -> Answer:
        """Return the recorded answer to a request.

        Raises:
            KeyError: the request has no recorded answer.
        """
        self._file.seek(self._answers[key])
        entry = json.loads(self._file.readline())
        return Answer(entry["answer"], float(entry["cost"]))

    def sync(self) -> None:
        """Flush the file to disk."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        self._file.close()
