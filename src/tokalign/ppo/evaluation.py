"""Evaluation during PPO: the policy against the starting policy on held-out prompts."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tokalign.artifacts.schemas import PromptRow
from tokalign.core import winrate
from tokalign.judges import Answer, Comparer
from tokalign.models import distributed
from tokalign.models.engines import take_weights
from tokalign.models.sampler import Sampler, new_seeds, respond
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo.networks import Networks


class Look(NamedTuple):
    """Responses of the policy to the held-out prompts, and the preference between them and those of the reference."""

    responses: list[Answer]
    verdict: list[float]
    """From 1 (reference) to 2 (policy)."""


class PolicyEvaluation:
    """Compares the policy with the starting policy (the reference), with fixed sampling seeds.

    The constructor samples the reference's responses and judges them once, so that a judge that does not support the
    prompts fails before training. The processes share the sampling.

    Args:
        networks: networks of the run.
        tokenizer: the policy's tokenizer.
        rows: held-out prompts. Prompts that leave no room for a response within ``--max-length`` are left out.
        judge: compares responses.
        sampler: samples responses.

    Raises:
        InputError: the judge does not support these prompts.
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
        self.last: Look | None = None
        """The last evaluation."""
        self.left_out = len(rows) - len(fitting)
        """Number of prompts that leave no room for a response."""
        with networks.reference() as policy:
            self.reference = self._respond(policy, networks.options.seed + 1)
        self._verdict(self.reference)  # an unsuitable judge raises here, before training

    def evaluate(self) -> dict[str, float]:
        """Sample responses of the current policy. Returns ``win_rate`` and ``win_rate_error``, both in percent."""
        with self.networks.sampling() as policy:
            responses = self._respond(policy, self.networks.options.seed + 2)
        verdict = self._verdict(responses)
        self.last = Look(responses, verdict)
        result = winrate.win_rate(verdict)
        return {"win_rate": result["win_rate"], "win_rate_error": result["standard_error"]}

    def _verdict(self, responses: Sequence[Answer]) -> list[float]:
        """One preference per prompt, from 1 (reference) to 2 (policy)."""

        def compare() -> list[float]:
            return [c.preference for c in self.judge.compare(self.prompts, self.reference, responses)]

        if not distributed.sharded():
            return distributed.broadcast(compare)
        verdict = compare()  # with a sharded reward model, every process must take part
        return distributed.broadcast(lambda: verdict)

    def _respond(self, policy: Any, seed: int) -> list[Answer]:
        options = self.networks.options
        take_weights(self.sampler, policy)
        seeds = new_seeds(len(self.ids), torch.Generator().manual_seed(seed))
        local_indices = distributed.local_part(range(len(self.ids)))
        drawn = respond(
            policy,
            self.tokenizer,
            [self.ids[i] for i in local_indices],
            options,
            [seeds[i] for i in local_indices],
            options.sample_batch or math.ceil(options.batch_size / distributed.world()),
            self.sampler,
        )
        return distributed.gathered([(i, Answer(*one)) for i, one in zip(local_indices, drawn, strict=True)])
