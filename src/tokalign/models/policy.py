"""What PPO asks of a policy and a value model: log-probabilities, entropy and values of response tokens.

Both are causal and batches are padded on the right, so no token that counts can see padding: no mask is made, and
attention takes its fastest way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokalign.models.batch import Batch


class TokenStats(NamedTuple):
    """What a policy says of the tokens of responses: (B, T) each, 0 at padding.

    ``logprobs`` of the tokens emitted; ``entropy`` of what they were drawn from, and ``values`` of the states before
    them, where they were asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None
    values: Tensor | None
    best: Tensor | None = None
    """Log-probabilities of the likeliest tokens."""


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

    Logits are computed before response tokens only: the one shift of the project between a token and the action that
    emitted it.

    Args:
        policy: a causal language model.
        batch: B responses.
        temperature: of sampling.
        entropy: whether it is wanted.
        value_head: (…, hidden) → (…, 1): reads values off the states that the logits are made from.
        best: whether those of the likeliest tokens are wanted.
        size: of the vocabulary, where a model has more outputs than its tokenizer has ids; None: all are ids.
    """
    mask = batch.response_mask
    rows = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
    with reading(policy, rows, batch.positions(-1)[mask]) as read:
        logits = policy(input_ids=batch.input_ids, use_cache=False).logits[..., :size]
    logp = (logits.float() if temperature == 1 else logits.float() / temperature).log_softmax(-1)  # (N, V)
    del logits  # the largest tensor of all
    chosen = logp.gather(1, batch.response_ids[mask][:, None]).squeeze(1)
    spread = _entropy(logp.detach()) if entropy else None
    values = value_head(read[0]).squeeze(-1).float() if value_head is not None else None

    def placed(cells: Tensor) -> Tensor:
        return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, cells)

    return TokenStats(
        placed(chosen),
        None if spread is None else placed(spread),
        None if values is None else placed(values),
        placed(logp.max(-1).values) if best else None,
    )


@contextmanager
def reading(policy: Any, rows: Tensor, places: Tensor) -> Iterator[list[Tensor]]:
    """Within, the policy turns the states at (row, place) alone into logits (N, V); yields these states (N, hidden).

    What else an architecture does between states and logits, such as a cap or a scale, it does to those.
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
    """(N, V) → (N,), some rows at a time: of so large a tensor no copies are made."""
    return torch.cat([-(part.exp() * part).sum(-1) for part in torch.split(logp, 256)])


def response_values(value_model: Any, batch: Batch) -> Tensor:
    """(B, T): value of the state before each response token, 0 at padding."""
    out = value_model(input_ids=batch.input_ids).logits
    return torch.where(batch.response_mask, batch.gather(out.squeeze(-1).float(), -1), 0.0)
