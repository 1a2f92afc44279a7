"""A policy in training against the one it started from."""

from collections.abc import Sequence
from typing import Any

import torch

from tokalign.core import winrate
from tokalign.judges import Judge
from tokalign.models import distributed
from tokalign.models.networks import Networks
from tokalign.models.sampler import SAMPLERS, new_seeds, respond
from tokalign.models.tokenization import Codec
from tokalign.schemas import PromptRow


class Contest:
    """Both answer the same held-out prompts, with fixed seeds; several processes share the answering."""

    def __init__(self, networks: Networks, codec: Codec, rows: Sequence[PromptRow], judge: Judge) -> None:
        self.networks, self.codec, self.judge = networks, codec, judge
        knobs = networks.config
        prompts = [r.prompt for r in rows]
        found = list(zip(prompts, codec.prompts(prompts), strict=True))
        fitting = [(p, ids) for p, ids in found if len(ids) + knobs.max_new_tokens <= knobs.max_length]
        self.prompts, self.ids = [p for p, _ in fitting], [ids for _, ids in fitting]
        with networks.reference() as policy:
            self.reference = self._respond(policy, networks.config.seed + 1)

    def hold(self) -> dict[str, float]:
        """Win rate in percent, and its standard error."""
        with self.networks.sampling() as policy:
            answers = self._respond(policy, self.networks.config.seed + 2)

        def verdict() -> dict[str, float]:
            compared = self.judge.compare(self.prompts, self.reference, answers)
            result = winrate.win_rate([c.preference for c in compared])
            return {"win_rate": result["win_rate"], "win_rate_error": result["standard_error"]}

        if not distributed.sharded():
            return distributed.first_says(verdict)
        found = verdict()  # a reward model of which each process holds a part needs them all
        return distributed.first_says(lambda: found)

    def _respond(self, policy: Any, seed: int) -> list[str]:
        knobs = self.networks.config
        seeds = new_seeds(len(self.ids), torch.Generator().manual_seed(seed))
        mine = distributed.deal(range(len(self.ids)))
        drawn = respond(
            policy,
            self.codec,
            [self.ids[i] for i in mine],
            knobs,
            [seeds[i] for i in mine],
            knobs.batch_size,
            SAMPLERS[knobs.sampler],
        )
        return distributed.gathered([(i, text) for i, (text, _) in zip(mine, drawn, strict=True)])
