"""A policy in training against the one it started from."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from tokalign.artifacts.schemas import PromptRow
from tokalign.core import winrate
from tokalign.judges import Answer, Comparer
from tokalign.models import distributed
from tokalign.models.sampler import Sampler, new_seeds, respond
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo.networks import Networks


class PolicyEvaluation:
    """Both answer the same held-out prompts, with fixed seeds; several processes share the answering.

    Raises:
        InputError: the judge cannot judge these prompts.
    """

    def __init__(
        self, networks: Networks, tokenizer: Tokenizer, rows: Sequence[PromptRow], judge: Comparer, sampler: Sampler
    ) -> None:
        self.networks, self.tokenizer, self.judge, self.sampler = networks, tokenizer, judge, sampler
        options = networks.options
        prompts = [r.prompt for r in rows]
        found = list(zip(prompts, tokenizer.prompts(prompts), strict=True))
        fitting = [(p, ids) for p, ids in found if len(ids) + options.max_new_tokens <= options.max_length]
        self.prompts, self.ids = [p for p, _ in fitting], [ids for _, ids in fitting]
        self.left_out = len(rows) - len(fitting)
        """Prompts that leave no room for a response."""
        with networks.reference() as policy:
            self.reference = self._respond(policy, networks.options.seed + 1)
        self._verdict(self.reference)  # what a judge has to object is said before anything is trained

    def evaluate(self) -> dict[str, float]:
        """Win rate in percent, and its standard error."""
        with self.networks.sampling() as policy:
            answers = self._respond(policy, self.networks.options.seed + 2)
        result = winrate.win_rate(self._verdict(answers))
        return {"win_rate": result["win_rate"], "win_rate_error": result["standard_error"]}

    def _verdict(self, answers: Sequence[Answer]) -> list[float]:
        """Preferences, one a prompt."""

        def compared() -> list[float]:
            return [c.preference for c in self.judge.compare(self.prompts, self.reference, answers)]

        if not distributed.sharded():
            return distributed.broadcast(compared)
        verdict = compared()  # a reward model of which each process holds a part needs them all
        return distributed.broadcast(lambda: verdict)

    def _respond(self, policy: Any, seed: int) -> list[Answer]:
        options = self.networks.options
        seeds = new_seeds(len(self.ids), torch.Generator().manual_seed(seed))
        mine = distributed.local_part(range(len(self.ids)))
        drawn = respond(
            policy,
            self.tokenizer,
            [self.ids[i] for i in mine],
            options,
            [seeds[i] for i in mine],
            options.sample_batch or math.ceil(options.batch_size / distributed.world()),
            self.sampler,
        )
        return distributed.gathered([(i, Answer(*one)) for i, one in zip(mine, drawn, strict=True)])
