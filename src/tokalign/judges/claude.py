"""Claude as the judge: one request per pair and order."""

from collections.abc import Generator, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts.result import Estimate
from tokalign.artifacts.schemas import Judgement, Prompt
from tokalign.claude import journal, messages
from tokalign.claude.client import Claude, Request
from tokalign.claude.delimiters import ABOUT, fence, turns
from tokalign.claude.estimate import estimate
from tokalign.claude.retry import Failed
from tokalign.claude.service import iterate, run_async, run_calls
from tokalign.config.methods import JudgeOptions
from tokalign.judges import FAILED, ORDERS, Answer, Pairing
from tokalign.runtime.disk import hash_json
from tokalign.runtime.progress import Progress

PROMPT, RUBRIC = "judge-1", "rubric-1"
"""Versions of the built-in prompt and criteria, and the names of their files."""
_FIELDS = ("reason", "verdict")
SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": ["first", "second", "tie"]}},
    "required": list(_FIELDS),
    "additionalProperties": False,
}
"""JSON schema of the answer. The reason comes first, so that the model states it before the verdict."""
_TASK = "Compare the response between the tags first with the one between the tags second."
_CUT = "The {} was cut off where it stops: it did not end by itself."
_REASON = (
    "The first answers all that was asked; the second leaves out the warning that it needs, and is wrong on the date."
)


class Shown(NamedTuple):
    """A pair in one order."""

    pair: Pairing
    order: str


class ClaudeJudge:
    """Compares with Claude.

    Args:
        options: model, criteria and request options.
        folder: folder of the journal.

    Raises:
        UsageError: no model is given.
        InputError: the file of criteria cannot be read.
    """

    paid = True

    def __init__(self, options: JudgeOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.model, self.usage = messages.model_of(options), dict[str, Any]()
        criteria, self.version = rubric(options.rubric)
        frame = resources.files(__package__).joinpath("prompts", f"{PROMPT}.md").read_text(encoding="utf-8").strip()
        self._system = f"{frame}\n\n{criteria}\n\n{ABOUT}"

    def inputs(self) -> dict[str, dict[str, Any]]:
        """See :class:`tokalign.judges.Judge`."""
        return {}

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """See :class:`tokalign.judges.Judge`."""
        return {}

    def estimate(self, pairs: Sequence[Pairing]) -> Estimate:
        """Estimate the cost of the judgements without requesting any."""
        k = self.options
        return run_async(
            estimate(self.shown(pairs), lambda s: (self.request(s), _REASON), self.folder, self.model, k, True)
        )

    def judgements(self, pairs: Sequence[Pairing], start: int) -> Generator[list[Judgement]]:
        """See :class:`tokalign.judges.Judge`. Yields one judgement at a time, so that each is saved at once."""
        k, shown = self.options, self.shown(pairs)
        with Progress("judge", len(shown), k.quiet, start) as bar:
            calls = run_calls(shown, self.judge, start, self.folder, self.model, k, bar.say, self.usage.update)
            for judgement in iterate(calls):
                yield [judgement]
                bar.advance(1, USD=self.usage["usd"])

    def shown(self, pairs: Sequence[Pairing]) -> "Pairings":
        """Return the pairs in the orders in which they are shown to the model."""
        return Pairings(pairs, ORDERS if self.options.both_orders else ORDERS[:1])

    async def judge(self, shown: Shown, claude: Claude) -> Judgement:
        """Judge a pair in one order. Without a verdict, ``preference`` is None and ``reason`` says why."""
        if shown.pair.response == shown.pair.reference:
            return self._row(shown, 1.5, "the responses are equal", [])
        request = self.request(shown)
        result = await claude.ask(request)
        if isinstance(result, Failed):
            return self._row(shown, None, f"{FAILED}{result.why}", [])
        answers = [result]
        if messages.is_truncated(result.message):
            result = await claude.ask({**request, "max_tokens": 2 * request["max_tokens"]})
            if isinstance(result, journal.Answer):
                answers.append(result)
            elif result.transient:
                return self._row(shown, None, f"{FAILED}{result.why}", answers)
        return self._row(shown, *read(answers[-1].message, shown.order), answers)

    def request(self, shown: Shown) -> Request:
        """Build the request for a pair in one order."""
        sides = [shown.pair.reference, shown.pair.response]
        first, second = sides if shown.order == ORDERS[0] else reversed(sides)
        data = fence([*turns(shown.pair.prompt), ("first", first.text), ("second", second.text)])
        cut = [name for name, side in (("first", first), ("second", second)) if not side.finished]
        task = " ".join([_TASK, *(_CUT.format(name) for name in cut)])
        return messages.request(self.options, self._system, f"{data}\n\n{task}", SCHEMA)

    def _row(self, shown: Shown, preference: float | None, reason: str, answers: list[journal.Answer]) -> Judgement:
        return Judgement(
            id=shown.pair.id,
            candidate=shown.pair.candidate,
            reference=self.options.reference or "",
            judge=f"claude {messages.answered_by(answers) or self.model} {self.version}",
            order=shown.order,  # type: ignore[arg-type]
            preference=preference,
            reason=reason,
            usage=messages.usage_of(answers) if answers else None,
        )


def rubric(file: Path | None) -> tuple[str, str]:
    """Return the criteria and the version of the whole prompt.

    Args:
        file: the user's criteria; None: the built-in ones.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    if file is None:
        ours = resources.files(__package__).joinpath("prompts", f"{RUBRIC}.md").read_text(encoding="utf-8").strip()
        return ours, f"{PROMPT} {RUBRIC}"
    text = messages.read_text(file, "write criteria for a better response into it")
    return text.strip(), f"{PROMPT} {file.name} {hash_json(text)[:12]}"


def read(message: dict[str, Any], order: str) -> tuple[float | None, str]:
    """Parse an untrusted answer.

    Args:
        message: message of the API.
        order: order in which the pair was shown.

    Returns:
        The preference (1: the reference is better, 2: the candidate is better, 1.5: tie, None: no verdict) and the
        reason.
    """
    if problem := messages.unusable(message):
        return None, problem
    values = messages.fields(message, _FIELDS)
    if values is None or not isinstance(values["reason"], str):
        return None, "unparsed"
    verdict = values["verdict"]
    preferred = {"first": 1.0, "second": 2.0, "tie": 1.5}.get(verdict) if isinstance(verdict, str) else None
    if preferred is None:
        return None, "unparsed"
    return preferred if order == ORDERS[0] else 3.0 - preferred, messages.one_line(values["reason"])


class Pairings:
    """All pairs in all orders; the orders of a pair follow each other."""

    def __init__(self, pairs: Sequence[Pairing], orders: Sequence[str]) -> None:
        self.pairs, self.orders = pairs, orders

    def __len__(self) -> int:
        return len(self.pairs) * len(self.orders)

    def __iter__(self) -> Iterator[Shown]:
        return (Shown(pair, order) for pair in self.pairs for order in self.orders)
