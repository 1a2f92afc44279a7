"""Batches of supervised training, and the microbatches of each process."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from tokalign.models.distributed import local_part, world

Example = dict[str, Any]

TOTAL = "total"
"""Key of a microbatch: divisor of its summed loss."""


class Batches:
    """Row indices of each optimiser step: rows of similar length together, in a new order each epoch.

    Iterating gives one epoch: each row once, in batches of exactly ``size`` (the last may be smaller). All processes
    get the same batches.

    Args:
        lengths: number of tokens of each row.
        size: rows per batch, over all processes.
        seed: seed of the order.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self.size, self._rows = size, len(lengths)
        generator = torch.Generator().manual_seed(seed)
        self._sampler = LengthGroupedSampler(size, lengths=list(lengths), generator=generator)

    def skip(self, epochs: int) -> None:
        """Advance the random generator by ``epochs`` epochs."""
        for _ in range(epochs):
            iter(self._sampler)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
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
    """This process's microbatches of a batch; every process gets the same number of them.

    Divide the summed loss of each microbatch by its ``TOTAL`` and add up. After gradients are averaged over processes
    (as DDP and FSDP do), the result is the mean loss over the whole batch.

    Args:
        rows: indices of all rows of the batch; the same in all processes.
        examples: all training examples.
        counts: what each example adds to the divisor of the mean.
        collate: turns examples into a microbatch.
        size: maximum number of examples per microbatch; 0: no limit.

    Returns:
        At least one microbatch. If a process has fewer rows than others, its list ends with microbatches whose
        ``TOTAL`` is infinite, so that their loss is 0.
    """
    share = -(-len(rows) // world())
    size = min(size or share, share)
    # Divide by the number of processes because gradients are averaged. If nothing counts, the loss is 0, not 0 / 0.
    total = sum(counts[i] for i in rows) / world() or 1.0
    local_rows = local_part(rows)
    groups = [(local_rows[i : i + size], total) for i in range(0, len(local_rows), size)]
    groups += [(rows[:1], math.inf)] * (-(-share // size) - len(groups))
    return [{**collate([examples[i] for i in group]), TOTAL: divisor} for group, divisor in groups]
