"""Who compares. One small file a judge; all but Claude follow :class:`Judge`."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from tokalign.artifacts.schemas import Answer, Prompt

__all__ = ["ORDERS", "Answer", "Comparison", "Judge", "Pairing", "prefer"]

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
    """Compares candidate responses with those of the reference, each read by itself, so that order cannot sway it."""

    name: str

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[Answer], candidates: Sequence[Answer]
    ) -> list[Comparison]:
        """One comparison a prompt."""

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """What the judge can say of one set of responses by itself; {} if nothing."""


def prefer(candidate: float, reference: float, noise: float = 0.0) -> float:
    """Preference by score; ``noise``: how far apart two may be and say nothing, next to their size."""
    if abs(candidate - reference) <= noise * max(1.0, abs(candidate), abs(reference)):
        return 1.5
    return 2.0 if candidate > reference else 1.0 if candidate < reference else 1.5
