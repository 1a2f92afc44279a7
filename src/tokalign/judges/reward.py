"""A reward model as a judge."""

from collections.abc import Sequence
from typing import Any

from tokalign.judges import Comparison, prefer
from tokalign.models.reward import RewardModel
from tokalign.schemas import Prompt


class RewardJudge:
    """Prefers the response with the higher mean token reward (sequence level: score)."""

    name = "reward"

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[str], candidates: Sequence[str]
    ) -> list[Comparison]:
        """One comparison a prompt, with both scores as the reason."""
        pairs = zip(self._score(prompts, references), self._score(prompts, candidates), strict=True)
        return [Comparison(prefer(c, r), f"candidate {c:.4g}, reference {r:.4g}") for r, c in pairs]

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Any]:
        """The mean score."""
        scores = self._score(prompts, responses)
        return {"score": sum(scores) / len(scores)}

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        codec = self.model.codec
        ids = zip(codec.prompts(prompts), codec.responses(responses), strict=True)
        return self.model.rate([(p, r.ids) for p, r in ids]).means
