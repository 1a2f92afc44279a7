"""Judges, one module each. They implement :class:`Judge`, or :class:`Comparer` if they score each response alone."""

import importlib
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from tokalign.artifacts.schemas import Answer, Judgement, Prompt
from tokalign.config.methods import JudgeOptions
from tokalign.errors import UsageError
from tokalign.models.function_names import is_function

__all__ = ["ORDERS", "Answer", "Comparer", "Comparison", "Judge", "Pairing", "cached", "make", "prefer"]
T = TypeVar("T")
_CACHE_SIZE = 12
"""Number of sets of responses whose scores are cached."""
CHUNK = 1000
"""Judgements per chunk of a judge that costs nothing. An interrupted run resumes at the start of a chunk."""
FAILED = "failed: "
"""Prefix of the reason of a judgement whose request failed; the same command retries it."""
JUDGES = {
    "playground": "tokalign.judges.playground:make_judge",
    "reward": "tokalign.judges.reward:make_judge",
    "recorded": "tokalign.judges.recorded:RecordedJudge",
    "claude": "tokalign.judges.claude:ClaudeJudge",
}
"""Value of ``--judge`` → ``module:factory``. Other values name a function of the user."""
ORDERS = ("reference_first", "candidate_first")
"""Orders in which a pair can be shown to a judge."""


class Pairing(NamedTuple):
    """A prompt with two responses to compare."""

    id: str
    prompt: Prompt
    candidate: str
    """Name of the candidate."""
    reference: Answer
    """Response of the reference."""
    response: Answer
    """Response of the candidate."""


class Comparison(NamedTuple):
    """Result of comparing two responses."""

    preference: float
    """1: the reference is better, 2: the candidate is better, 1.5: tie."""
    reason: str = ""


class Judge(Protocol):
    """Compares pairs of responses. See :func:`make`."""

    paid: bool
    """Whether judgements cost money."""
    usage: dict[str, Any]
    """Usage entry of the manifest so far; empty for judges that cost nothing."""

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return the judge's own inputs, such as a file of judgements, for the manifest."""

    def estimate(self, pairs: Sequence[Pairing]) -> Any:
        """Estimate the cost of the judgements. Only for paid judges."""

    def judgements(self, pairs: Sequence[Pairing], start: int) -> Generator[list[Judgement]]:
        """Yield the judgements of all pairs in all orders, from index ``start``, in chunks that the caller saves.

        Raises:
            InputError: a pair has no judgement.
        """

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """Return statistics of one set of responses, such as a mean score; {} if the judge has none."""


class Comparer(Protocol):
    """Compares responses by scoring each one alone, so that their order has no influence."""

    name: str

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[Answer], candidates: Sequence[Answer]
    ) -> list[Comparison]:
        """Compare the responses to each prompt. Returns one comparison per prompt."""

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """See :meth:`Judge.describe`."""


def make(options: JudgeOptions, folder: Path) -> Judge:
    """Create the judge named by ``options.judge``.

    Args:
        options: options of the judge.
        folder: output folder, for the journal.

    Raises:
        UsageError, InputError: an option or file that the judge needs is missing or invalid.
    """
    if is_function(options.judge):
        module, name = "tokalign.judges.function", "make_judge"
    elif options.judge in JUDGES:
        module, _, name = JUDGES[options.judge].partition(":")
    else:
        raise UsageError(f"--judge is {options.judge!r}", remedy=f"give {', '.join(JUDGES)} or MODULE:NAME")
    judge: Judge = getattr(importlib.import_module(module), name)(options, folder)
    return judge


class Unpaid:
    """Base class of judges that cost nothing."""

    paid = False

    def __init__(self, options: JudgeOptions) -> None:
        self.options, self.usage = options, dict[str, Any]()

    def inputs(self) -> dict[str, dict[str, Any]]:
        """See :class:`Judge`."""
        return {}

    def estimate(self, pairs: Sequence[Pairing]) -> Any:
        """See :class:`Judge`."""
        raise NotImplementedError

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """See :class:`Judge`."""
        return {}


class Comparing(Unpaid):
    """A judge that uses a :class:`Comparer`, which is created at first use because a model needs memory.

    Args:
        options: options of the judge.
        build: creates the comparer.
    """

    def __init__(self, options: JudgeOptions, build: Callable[[], Comparer]) -> None:
        super().__init__(options)
        self._build = build

    @cached_property
    def comparer(self) -> Comparer:
        """The comparer."""
        return self._build()

    def judgements(self, pairs: Sequence[Pairing], start: int) -> Generator[list[Judgement]]:
        """See :class:`Judge`. One order per pair suffices, because each response is scored alone."""
        remaining = islice(self._all(pairs), start, None)
        while chunk := list(islice(remaining, CHUNK)):
            yield chunk

    def _all(self, pairs: Sequence[Pairing]) -> Generator[Judgement]:
        for name, members in groupby(pairs, key=lambda p: p.candidate):
            group = list(members)
            columns = ([getattr(p, column) for p in group] for column in ("prompt", "reference", "response"))
            for p, c in zip(group, self.comparer.compare(*columns), strict=True):
                yield Judgement(
                    id=p.id,
                    candidate=name,
                    reference=self.options.reference or "",
                    judge=self.comparer.name,
                    order="reference_first",
                    preference=c.preference,
                    reason=c.reason,
                )

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """See :class:`Judge`."""
        return self.comparer.describe(prompts, responses)


def prefer(candidate: float, reference: float, noise: float = 0.0) -> float:
    """Preference by score: 2 if the candidate's is higher, 1 if the reference's is, 1.5 for a tie.

    ``noise``: relative difference up to which two scores tie; absolute for scores below 1.
    """
    if abs(candidate - reference) <= noise * max(1.0, abs(candidate), abs(reference)):
        return 1.5
    return 2.0 if candidate > reference else 1.0 if candidate < reference else 1.5


Scorer = Callable[[Sequence[Prompt], Sequence[Answer]], T]


def cached(score: Scorer[T]) -> Scorer[T]:
    """Keep the scores of the last sets of responses: the references stay the same, and each set is scored twice."""
    kept: dict[tuple[str, ...], T] = {}

    def scores(prompts: Sequence[Prompt], responses: Sequence[Answer]) -> T:
        key = (*map(str, prompts), *map(str, responses))
        found = kept.pop(key) if key in kept else score(prompts, responses)
        kept[key] = found  # most recently used last
        while len(kept) > _CACHE_SIZE:
            del kept[next(iter(kept))]
        return found

    return scores
