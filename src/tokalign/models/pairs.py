"""Pairs of responses, each pair in one row: what both sequences begin with is read once.

Minimal edits leave most of a response as it was, and both sequences have the same prompt. The row is

    common beginning | rest of the first response | rest of the second response

and an attention mask hides the first rest from the second. This is prefix sharing as proposed for DPO (Wang & Hegde,
2024, arXiv:2410.20305), extended from the prompt to all tokens in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokalign.models.batch import Batch, Pair
from tokalign.models.heads import hidden_size
from tokalign.models.reward import reads_last_token

_TOLERANCE = 1e-3
"""Largest difference of hidden states, as a share of their size, that rounding explains."""


@dataclass(frozen=True)
class PairBatch(Batch):
    """A batch of 2B sequences, the B first ones of the pairs before the B second ones, in B rows.

    ``input_ids``, ``position_ids`` (B, L) long; ``attention_mask`` (B, 1, L, L) bool, True = is attended to;
    ``prompt_lens``, ``response_lens`` (2B,) long; ``common``, ``skipped`` (2B,) long: number of tokens in common, and
    of tokens of the row between them and the rest of the sequence.
    """

    position_ids: Tensor
    common: Tensor
    skipped: Tensor

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[Pair, Pair]], pad_id: int, device: torch.device | str) -> "PairBatch":
        """Lay out pairs of (prompt ids, response ids); rows are padded on the right with ``pad_id``."""
        rows: list[Tensor] = []
        spans: list[tuple[int, int]] = []
        for first, second, common in map(_aligned, pairs):
            rows.append(torch.from_numpy(np.concatenate([first, second[common:]])))
            spans.append((common, len(first) - common))
        common, rest = torch.tensor(spans, device=device).T
        width = max(map(len, rows))
        at = torch.arange(width, device=device)
        second = at >= (common + rest)[:, None]
        hidden = second[:, :, None] & (at >= common[:, None])[:, None, :] & ~second[:, None, :]
        return cls(
            pad_sequence(rows, batch_first=True, padding_value=pad_id).to(device),
            (torch.ones(width, width, dtype=torch.bool, device=device).tril() & ~hidden)[:, None],
            torch.tensor([len(p[side][0]) for side in (0, 1) for p in pairs], device=device),
            torch.tensor([len(p[side][1]) for side in (0, 1) for p in pairs], device=device),
            at - rest[:, None] * second,
            common.repeat(2),
            torch.cat([torch.zeros_like(rest), rest]),
        )

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the model."""
        return {**super().inputs, "position_ids": self.position_ids}

    @property
    def rows(self) -> Tensor:
        """(2B,) long: row of each sequence."""
        return torch.arange(len(self.input_ids), device=self.input_ids.device).repeat(2)

    def columns(self, at: Tensor) -> Tensor:
        """(2B, …) long: columns of the tokens at the positions ``at`` (2B, …) of their sequences."""
        common, skipped = (x.view(-1, *[1] * (at.ndim - 1)) for x in (self.common, self.skipped))
        return at + skipped * (at >= common)


def row_lengths(pairs: Sequence[tuple[Pair, Pair]]) -> list[int]:
    """Number of tokens of the row of each pair in a :class:`PairBatch`."""
    return [len(first) + len(second) - common for first, second, common in map(_aligned, pairs)]


def _aligned(pair: tuple[Pair, Pair]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Both sequences of a pair, and the number of tokens that they begin with in common."""
    first, second = (np.concatenate([np.asarray(ids, dtype=np.int64) for ids in sequence]) for sequence in pair)
    n = min(len(first), len(second))
    different = np.flatnonzero(first[:n] != second[:n])
    return first, second, int(different[0]) if len(different) else n


@torch.no_grad()
def supports_pairs(model: Any, level: str, pairs: Sequence[tuple[Pair, Pair]], pad_id: int) -> bool:
    """Whether to train a classifier on pairs in one row: it takes fewer operations, and the results are the same.

    Compares hidden states of the three shortest rows and the longest one with those of the sequences alone. Models
    that attend to later tokens, that keep a state instead of attending, or that have a window give different ones.

    Args:
        model: a classifier.
        level: ``token``, or ``sequence`` with a head on the last token.
        pairs: prompt ids and response ids of all pairs.
        pad_id: id of padding.
    """
    body, rows = getattr(model, model.base_model_prefix, None), row_lengths(pairs)
    if body is None or (level == "sequence" and not reads_last_token(model)):
        return False
    if model.config.is_encoder_decoder or not _saves(pairs, rows, hidden_size(model.config)):
        return False
    order = sorted(range(len(pairs)), key=lambda i: rows[i])
    training, device = model.training, next(model.parameters()).device
    called, outputs = body if level == "sequence" else model, list[Any]()
    hook = body.register_forward_hook(lambda *call: outputs.append(call[-1]))

    def hidden_states(batch: Batch) -> Tensor:
        called(**batch.inputs)
        return batch.gather(outputs.pop().last_hidden_state)[batch.response_mask]

    model.eval()
    try:
        for some in ([pairs[i] for i in order[:3]], [pairs[order[-1]]]):
            shared = PairBatch.of_pairs(some, pad_id, device)
            alone = Batch.of([pair[side] for side in (0, 1) for pair in some], pad_id, device)
            found, expected = hidden_states(shared), hidden_states(alone)
            if not (found - expected).abs().max() <= _TOLERANCE * expected.abs().max():
                return False
    except Exception:  # models can raise anything at a mask that they do not take
        return False
    finally:
        hook.remove()
        model.train(training)
    return True


def _saves(pairs: Sequence[tuple[Pair, Pair]], rows: Sequence[int], width: int) -> bool:
    """Compare operations: per layer and token, matrix products take about 24·width², attention 4·width·length."""

    def operations(n: int) -> int:
        return n * (6 * width + n)

    return sum(map(operations, rows)) < sum(operations(len(p) + len(r)) for pair in pairs for p, r in pair)
