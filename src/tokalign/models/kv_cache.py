"""A key-value cache that grows in place: appending a token does not copy the tokens before it."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin


class _Growing(DynamicLayer):  # type: ignore[misc]
    """``keys`` and ``values`` (B, heads, K, size) are views of the filled part of larger buffers."""

    keys: Tensor
    values: Tensor
    _storage: list[Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, new, size); return all so far (B, heads, K, size)."""
        before = self.get_seq_length()
        filled = before + key_states.shape[-2]
        if not before:
            self.lazy_initialization(key_states, value_states)
        if not before or filled > self._storage[0].shape[-2]:
            self._storage = [self._allocate(filled, new) for new in (key_states, value_states)]
            for buffer, old in zip(self._storage, (self.keys, self.values), strict=True):
                if before:
                    buffer[..., :before, :] = old
        for buffer, new in zip(self._storage, (key_states, value_states), strict=True):
            buffer[..., before:filled, :] = new
        self.keys, self.values = (buffer[..., :filled, :] for buffer in self._storage)
        return self.keys, self.values

    @staticmethod
    def _allocate(filled: int, like: Tensor) -> Tensor:
        return torch.empty(
            (*like.shape[:-2], filled + max(32, filled // 2), like.shape[-1]), dtype=like.dtype, device=like.device
        )

    def spread(self, columns: Tensor) -> None:
        """Replace the only row of the batch by B rows, made of its tokens at ``columns`` (B, K)."""
        tokens = [x[0][:, columns].transpose(0, 1) for x in (self.keys, self.values)]
        self._storage = [self._allocate(columns.shape[1], x) for x in tokens]
        for buffer, x in zip(self._storage, tokens, strict=True):
            buffer[..., : columns.shape[1], :] = x
        self.keys, self.values = (buffer[..., : columns.shape[1], :] for buffer in self._storage)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices`` (N,) of the batch, in their order; a row may occur several times."""
        if self.get_seq_length():
            filled = self.keys.shape[-2]
            self._storage = [buffer[indices] for buffer in self._storage]
            self.keys, self.values = (buffer[..., :filled, :] for buffer in self._storage)


def keep_rows(cache: Any, rows: Tensor) -> None:
    """Keep the rows (N,) of a cached batch, in place: keys, values and the states of linear attention.

    A row may occur several times in ``rows``.
    """
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):  # batch_select_indices leaves its states unchanged
            layer.reorder_cache(rows)
        else:
            layer.batch_select_indices(rows)


def can_spread(cache: Any) -> bool:
    """Whether the tokens of a cached row can be copied to other columns of other rows: no layer has other states."""
    return all(type(layer) is _Growing for layer in cache.layers)


def spread(cache: Any, columns: Tensor) -> None:
    """Replace the only row of a cached batch by B rows, made of its tokens at ``columns`` (B, K), in place."""
    for layer in cache.layers:
        layer.spread(columns)


def growing_cache(config: Any) -> Any:
    """Create an empty cache for a model configuration; special layers, such as sliding windows, keep their own type."""
    cache = DynamicCache(config=config)
    cache.layers = [_Growing() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
