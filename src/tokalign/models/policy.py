"""Log-probabilities, entropy and values of response tokens, for PPO and SFT.

Policy and value model are causal and batches are padded on the right, so response tokens never attend to padding. No
attention mask is passed, which allows the fastest attention kernel.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tokalign.models import distributed
from tokalign.models.batch import Batch

MAX_LOGITS = 2**23
"""Logits that are computed at a time: 32 MB in float32."""


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
    places, targets = batch.positions(-1)[mask], batch.response_ids[mask]

    def statistics(logits: Tensor, targets: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        """(n, V), (n,) and (n, hidden) → (n,) each: log-probabilities, entropies, values and best."""
        logits = logits[..., :size].float()
        logp = (logits if temperature == 1 else logits / temperature).log_softmax(-1)
        del logits  # the largest tensor
        none = logp.new_empty(0)
        return (
            logp.gather(1, targets[:, None]).squeeze(1),
            _entropy(logp.detach()) if entropy else none,
            value_head(states).squeeze(-1).float() if value_head is not None else none,
            logp.max(-1).values if best else none,
        )

    embeddings = len(policy.get_output_embeddings().weight)
    body = _separate_body(policy) if len(targets) * embeddings > MAX_LOGITS else None
    if body is not None:
        per_part = max(1, MAX_LOGITS // embeddings)
        found = _in_parts(policy, body, batch.input_ids, rows, places, targets, statistics, per_part)
    else:
        with logits_at(policy, rows, places) as states:
            logits = policy(input_ids=batch.input_ids, use_cache=False).logits
        found = statistics(logits, targets, states[0])

    def scatter(x: Tensor) -> Tensor:
        return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, x)

    logprobs, entropies, values, highest = found
    return TokenStats(
        scatter(logprobs),
        scatter(entropies) if entropy else None,
        scatter(values) if value_head is not None else None,
        scatter(highest) if best else None,
    )


def _separate_body(policy: Any) -> Any:
    """The module whose states ``policy.forward`` gives to the output layer; None if it cannot be called separately."""
    body = policy.get_decoder()
    if distributed.sharded() or body is None or body is policy:
        return None
    if policy not in _CALLS_BODY:  # some models call a part of their decoder directly
        calls: list[Any] = []
        handle = body.register_forward_pre_hook(lambda *_: calls.append(1))
        devices = [policy.device] if policy.device.type == "cuda" else []
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices):  # dropout draws as it would without this
                policy(input_ids=torch.zeros(1, 1, dtype=torch.long, device=policy.device), use_cache=False)
        finally:
            handle.remove()
        _CALLS_BODY[policy] = bool(calls)
    return body if _CALLS_BODY[policy] else None


_CALLS_BODY: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
"""Whether a model calls the module that ``get_decoder`` returns."""


def _in_parts(
    policy: Any,
    body: Any,
    input_ids: Tensor,
    rows: Tensor,
    places: Tensor,
    targets: Tensor,
    statistics: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]],
    size: int,
) -> tuple[Tensor, ...]:
    """Compute ``statistics`` of ``size`` positions at a time, whose logits are computed again in the backward pass.

    The body runs once. What follows it, the output layer with any scaling or capping by the architecture, runs for
    each part: the policy's own ``forward``, with a body that returns the states of that part.
    """
    output = body(input_ids=input_ids, use_cache=False)
    states = output.last_hidden_state[rows, places]

    def part(states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        shell, seen = copy(output), list[Tensor]()
        shell.last_hidden_state = states[None]
        handle = policy.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        body.forward = lambda *_, **__: shell
        try:
            logits = policy(input_ids=input_ids[:1, :1], use_cache=False).logits
        finally:
            handle.remove()
            del body.forward
        return statistics(logits[0], targets, seen[0][0])

    run = partial(checkpoint, part, use_reentrant=False) if torch.is_grad_enabled() else part
    parts = [run(s, t) for s, t in zip(torch.split(states, size), torch.split(targets, size), strict=True)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


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
