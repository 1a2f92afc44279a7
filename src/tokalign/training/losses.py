"""What supervised training makes small: a model with its loss, as one module."""

from typing import Any

import torch
from torch import Tensor

from tokalign.config.methods import RewardModelOptions
from tokalign.core import rewards
from tokalign.models.batch import Batch
from tokalign.models.policy import response_logprobs
from tokalign.models.reward import sequence_scores


class ModelLoss(torch.nn.Module):
    """A model whose ``forward`` is its loss on a microbatch.

    The Trainer trains this module and not the model, since wrappers for several processes, for mixed precision and
    for sharded weights all act on ``forward``.

    Args:
        model: a Hugging Face model, or one with PEFT adapters.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        if hasattr(self.plain, "config"):
            self.plain.config.use_cache = False  # training needs no keys and values
        # FSDP wraps the layers that the model names.
        self._no_split_modules = getattr(self.plain, "_no_split_modules", None)

    @property
    def plain(self) -> Any:
        """The model itself; adapters sit inside its layers."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, inputs: dict[str, Any], total: float) -> Tensor:
        """Sum of the microbatch's losses, over ``total``."""
        raise NotImplementedError


class ResponseLoss(ModelLoss):
    """-log p of the response tokens. ``inputs``: ``batch``."""

    def forward(self, inputs: dict[str, Any], total: float) -> Tensor:
        """See :class:`ModelLoss`."""
        return -response_logprobs(self.plain, inputs["batch"]).logprobs.sum() / total


class TokenLoss(ModelLoss):
    """Weighted cross-entropy of bad / neutral / good at every response token (Xu et al. 2024).

    ``inputs``: ``batch``, and ``labels`` (B, T) of -1, 0, 1.
    """

    def __init__(self, model: Any, options: RewardModelOptions) -> None:
        super().__init__(model)
        self.weights, self.goals = class_weights(options), class_targets(options)

    def forward(self, inputs: dict[str, Any], total: float) -> Tensor:
        """See :class:`ModelLoss`."""
        batch: Batch = inputs["batch"]
        logits = self.plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        cells, device = batch.gather(logits), logits.device
        weights, goals = self.weights.to(device), self.goals.to(device)
        return rewards.token_loss(cells, inputs["labels"], batch.response_mask, weights, goals, total)


class PairLoss(ModelLoss):
    """Bradley-Terry: -log σ(better - worse). ``inputs``: ``batch``, the better half of its rows first."""

    def forward(self, inputs: dict[str, Any], total: float) -> Tensor:
        """See :class:`ModelLoss`."""
        better, worse = sequence_scores(self.plain, inputs["batch"]).chunk(2)
        return rewards.pair_loss(better, worse, total)


def class_weights(options: RewardModelOptions) -> Tensor:
    """(3,): weights of bad, neutral and good tokens in the loss."""
    return torch.tensor([options.weight_bad, options.weight_neutral, options.weight_good])


def class_targets(options: RewardModelOptions) -> Tensor:
    """(3, 3): by label, the probabilities of bad, neutral and good to learn."""
    return rewards.targets(options.neutral == "soft", options.label_smoothing)
