"""A cache of keys and values that grows in place: a token more costs a token, not a copy of all before it."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin


class _Growing(DynamicLayer):  # type: ignore[misc]
    """``keys`` and ``values`` (B, heads, K, size) are the filled part of buffers with room to spare."""

    keys: Tensor
    values: Tensor
    _room: list[Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append; returns all keys and values so far."""
        before = self.get_seq_length()
        filled = before + key_states.shape[-2]
        if not before:
            self.lazy_initialization(key_states, value_states)
        if not before or filled > self._room[0].shape[-2]:
            self._room = [self._roomier(filled, new) for new in (key_states, value_states)]
            for room, old in zip(self._room, (self.keys, self.values), strict=True):
                if before:
                    room[..., :before, :] = old
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., before:filled, :] = new
        self.keys, self.values = (room[..., :filled, :] for room in self._room)
        return self.keys, self.values

    @staticmethod
    def _roomier(filled: int, like: Tensor) -> Tensor:
        return torch.empty(
            (*like.shape[:-2], filled + max(32, filled // 2), like.shape[-1]), dtype=like.dtype, device=like.device
        )

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        if self.get_seq_length():
            filled = self.keys.shape[-2]
            self._room = [room[indices] for room in self._room]
            self.keys, self.values = (room[..., :filled, :] for room in self._room)


def keep_rows(cache: Any, rows: Tensor) -> None:
    """Of all rows that are cached, keep some (N,): keys and values, and what linear attention carries along."""
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):  # its own way of selecting leaves its states as they are
            layer.reorder_cache(rows)
        else:
            layer.batch_select_indices(rows)


def growing_cache(config: Any) -> Any:
    """An empty cache for a model of this configuration; layers with a window, and others of a kind, keep their own."""
    cache = DynamicCache(config=config)
    cache.layers = [_Growing() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
