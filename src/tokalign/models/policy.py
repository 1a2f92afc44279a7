"""Log-probabilities, entropy and values of response tokens, for PPO and SFT.

Policy and value model are causal and batches are padded on the right, so response tokens never attend to padding. No
attention mask is passed, which allows the fastest attention kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokalign.models.batch import Batch


class TokenStats(NamedTuple):
    """Statistics of response tokens under a policy: (B, T) each, 0 at padding, None if not requested.

    ``logprobs`` are those of the response tokens, ``entropy`` that of the distributions they were sampled from, in
    nats, and ``values`` those of the states before the tokens.
    """

    logprobs: Tensor
    entropy: Tensor | None
    values: Tensor | None
    best: Tensor | None = None
    """Log-probabilities of the most likely tokens."""


def response_logprobs(
    policy: Any,
    batch: Batch,
    temperature: float = 1.0,
    *,
    entropy: bool = False,
    value_head: Any = None,
    size: int | None = None,
    best: bool = False,
) -> TokenStats:
    """Score the response tokens of ``batch`` under ``policy``.

    Logits are computed only at the positions before response tokens, which predict the response tokens.

    Args:
        policy: a causal language model.
        batch: B prompts with responses.
        temperature: sampling temperature; logits are divided by it.
        entropy: whether to return ``entropy``.
        value_head: (…, hidden) → (…, 1): computes ``values`` from the hidden states before the output layer.
        size: vocabulary size of the tokenizer; further outputs of the model are ignored. None: use all outputs.
        best: whether to return ``best``.
    """
    mask = batch.response_mask
    rows = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
    with logits_at(policy, rows, batch.positions(-1)[mask]) as states:
        logits = policy(input_ids=batch.input_ids, use_cache=False).logits[..., :size]
    logp = (logits.float() if temperature == 1 else logits.float() / temperature).log_softmax(-1)  # (N, V)
    del logits  # the largest tensor
    logprobs = logp.gather(1, batch.response_ids[mask][:, None]).squeeze(1)
    entropies = _entropy(logp.detach()) if entropy else None
    values = value_head(states[0]).squeeze(-1).float() if value_head is not None else None

    def scatter(x: Tensor) -> Tensor:
        return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, x)

    return TokenStats(
        scatter(logprobs),
        None if entropies is None else scatter(entropies),
        None if values is None else scatter(values),
        scatter(logp.max(-1).values) if best else None,
    )


@contextmanager
def logits_at(policy: Any, rows: Tensor, places: Tensor) -> Iterator[list[Tensor]]:
    """Compute logits only at selected positions within the context.

    The policy's ``logits`` are then (N, V) instead of (B, L, V). Scaling or capping by the architecture still applies.

    Args:
        policy: a causal language model.
        rows: (N,) row of each position.
        places: (N,) column of each position.

    Yields:
        A list that holds the hidden states (N, hidden) at these positions after the forward pass.
    """
    states: list[Tensor] = []

    def pick(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states.append(args[0][rows, places])
        return (states[0],)

    handle = policy.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield states
    finally:
        handle.remove()


def _entropy(logp: Tensor) -> Tensor:
    """(N, V) → (N,) in nats, in chunks of rows to avoid copies of the whole tensor."""
    return torch.cat([-(part.exp() * part).sum(-1) for part in torch.split(logp, 256)])


def response_values(value_model: Any, batch: Batch) -> Tensor:
    """(B, T): value of the state before each response token, 0 at padding."""
    out = value_model(input_ids=batch.input_ids).logits
    return torch.where(batch.response_mask, batch.gather(out.squeeze(-1).float(), -1), 0.0)
