"""Judges: one small file each. All follow :class:`Judge`; what scores each text by itself also :class:`Comparer`."""

import importlib
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tokalign.artifacts.schemas import Answer, Judgement, Prompt
from tokalign.config.methods import JudgeOptions

__all__ = ["ORDERS", "Answer", "Comparer", "Comparison", "Judge", "Pairing", "make", "prefer"]
CHUNK = 1000
"""Judgements between which a run can be cut, where they cost nothing."""
FAILED = "failed: "
"""How the reason of a judgement begins that has no answer; the same command tries it again."""
JUDGES = {
    "playground": "tokalign.judges.playground:make_judge",
    "reward": "tokalign.judges.reward:make_judge",
    "recorded": "tokalign.judges.recorded:RecordedJudge",
    "claude": "tokalign.judges.claude:ClaudeJudge",
}
"""By the name of ``--judge``."""
ORDERS = ("reference_first", "candidate_first")
"""In which a judge can be shown a pair."""


class Pairing(NamedTuple):
    """A prompt with two responses to compare."""

    id: str
    prompt: Prompt
    candidate: str
    """The candidate's name."""
    reference: Answer
    """The reference's response."""
    response: Answer
    """The candidate's."""


class Comparison(NamedTuple):
    """``preference``: 1 the reference is better, 2 the candidate is, 1.5 a tie."""

    preference: float
    reason: str = ""


class Judge(Protocol):
    """Judges pairs of responses. Made by :func:`make`."""

    paid: bool
    """Whether judgements cost money."""
    usage: dict[str, Any]
    """What was paid so far; empty where nothing is."""

    def inputs(self) -> dict[str, dict[str, Any]]:
        """What else its judgements depend on, as inputs of the stage."""

    def estimate(self, pairs: Sequence[Pairing]) -> Any:
        """What the judgements may cost, of a judge that is paid."""

    def judgements(self, pairs: Sequence[Pairing], start: int) -> Generator[list[Judgement]]:
        """The judgements from ``start``, of every pair in every order it is shown in, some at a time.

        What was given out is kept by the caller.

        Raises:
            InputError: there is none of a pair.
        """

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """What it can say of one set of responses by itself; {} if nothing."""


class Comparer(Protocol):
    """Compares candidate responses with those of the reference, each read by itself, so that order cannot sway it."""

    name: str

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[Answer], candidates: Sequence[Answer]
    ) -> list[Comparison]:
        """One comparison a prompt."""

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """What it can say of one set of responses by itself; {} if nothing."""


def make(options: JudgeOptions, folder: Path) -> Judge:
    """The judge that ``options`` name.

    Args:
        options: the judge, and what it judges by.
        folder: where it keeps what must not be lost: what was paid for.

    Raises:
        UsageError, InputError: what it needs is not there.
    """
    module, _, name = JUDGES[options.judge].partition(":")
    found: Judge = getattr(importlib.import_module(module), name)(options, folder)
    return found


class Unpaid:
    """What judges have in common that ask no paid service."""

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
    """A judge by a :class:`Comparer`, which is made when it is first asked: a model needs memory.

    Args:
        options: of the judge.
        build: makes the comparer.
    """

    def __init__(self, options: JudgeOptions, build: Callable[[], Comparer]) -> None:
        super().__init__(options)
        self._build = build

    @cached_property
    def comparer(self) -> Comparer:
        """What compares."""
        return self._build()

    def judgements(self, pairs: Sequence[Pairing], start: int) -> Generator[list[Judgement]]:
        """See :class:`Judge`; one order says all, since each text is scored alone."""
        left = islice(self._all(pairs), start, None)
        while part := list(islice(left, CHUNK)):
            yield part

    def _all(self, pairs: Sequence[Pairing]) -> Generator[Judgement]:
        for name, found in groupby(pairs, key=lambda p: p.candidate):
            group = list(found)
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
    """Preference by score; ``noise``: how far apart two may be and say nothing, next to their size."""
    if abs(candidate - reference) <= noise * max(1.0, abs(candidate), abs(reference)):
        return 1.5
    return 2.0 if candidate > reference else 1.0 if candidate < reference else 1.5
