"""Prompt + response sequences as padded tensors, and response tokens gathered back out of them.

B sequences of L tokens, prompt first, padded on the right. T is the longest response. ``True`` counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Pair = tuple[Any, Any]
"""Prompt ids, response ids (EOS included where the response has ended): sequences of int, or integer arrays."""


@dataclass(frozen=True)
class Batch:
    """Sequences ready for a model.

    ``input_ids``, ``attention_mask`` (B, L) long, 1 = counts; ``prompt_lens``, ``response_lens`` (B,) long.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_lens: Tensor
    response_lens: Tensor

    @classmethod
    def of(cls, pairs: Sequence[Pair], pad_id: int, device: torch.device | str = "cpu") -> "Batch":
        """Pad a list of (prompt, response) on the right."""
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
    def response_mask(self) -> Tensor:
        """(B, T) bool, True at response tokens."""
        width = int(self.response_lens.max())
        return torch.arange(width, device=self.input_ids.device) < self.response_lens[:, None]

    @property
    def response_ids(self) -> Tensor:
        """(B, T) long; padding holds whatever stood there."""
        return self.gather(self.input_ids)

    @property
    def last(self) -> Tensor:
        """(B,) long: position of the last counted token."""
        return self.prompt_lens + self.response_lens - 1

    def positions(self, shift: int = 0) -> Tensor:
        """(B, T) long: position of response token t, plus ``shift``; clamped into the row.

        ``shift=-1`` gives the position whose logits and value belong to the action that emitted t.
        """
        width = int(self.response_lens.max())
        at = self.prompt_lens[:, None] + torch.arange(width, device=self.input_ids.device) + shift
        return at.clamp(0, self.input_ids.shape[1] - 1)

    def gather(self, x: Tensor, shift: int = 0) -> Tensor:
        """(B, L, …) → (B, T, …): ``x`` at response tokens; see :meth:`positions` for ``shift``."""
        rows = torch.arange(len(x), device=x.device)[:, None]
        return x[rows, self.positions(shift)]


PASS = 192
"""Tokens whose computing takes about as long as what one more pass costs besides."""


def by_length(lengths: Sequence[int], size: int, *, even: bool = False) -> list[list[int]]:
    """Indices in groups of at most ``size``, longest first, cut where that saves most: padding costs, and so do passes.

    Args:
        lengths: of the sequences, in tokens.
        size: the most that one group holds.
        even: groups of ``size``, however much is padded, so that their number depends on that of the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if even:
        return [order[i : i + size] for i in range(0, len(order), size)]
    # The cheapest way to group the first j, each group padded to its first: by dynamic programming over the last cut.
    cost, cut = [0.0], [0]
    for j in range(1, len(order) + 1):
        firsts = range(max(0, j - size), j)
        best = min(firsts, key=lambda i: cost[i] + (j - i) * lengths[order[i]])
        cost.append(cost[best] + (j - best) * lengths[order[best]] + PASS)
        cut.append(best)
    groups: list[list[int]] = []
    j = len(order)
    while j:
        groups.append(order[cut[j] : j])
        j = cut[j]
    return groups[::-1]


def pad_rows(rows: Sequence[Tensor], width: int | None = None) -> Tensor:
    """(T_i,) tensors → (B, T), zeros (False) on the right."""
    out = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    if width is not None and out.shape[1] < width:
        out = torch.nn.functional.pad(out, (0, width - out.shape[1]))
    return out


def room(prompt: Sequence[int], response: int, most: int, cut: bool) -> list[int] | None:
    """The prompt beside a response, ``most`` tokens together: whole, without its beginning if that may be, or None."""
    left = most - response
    if len(prompt) <= left:
        return list(prompt)
    return list(prompt[-left:]) if cut and left > 0 else None


class _Bounded(Protocol):
    @property
    def max_length(self) -> int:
        """The most tokens of a row."""


def over(config: _Bounded, most: int) -> str:
    """Why a row of more than ``most`` tokens is skipped."""
    return "over --max-length" if most >= config.max_length else f"longer than the {most} tokens that the model reads"
