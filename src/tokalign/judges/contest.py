"""A policy in training against the one it started from."""

from collections.abc import Sequence
from typing import Any

from tokalign.core import winrate
from tokalign.judges import Judge
from tokalign.models import distributed
from tokalign.models.networks import Networks
from tokalign.models.sampler import SAMPLERS, respond
from tokalign.models.tokenization import Codec
from tokalign.schemas import PromptRow


class Contest:
    """Both answer the same held-out prompts, with fixed seeds; several processes share the answering."""

    def __init__(self, networks: Networks, codec: Codec, rows: Sequence[PromptRow], judge: Judge) -> None:
        self.networks, self.codec, self.judge = networks, codec, judge
        self.prompts = [r.prompt for r in rows]
        self.ids = codec.prompts(self.prompts)
        with networks.reference() as policy:
            self.reference = self._respond(policy, networks.config.seed + 1)

    def hold(self) -> dict[str, float]:
        """Win rate in percent, and its standard error."""
        with self.networks.sampling() as policy:
            answers = self._respond(policy, self.networks.config.seed + 2)
        compared = self.judge.compare(self.prompts, self.reference, answers)
        result = winrate.win_rate([c.preference for c in compared])
        return {"win_rate": result["win_rate"], "win_rate_error": result["standard_error"]}

    def _respond(self, policy: Any, seed: int) -> list[str]:
        knobs = self.networks.config
        mine = distributed.deal(range(len(self.ids)))
        drawn = respond(
            policy,
            self.codec,
            [self.ids[i] for i in mine],
            knobs,
            seed + 1000 * distributed.rank(),
            knobs.batch_size,
            SAMPLERS[knobs.sampler],
        )
        return distributed.gathered([(i, text) for i, (text, _) in zip(mine, drawn, strict=True)])
