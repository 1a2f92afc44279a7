"""Rows of each optimiser step of supervised training, and this process's part of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from tokalign.models.distributed import local_part, world

Example = dict[str, Any]

TOTAL = "total"
"""Key of a microbatch: the number to divide its summed loss by."""


class Batches:
    """Row numbers of every optimiser step: similar lengths together, in a new order each epoch.

    Iterating gives one epoch: each row once, in batches of exactly ``size``; the last may be smaller. All processes
    are given the same batches.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self.size, self._rows = size, len(lengths)
        generator = torch.Generator().manual_seed(seed)
        self._sampler = LengthGroupedSampler(size, lengths=list(lengths), generator=generator)

    def skip(self, epochs: int) -> None:
        """Go on as if so many epochs had been drawn: all draw from one generator."""
        for _ in range(epochs):
            iter(self._sampler)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self._rows / self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self._sampler)
        yield from (order[i : i + self.size] for i in range(0, len(order), self.size))


def microbatches(
    rows: list[int],
    examples: Sequence[Example],
    counts: Sequence[float],
    collate: Callable[[list[Example]], dict[str, Any]],
    size: int,
) -> list[dict[str, Any]]:
    """This process's part of a batch, ready for as many forward passes as every other process makes.

    A loss that sums over a microbatch, divided by its ``TOTAL`` and added up over microbatches, is the mean over the
    whole batch once gradients have been averaged over processes, as wrappers for several processes do.

    Args:
        rows: numbers of all rows of the batch; the same in all processes.
        examples: all there are.
        counts: what each example adds to the divisor of the mean.
        collate: makes a microbatch of examples.
        size: most examples in a microbatch; 0: no limit.

    Returns:
        At least one; where a process has fewer rows than others, the last count nothing.
    """
    share = -(-len(rows) // world())
    size = min(size or share, share)
    # Divided by the processes, because their gradients are averaged; nothing that counts: a loss of 0, not 0 / 0.
    total = sum(counts[i] for i in rows) / world() or 1.0
    mine = local_part(rows)
    groups = [(mine[i : i + size], total) for i in range(0, len(mine), size)]
    groups += [(rows[:1], math.inf)] * (-(-share // size) - len(groups))
    return [{**collate([examples[i] for i in group]), TOTAL: divisor} for group, divisor in groups]
