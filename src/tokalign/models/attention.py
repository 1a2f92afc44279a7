"""Faster attention in half precision on CPUs, for rows of up to 512 tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

LONGEST = 512
"""Largest number of keys for which attention is computed by matrix products: with and without gradients, so that both
give the same log-probabilities."""


def install() -> None:
    """Replace transformers' ``sdpa`` attention in this process. Calling it again changes nothing.

    PyTorch's fused kernel for ``sdpa`` is slow in half precision on CPUs, above all in the backward pass. Plain matrix
    products (``SDPBackend.MATH``) are faster (``bench/speed/attention.py``), and as accurate: both round to the compute
    type. They keep the attention weights in memory, hence the limit of ``LONGEST`` keys.
    """
    AttentionInterface.register("sdpa", attention)


def attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """Attention by matrix products if they are faster, else transformers' ``sdpa``, with its arguments and result.

    Args:
        module: attention layer.
        query: (B, heads, Q, d).
        key: (B, key heads, K, d).
        value: (B, key heads, K, d).
        mask: (B or 1, 1, Q, K), true where a query attends to a key; None: causal.
        kwargs: passed on.
    """
    if not _faster(query, key):
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    allowed: Callable[[], bool] = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed  # also holds for CPUs
    reduced = allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(reduced)


def _faster(query: Tensor, key: Tensor) -> bool:
    if query.device.type != "cpu" or not 1 < query.shape[2] <= key.shape[2] <= LONGEST:
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return dtype in (torch.bfloat16, torch.float16)
