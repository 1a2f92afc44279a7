"""The reward functions of PPO as a judge."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from tokalign.artifacts.schemas import Prompt
from tokalign.config.methods import JudgeOptions
from tokalign.judges import Answer, Comparing, Comparison, cached, prefer
from tokalign.models import loading, reward_functions
from tokalign.models.reward_functions import Emitted, RewardFunction
from tokalign.models.tokenizer import Tokenizer

_NOISE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
"""Relative difference that rounding can cause between scores of the same response in different batches, by dtype."""


class RewardJudge:
    """Prefers the response with the higher reward: the mean for a token-level model, the sum for other functions.

    Equal responses tie, and so do scores that differ by rounding only.

    Args:
        reward_functions: reward models or functions. Several are divided by their standard deviation over the
            references and summed.
        weights: one weight per reward function.
        tokenizer: tokenizer of the responses.
        dtype: precision of the computation.
        microbatch: responses per forward pass.
        ended_wins: whether a response that ended with EOS always beats one that was cut off.
    """

    name = "reward"

    def __init__(
        self,
        reward_functions: Sequence[RewardFunction],
        weights: Sequence[float],
        tokenizer: Tokenizer,
        dtype: str = "float32",
        microbatch: int = 32,
        ended_wins: bool = True,
    ) -> None:
        self.reward_functions, self.weights, self.tokenizer, self.microbatch = (
            reward_functions,
            weights,
            tokenizer,
            microbatch,
        )
        self.noise, self.ended_wins = _NOISE[dtype], ended_wins
        self._scores = cached(self._score)

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[Answer], candidates: Sequence[Answer]
    ) -> list[Comparison]:
        """See :class:`tokalign.judges.Comparer`. The reason has both scores."""
        ours, theirs = self._scores(prompts, candidates), self._scores(prompts, references)
        deviations = [pstdev(scores) or 1.0 for scores in theirs]
        factors = [w / (s if len(deviations) > 1 else 1.0) for w, s in zip(self.weights, deviations, strict=True)]
        totals = [
            [sum(factor * score for factor, score in zip(factors, row, strict=True)) for row in zip(*side, strict=True)]
            for side in (theirs, ours)
        ]
        pairs = zip(references, candidates, *totals, strict=True)
        return [
            Comparison(self._preference(a, b, r, c), f"candidate {c:.4g}, reference {r:.4g}") for a, b, r, c in pairs
        ]

    def _preference(self, reference: Answer, candidate: Answer, lower: float, upper: float) -> float:
        if reference == candidate:
            return 1.5
        if self.ended_wins and reference.finished != candidate.finished:
            return prefer(candidate.finished, reference.finished)
        return prefer(upper, lower, self.noise)

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """Return the weighted sum of the mean scores."""
        means = [fmean(scores) for scores in self._scores(prompts, responses)]
        return {"score": sum(w * mean for w, mean in zip(self.weights, means, strict=True))}

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> list[list[float]]:
        """Return one list per reward function with a score per response."""
        encoded = self.tokenizer.responses([r.text for r in responses])
        ids = [e.ids if r.finished else e.ids[:-1] or e.ids for e, r in zip(encoded, responses, strict=True)]
        pairs = list(zip(self.tokenizer.prompts(prompts), ids, strict=True))
        emitted = Emitted(prompts, pairs, [r.finished for r in responses], self.tokenizer)
        return [
            [
                float(rewards.mean() if reward_function.averaged else rewards.sum())
                for rewards in reward_function.score(emitted, self.microbatch)
            ]
            for reward_function in self.reward_functions
        ]


def make_judge(options: JudgeOptions, _: Path) -> Comparing:
    """Create the judge for ``--judge reward`` from the reward models of ``--reward-model``."""

    def build() -> RewardJudge:
        device = str(loading.pick_device(options.device))
        functions, tokenizer = reward_functions.load_for_judging(options.reward_model, options.dtype, device)
        return RewardJudge(functions, [1.0] * len(functions), tokenizer, options.dtype, options.batch_size)

    return Comparing(options, build)
