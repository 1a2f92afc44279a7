"""The difference between the log-probabilities of the sampler and those of the training forward pass.

Both come from the same weights, but rounding differs. In float32 it is negligible, and the sampler's log-probabilities
are the old ones of PPO. In half precision a token can differ by a tenth of a nat, so probability ratios are importance
weights with respect to the sampler, which are truncated (Ionides, 2008, "Truncated Importance Sampling"; for
language models Yao et al., 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training").
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tokalign.config.methods import PpoOptions
from tokalign.core import rl
from tokalign.errors import TokalignError
from tokalign.models import distributed
from tokalign.models.batch import pad_rows
from tokalign.models.sampler import Sampled


class Limits(NamedTuple):
    """Differences in nats."""

    reuse: float
    """Up to here the sampler's log-probabilities replace those of the training forward pass."""
    wrong: float
    """Beyond this, rounding is no explanation."""


EXACT = Limits(1e-3, 0.02)
"""For the largest difference of a rollout, in float32."""
HALF = Limits(0.1, 0.3)
"""For the mean difference of a rollout, in half precision, where single tokens differ much more."""


class Mismatch:
    """Compares the sampler with the training forward pass, and decides what follows.

    ``reuse`` tells whether the sampler's log-probabilities are used as the old ones; None until the first comparison.
    ``nats`` is the mean difference per token in the last comparison, None before it.

    Args:
        options: PPO options.
        engine: whether the sampler is an engine. In half precision its log-probabilities are then not reused, because
            it rounds otherwise than the model.
    """

    def __init__(self, options: PpoOptions, engine: bool = False) -> None:
        self._exact = options.dtype == "float32"
        self._cap = options.importance_cap
        self.reuse: bool | None = None if self._exact or (self._cap and not engine) else False
        self.nats: float | None = None
        self._sums, self._largest, self._unknown = {"nats": 0.0, "tokens": 0.0}, 0.0, False

    def add(self, known: Sequence[Sampled], found: Tensor) -> None:
        """Compare ``known``, B responses of the sampler, with ``found`` (B, T), log-probabilities of the model."""
        rows = [s.logprobs for s in known if s.logprobs is not None]
        if len(rows) < len(known):
            self._unknown = True
            return
        mask = pad_rows([torch.ones(len(r), dtype=torch.bool) for r in rows], found.shape[1]).to(found.device)
        self.compare(pad_rows(rows, found.shape[1]).to(found.device), found, mask)

    def compare(self, known: Tensor, found: Tensor, mask: Tensor) -> None:
        """Compare log-probabilities (B, T) of sampler and model where ``mask`` (B, T) is True."""
        difference = torch.where(mask, known - found, 0.0).abs()
        self._sums["nats"] += float(difference.sum())
        self._sums["tokens"] += float(mask.sum())
        self._largest = max(self._largest, float(difference.max()))

    def conclude(self) -> None:
        """Decide from all comparisons since the last call. Collective: every process must call it.

        Raises:
            TokalignError: rounding cannot explain the difference.
        """
        sums, largest = distributed.summed(self._sums), distributed.all_reduce_max(self._largest)
        unknown = bool(distributed.all_reduce_max(self._unknown))
        self._sums, self._largest, self._unknown = {"nats": 0.0, "tokens": 0.0}, 0.0, False
        limits, nats = EXACT if self._exact else HALF, 0.0
        if sums["tokens"]:
            self.nats = sums["nats"] / sums["tokens"]
            nats = largest if self._exact else self.nats
        if not nats <= limits.wrong:
            mean = "" if self._exact else " on average"
            raise TokalignError(
                f"the sampler's log-probabilities differ from the model's by {nats:.2g} nats{mean}",
                remedy="use --sampler generate or --sampler uncached, and please report the model",
            )
        if unknown or nats > limits.reuse:
            self.reuse = False
        elif self.reuse is None:
            self.reuse = True

    def importance(self, logprobs: Tensor, sampled: Tensor | None) -> Tensor:
        """(T,): weights of a response's tokens in the policy loss.

        Args:
            logprobs: (T,) old log-probabilities.
            sampled: (T,) log-probabilities of the sampler if it has any.
        """
        if self.reuse or sampled is None or not self._cap:
            return torch.ones_like(logprobs)
        return rl.importance_weights(logprobs, sampled, self._cap)

    def truncation(self, logprobs: Tensor, old_logprobs: Tensor) -> Tensor | float:
        """(B, T): factors that truncate the ratios of the policy loss; ``old_logprobs`` are the sampler's."""
        if self._exact:
            return 1.0
        return rl.truncation(logprobs, old_logprobs, self._cap)
