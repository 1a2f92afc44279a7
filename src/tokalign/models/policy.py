"""What PPO asks of a policy and a value model: log-probabilities, entropy and values of response tokens."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokalign.models.batch import Batch


class TokenStats(NamedTuple):
    """(B, T) each, 0 at padding: log-probability of the token emitted, entropy of where it was drawn from."""

    logprobs: Tensor
    entropy: Tensor


def response_logprobs(policy: Any, batch: Batch, temperature: float = 1.0) -> TokenStats:
    """Score the response tokens of ``batch`` under ``policy``.

    Logits are computed at the positions before response tokens only: the one shift of the project
    between a token and the action that emitted it.
    """
    first = int(batch.prompt_lens.min()) - 1
    keep = torch.arange(first, int(batch.last.max()), device=batch.input_ids.device)
    logits = policy(input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=keep).logits
    mask = batch.response_mask
    rows = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)
    picked = logits[rows[mask], batch.positions(-1)[mask] - first].float() / temperature  # (N, V)
    logp = picked.log_softmax(-1)
    chosen = logp.gather(1, batch.response_ids[mask][:, None]).squeeze(1)
    entropy = -(logp.detach().exp() * logp.detach()).sum(-1)
    zeros = torch.zeros(mask.shape, device=mask.device)
    return TokenStats(zeros.masked_scatter(mask, chosen), zeros.masked_scatter(mask, entropy))


def response_values(value_model: Any, batch: Batch) -> Tensor:
    """(B, T): value of the state before each response token, 0 at padding."""
    out = value_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return torch.where(batch.response_mask, batch.gather(out.squeeze(-1).float(), -1), 0.0)
