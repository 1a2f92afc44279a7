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
is held.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from tokalign.errors import InputError

SENT, ANSWERED, REFUSED, LOST = "sent", "answered", "refused", "lost"


def key_of(request: Any) -> str:
    """The hash of a request: equal for equal ones, in whatever order their fields stand."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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
        self._answers: dict[str, int] = {}
        self._open: dict[str, float] = {}
        self._file: BinaryIO = path.open("a+b")
        self._read()

    def _read(self) -> None:
        """Take up what an earlier run wrote; a last line that was cut short goes."""
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(iter(self._file.readline, b""), 1):
            if not line.endswith(b"\n"):
                self._file.truncate(whole)
                break
            try:
                entry = json.loads(line)
                self._take(entry, whole)
            except (ValueError, KeyError, TypeError) as e:
                raise InputError(
                    f"not a line of a journal: {type(e).__name__}",
                    where=f"{self.path}:{number}",
                    remedy="mend it, or pass --discard-journal (what was paid is then paid again)",
                ) from e
            whole += len(line)
        for key in list(self._open):
            self.lose(key, "the run ended")

    def _take(self, entry: dict[str, Any], at: int) -> None:
        event, key = entry["event"], entry["key"]
        if event == SENT:
            self._open[key] = float(entry["most"])
            return
        most = self._open.pop(key, 0.0)
        if event == ANSWERED:
            self._answers[key] = at
            self.spent += float(entry["cost"])
            self.charged += 1
        elif event == LOST:
            self.perhaps += most
            self.lost += 1
            self.retries[entry["why"]] += 1
        elif event == REFUSED:
            self.retries[entry["why"]] += 1
        else:
            raise KeyError(event)

    def _write(self, event: str, key: str, **more: Any) -> None:
        entry = {"event": event, "key": key, **more}
        at = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self._take(entry, at)

    def send(self, key: str, most: float) -> None:
        """A request is about to leave. ``most``: what it can cost, in US dollars."""
        self._write(SENT, key, most=most)

    def answer(self, key: str, answer: Any, cost: float) -> None:
        """An answer came, and was paid."""
        self._write(ANSWERED, key, cost=cost, answer=answer)

    def refuse(self, key: str, why: str) -> None:
        """No answer, nothing to pay."""
        self._write(REFUSED, key, why=why)

    def lose(self, key: str, why: str) -> None:
        """No answer, and perhaps paid."""
        self._write(LOST, key, why=why)

    @property
    def reserved(self) -> float:
        """The most that the calls under way can cost."""
        return sum(self._open.values())

    @property
    def committed(self) -> float:
        """US dollars that are paid, perhaps paid, or may yet be."""
        return self.spent + self.perhaps + self.reserved

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def recall(self, key: str) -> Any:
        """The answer to a request that was answered before.

        Raises:
            KeyError: it was not.
        """
        self._file.seek(self._answers[key])
        return json.loads(self._file.readline())["answer"]

    def sync(self) -> None:
        """Have all of it on disk, against a loss of power; a killed process loses nothing anyway."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        self._file.close()
