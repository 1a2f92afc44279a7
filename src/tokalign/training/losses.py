"""Losses of supervised training, as modules around a model."""

from typing import Any

import torch
from torch import Tensor

from tokalign.config.methods import RewardModelOptions
from tokalign.core import rewards
from tokalign.models.batch import Batch
from tokalign.models.policy import response_logprobs
from tokalign.models.reward import sequence_scores


class ModelLoss(torch.nn.Module):
    """A model whose ``forward`` returns its loss on a microbatch.

    The Trainer trains this module instead of the model, because wrappers such as DDP, FSDP and autocast act on
    ``forward``.

    Args:
        model: a Hugging Face model, with or without PEFT adapters.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        if hasattr(self.plain, "config"):
            self.plain.config.use_cache = False  # training needs no KV cache
        # FSDP wraps the layers that are named here.
        self._no_split_modules = getattr(self.plain, "_no_split_modules", None)

    @property
    def plain(self) -> Any:
        """The model without the PEFT wrapper; adapters are part of its layers."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, inputs: dict[str, Any], total: float) -> Tensor:
        """Summed loss of the microbatch, divided by ``total``; a scalar."""
        raise NotImplementedError


class ResponseLoss(ModelLoss):
    """Negative log-likelihood of the response tokens. ``inputs``: ``batch``."""

    def forward(self, inputs: dict[str, Any], total: float) -> Tensor:
        """See :class:`ModelLoss`."""
        return -response_logprobs(self.plain, inputs["batch"]).logprobs.sum() / total


class TokenLoss(ModelLoss):
    """Class-weighted cross-entropy of bad / neutral / good at every response token (Xu et al., 2024).

    ``inputs``: ``batch``, and ``labels`` (B, T) long, -1 / 0 / +1. See :func:`tokalign.core.rewards.token_loss`.
    """

    def __init__(self, model: Any, options: RewardModelOptions) -> None:
        super().__init__(model)
        self.weights, self.goals = class_weights(options), class_targets(options)

    def forward(self, inputs: dict[str, Any], total: float) -> Tensor:
        """See :class:`ModelLoss`."""
        batch: Batch = inputs["batch"]
        logits = self.plain(**batch.inputs).logits
        cells, device = batch.gather(logits), logits.device
        weights, goals = self.weights.to(device), self.goals.to(device)
        return rewards.token_loss(cells, inputs["labels"], batch.response_mask, weights, goals, total)


class PairLoss(ModelLoss):
    """Bradley-Terry loss, -log σ(better - worse). ``inputs``: ``batch`` (2B rows), the B better responses first."""

    def forward(self, inputs: dict[str, Any], total: float) -> Tensor:
        """See :class:`ModelLoss`."""
        better, worse = sequence_scores(self.plain, inputs["batch"]).chunk(2)
        return rewards.pair_loss(better, worse, total)


def class_weights(options: RewardModelOptions) -> Tensor:
    """(3,): class weights of bad, neutral and good tokens."""
    return torch.tensor([options.weight_bad, options.weight_neutral, options.weight_good])


def class_targets(options: RewardModelOptions) -> Tensor:
    """(3, 3): target class probabilities by label, see :func:`tokalign.core.rewards.targets`."""
    return rewards.targets(options.neutral == "soft", options.label_smoothing)
