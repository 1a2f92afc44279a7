"""Padded batches of prompt + response sequences.

Shapes: B sequences of L tokens, the prompt first, padded on the right; T is the length of the longest response.
In masks, True (or 1) = counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Pair = tuple[Any, Any]
"""Prompt ids and response ids (with EOS if the response has ended): sequences of int or integer arrays."""


@dataclass(frozen=True)
class Batch:
    """A padded batch of prompt + response sequences.

    ``input_ids``, ``attention_mask`` (B, L) long, 1 = counts; ``prompt_lens``, ``response_lens`` (B,) long.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_lens: Tensor
    response_lens: Tensor

    @classmethod
    def of(cls, pairs: Sequence[Pair], pad_id: int, device: torch.device | str = "cpu") -> "Batch":
        """Pad (prompt ids, response ids) pairs on the right with ``pad_id``."""
        lens = [len(p) + len(r) for p, r in pairs]
        width = max(lens)
        input_ids = torch.full((len(pairs), width), pad_id)
        for row, (p, r) in zip(input_ids, pairs, strict=True):
            row[: len(p)] = torch.as_tensor(p)
            row[len(p) : len(p) + len(r)] = torch.as_tensor(r)
        lengths = torch.tensor(lens, device=device)
        return cls(
            input_ids.to(device),
            (torch.arange(width, device=device) < lengths[:, None]).long(),
            torch.tensor([len(p) for p, _ in pairs], device=device),
            torch.tensor([len(r) for _, r in pairs], device=device),
        )

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the model."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}

    @property
    def rows(self) -> Tensor:
        """(B,) long: row of each sequence."""
        return torch.arange(len(self.input_ids), device=self.input_ids.device)

    def columns(self, at: Tensor) -> Tensor:
        """(B, …) long: columns of the tokens at the positions ``at`` (B, …) of their sequences."""
        return at

    @property
    def response_mask(self) -> Tensor:
        """(B, T) bool, True at response tokens."""
        width = int(self.response_lens.max())
        return torch.arange(width, device=self.input_ids.device) < self.response_lens[:, None]

    @property
    def response_ids(self) -> Tensor:
        """(B, T) long: ids of the response tokens; ids at padding are arbitrary."""
        return self.gather(self.input_ids)

    @property
    def last(self) -> Tensor:
        """(B,) long: column of the last token that is not padding."""
        return self.columns(self.prompt_lens + self.response_lens - 1)

    def positions(self, shift: int = 0) -> Tensor:
        """(B, T) long: column of response token t, plus ``shift``, clamped to [0, L - 1].

        ``shift=-1`` gives the position whose logits and value belong to the action that emitted token t.
        """
        width = int(self.response_lens.max())
        at = self.prompt_lens[:, None] + torch.arange(width, device=self.input_ids.device) + shift
        return self.columns(at).clamp(0, self.input_ids.shape[1] - 1)

    def gather(self, x: Tensor, shift: int = 0) -> Tensor:
        """(B, L, …) → (B, T, …): ``x`` at the response tokens. ``shift``: see :meth:`positions`."""
        return x[self.rows[:, None], self.positions(shift)]


PASS = 192
"""Fixed cost of a forward pass, as the number of tokens that take as long to compute."""


def by_length(lengths: Sequence[int], size: int, *, even: bool = False) -> list[list[int]]:
    """Group sequences of similar length, minimising padded tokens plus :data:`PASS` per group.

    Args:
        lengths: sequence lengths in tokens.
        size: maximum number of sequences in a group.
        even: make groups of ``size`` regardless of padding, so that the number of groups depends only on the number
            of sequences.

    Returns:
        Groups of indices into ``lengths``, longest sequences first.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if even:
        return [order[i : i + size] for i in range(0, len(order), size)]
    # Dynamic programming: cost[j] is the lowest cost of grouping the j longest sequences, each group padded to its
    # longest; cut[j] is where the last of these groups begins.
    cost, cut = [0.0], [0]
    for j in range(1, len(order) + 1):
        starts = range(max(0, j - size), j)
        best = min(starts, key=lambda i: cost[i] + (j - i) * lengths[order[i]])
        cost.append(cost[best] + (j - best) * lengths[order[best]] + PASS)
        cut.append(best)
    groups: list[list[int]] = []
    j = len(order)
    while j:
        groups.append(order[cut[j] : j])
        j = cut[j]
    return groups[::-1]


def pad_rows(rows: Sequence[Tensor], width: int | None = None) -> Tensor:
    """(T_i,) tensors → (B, T), padded on the right with zeros (False), to at least ``width`` columns."""
    out = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    if width is not None and out.shape[1] < width:
        out = torch.nn.functional.pad(out, (0, width - out.shape[1]))
    return out


def room(prompt: Sequence[int], response: int, most: int, cut: bool) -> list[int] | None:
    """Fit a prompt beside a response.

    Args:
        prompt: prompt ids.
        response: length of the response in tokens.
        most: maximum length of prompt and response together.
        cut: whether the beginning of the prompt may be cut.

    Returns:
        The prompt, cut if necessary and allowed, or None if it does not fit.
    """
    left = most - response
    if len(prompt) <= left:
        return list(prompt)
    return list(prompt[-left:]) if cut and left > 0 else None


class _HasMaxLength(Protocol):
    @property
    def max_length(self) -> int:
        """Maximum length of a row in tokens."""


def over(config: _HasMaxLength, limit: int) -> str:
    """Reason for skipping a row with more than ``limit`` tokens."""
    return "over --max-length" if limit >= config.max_length else f"longer than the {limit} tokens that the model reads"
