"""What pays in PPO as a judge."""

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

from tokalign.judges import Comparison, prefer
from tokalign.models.payers import Emitted, Payer
from tokalign.models.tokenization import Codec
from tokalign.schemas import Prompt

_KEPT = 12
"""Sets of texts whose scores are kept."""


class RewardJudge:
    """Prefers the response that is paid more: by a token-level model on average, by all others in all.

    Of several that pay each counts by its weight, on the scale of its own spread over the references' responses.
    """

    name = "reward"

    def __init__(self, payers: Sequence[Payer], weights: Sequence[float], codec: Codec, microbatch: int = 32) -> None:
        self.payers, self.weights, self.codec, self.microbatch = payers, weights, codec, microbatch
        self._known: dict[tuple[str, ...], list[list[float]]] = {}
        """The last texts and their scores: references stay the same, and all are asked for twice."""

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[str], candidates: Sequence[str]
    ) -> list[Comparison]:
        """One comparison a prompt, with both scores as the reason."""
        ours, theirs = self._scores(prompts, candidates), self._scores(prompts, references)
        spreads = [pstdev(scores) or 1.0 for scores in theirs]
        shares = [w / (s if len(spreads) > 1 else 1.0) for w, s in zip(self.weights, spreads, strict=True)]
        totals = [
            [sum(share * score for share, score in zip(shares, row, strict=True)) for row in zip(*side, strict=True)]
            for side in (theirs, ours)
        ]
        pairs = zip(*totals, strict=True)
        return [Comparison(prefer(c, r), f"candidate {c:.4g}, reference {r:.4g}") for r, c in pairs]

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Any]:
        """The mean of what each pays, weighted."""
        means = [fmean(scores) for scores in self._scores(prompts, responses)]
        return {"score": sum(w * mean for w, mean in zip(self.weights, means, strict=True))}

    def _scores(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[list[float]]:
        """Of each payer, a score for each response."""
        key = (*map(str, prompts), *responses)
        if (known := self._known.pop(key, None)) is None:
            known = self._score(prompts, responses)
        self._known[key] = known  # the last one that was asked for
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return known

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[list[float]]:
        ids = [r.ids for r in self.codec.responses(responses)]
        pairs = list(zip(self.codec.prompts(prompts), ids, strict=True))
        emitted = Emitted(prompts, pairs, [True] * len(pairs), self.codec)
        return [
            [float(paid.mean() if payer.averaged else paid.sum()) for paid in payer.pay(emitted, self.microbatch)]
            for payer in self.payers
        ]
