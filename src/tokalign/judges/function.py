"""A judge of the user: a Python function that scores responses."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tokalign.artifacts.schemas import Prompt
from tokalign.config.methods import JudgeOptions
from tokalign.errors import InputError
from tokalign.judges import Answer, Comparing, Comparison, cached, prefer
from tokalign.models import reward_functions


class FunctionJudge:
    """Prefers the response with the higher score; equal scores tie.

    The function takes prompts and responses, and returns a finite number for each response.

    Args:
        source: the function, as ``MODULE:NAME``.

    Raises:
        InputError: the function cannot be imported, or what it returns is not one finite number per response.
    """

    def __init__(self, source: str) -> None:
        self.name = source
        self._function: Any = reward_functions.function(source)
        self._scores = cached(self._score)

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[Answer], candidates: Sequence[Answer]
    ) -> list[Comparison]:
        """See :class:`tokalign.judges.Comparer`. The reason has both scores."""
        theirs, ours = self._scores(prompts, references), self._scores(prompts, candidates)
        return [
            Comparison(prefer(c, r), f"candidate {c:.4g}, reference {r:.4g}") for c, r in zip(ours, theirs, strict=True)
        ]

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """Return the mean score."""
        return {"score": fmean(self._scores(prompts, responses))}

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> list[float]:
        returned = list(self._function(list(prompts), [r.text for r in responses]))
        remedy = "return one finite number per response"
        if len(returned) != len(responses):
            message = f"{self.name} returned {len(returned)} scores for {len(responses)} responses"
            raise InputError(message, field=self.name, remedy=remedy)
        scores = []
        for k, value in enumerate(returned):
            try:
                score = float(value)
            except (TypeError, ValueError):
                score = math.nan
            if not math.isfinite(score):
                raise InputError(f"{self.name} returned {value!r} for response {k}", field=self.name, remedy=remedy)
            scores.append(score)
        return scores


class _Judge(Comparing):
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return the function, by the hash of its source file."""
        return {"judge": reward_functions.function_lineage(self.options.judge)}


def make_judge(options: JudgeOptions, _: Path) -> Comparing:
    """Create the judge for ``--judge MODULE:NAME``."""
    return _Judge(options, lambda: FunctionJudge(options.judge))
