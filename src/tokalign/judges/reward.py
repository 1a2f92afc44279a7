"""What pays in PPO as a judge."""

from collections.abc import Sequence
from typing import Any

from tokalign.judges import Comparison, prefer
from tokalign.models.payers import Emitted, Payer
from tokalign.models.tokenization import Codec
from tokalign.schemas import Prompt


class RewardJudge:
    """Prefers the response that is paid more: by a token-level model on average, by all others in all."""

    name = "reward"

    def __init__(self, payers: Sequence[Payer], weights: Sequence[float], codec: Codec, microbatch: int = 32) -> None:
        self.payers, self.weights, self.codec, self.microbatch = payers, weights, codec, microbatch

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
        ids = [r.ids for r in self.codec.responses(responses)]
        pairs = list(zip(self.codec.prompts(prompts), ids, strict=True))
        emitted = Emitted(prompts, pairs, [True] * len(pairs), self.codec)
        scores = [0.0] * len(pairs)
        for weight, payer in zip(self.weights, self.payers, strict=True):
            for i, paid in enumerate(payer.pay(emitted, self.microbatch)):
                scores[i] += weight * float(paid.mean() if payer.averaged else paid.sum())
        return scores
