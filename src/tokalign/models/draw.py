"""Draw tokens from logits: each response with its own random numbers, in time that hardly depends on the vocabulary."""

from collections.abc import Sequence

import torch
from torch import Tensor


def uniform_numbers(seeds: Sequence[int], length: int) -> Tensor:
    """(B, length): uniform random numbers in [0, 1) for the tokens of each response, from its seed."""
    return torch.stack([torch.rand(length, generator=torch.Generator().manual_seed(s)) for s in seeds])


WIDTH = 256
"""Tokens whose probabilities are summed before one of them is selected."""


def draw(logits: Tensor, temperature: float, top_p: float, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a token for each row by inverting the cumulative distribution, and score it.

    Sums of chunks of the vocabulary select a chunk, and cumulative sums within that chunk select the token: no row
    needs the cumulative sums of its whole vocabulary.

    Args:
        logits: (B, V) float32; overwritten.
        temperature: logits are divided by it; 0 selects the most likely token.
        top_p: probability mass of the most likely tokens to sample from; 1: all tokens.
        uniforms: (B,) uniform random numbers in [0, 1).

    Returns:
        (B,) long token ids, and their (B,) log-probabilities at the temperature, before ``top_p``.
    """
    if temperature not in (0, 1):
        logits /= temperature
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    top = logits.max(-1, keepdim=True)
    token = top.indices.squeeze(1)
    chosen = torch.zeros_like(token, dtype=torch.float32)  # logits of the tokens, less the highest of their rows
    weights = logits.sub_(top.values)
    if temperature:
        scores, weights = weights, weights.exp()
        sums = _chunk_sums(weights, wide)
        total = sums.sum(-1)
        if top_p < 1:
            ranked, order = weights.sort(-1, descending=True)
            ranked[ranked.cumsum(-1) - ranked >= top_p * total[:, None]] = 0  # keep the token that crosses top_p
            weights = torch.zeros_like(weights).scatter_(-1, order, ranked)
            sums = _chunk_sums(weights, wide)
        token = _invert(weights, sums, uniforms.to(wide))
        chosen = scores.gather(1, token[:, None]).squeeze(1)
    else:
        total = _chunk_sums(weights.exp_(), wide).sum(-1)
    return token, (chosen - total.log()).float()


def _chunk_sums(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, V) → (B, C): sums of chunks of :data:`WIDTH` columns; the last chunk may be smaller."""
    whole = weights.shape[1] // WIDTH * WIDTH
    sums = weights[:, :whole].reshape(len(weights), -1, WIDTH).sum(-1, dtype=dtype)
    return torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True, dtype=dtype)], 1)


def _invert(weights: Tensor, sums: Tensor, uniforms: Tensor) -> Tensor:
    """(B,) column at which the cumulative sum of each row of ``weights`` (B, V) exceeds ``uniforms`` of its total."""
    ends = sums.cumsum(-1)
    wanted = uniforms[:, None] * ends[:, -1:]
    chunk = torch.searchsorted(ends, _below(wanted, ends), right=True).clamp(max=sums.shape[1] - 1)
    rest = wanted - (ends - sums).gather(1, chunk)
    columns = chunk * WIDTH + torch.arange(WIDTH, device=weights.device)
    inside = columns < weights.shape[1]
    found = torch.where(inside, weights.gather(1, columns.clamp(max=weights.shape[1] - 1)), 0.0)
    within = found.to(sums.dtype).cumsum(-1)
    column = chunk * WIDTH + torch.searchsorted(within, _below(rest, within), right=True)
    return column.clamp(max=weights.shape[1] - 1).squeeze(1)


def _below(wanted: Tensor, cumulative: Tensor) -> Tensor:
    """``wanted`` (B, 1), kept below the last of ``cumulative`` (B, N): rounding must not select what has no weight."""
    last = cumulative[:, -1:]
    return wanted.clamp(min=0).minimum(torch.nextafter(last, torch.zeros_like(last)))
