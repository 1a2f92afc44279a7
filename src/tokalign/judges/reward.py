"""The reward functions of PPO as a judge."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from tokalign.artifacts.schemas import Prompt
from tokalign.config.methods import JudgeOptions
from tokalign.judges import Answer, Comparing, Comparison, prefer
from tokalign.models import loading, reward_functions
from tokalign.models.reward_functions import Emitted, RewardFunction
from tokalign.models.tokenizer import Tokenizer

_KEPT = 12
"""Sets of texts whose scores are kept."""
_NOISE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
"""How far the scores of one text can lie apart, by the company in which it was read, next to their size."""


class RewardJudge:
    """Prefers the response that is paid more: by a token-level model on average, by all others in all.

    Equal responses are a tie, and so are those whose scores differ by no more than rounding. One that was cut has no
    EOS to be paid for, and loses to one that ended.

    Args:
        reward_functions: of several each counts by its weight, on the scale of its own spread over the references.
        weights: one for each.
        tokenizer: cuts texts into tokens.
        dtype: of the arithmetic.
        microbatch: responses in one forward pass.
        ended_wins: whether one that ended is preferred to one that was cut, whatever they are paid.
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
        self._known: dict[tuple[str, ...], list[list[float]]] = {}
        """The last texts and their scores: references stay the same, and all are asked for twice."""

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[Answer], candidates: Sequence[Answer]
    ) -> list[Comparison]:
        """One comparison a prompt, with both scores as the reason."""
        ours, theirs = self._scores(prompts, candidates), self._scores(prompts, references)
        spreads = [pstdev(scores) or 1.0 for scores in theirs]
        shares = [w / (s if len(spreads) > 1 else 1.0) for w, s in zip(self.weights, spreads, strict=True)]
        totals = [
            [sum(share * score for share, score in zip(shares, row, strict=True)) for row in zip(*side, strict=True)]
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
        """The mean of what each pays, weighted."""
        means = [fmean(scores) for scores in self._scores(prompts, responses)]
        return {"score": sum(w * mean for w, mean in zip(self.weights, means, strict=True))}

    def _scores(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> list[list[float]]:
        """Of each reward function, a score for each response."""
        key = (*map(str, prompts), *map(str, responses))
        if (known := self._known.pop(key, None)) is None:
            known = self._score(prompts, responses)
        self._known[key] = known  # the last one that was asked for
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return known

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> list[list[float]]:
        read = self.tokenizer.responses([r.text for r in responses])
        ids = [own.ids if r.finished else own.ids[:-1] or own.ids for own, r in zip(read, responses, strict=True)]
        pairs = list(zip(self.tokenizer.prompts(prompts), ids, strict=True))
        emitted = Emitted(prompts, pairs, [r.finished for r in responses], self.tokenizer)
        return [
            [
                float(paid.mean() if reward_function.averaged else paid.sum())
                for paid in reward_function.score(emitted, self.microbatch)
            ]
            for reward_function in self.reward_functions
        ]


def make_judge(options: JudgeOptions, _: Path) -> Comparing:
    """The reward models of ``--reward-model`` as the judge of a stage."""

    def build() -> RewardJudge:
        device = str(loading.pick_device(options.device))
        functions, tokenizer = reward_functions.load_for_judging(options.reward_model, options.dtype, device)
        return RewardJudge(functions, [1.0] * len(functions), tokenizer, options.dtype, options.batch_size)

    return Comparing(options, build)
