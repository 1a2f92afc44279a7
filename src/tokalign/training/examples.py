"""Training examples of reward models: pairs of responses to a prompt, the better one first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokalign.artifacts.schemas import TokenLabels
from tokalign.config.methods import RewardModelOptions
from tokalign.models.batch import Batch, pad_rows
from tokalign.models.pairs import PairBatch, row_lengths
from tokalign.models.tokenizer import Tokenizer

Ids = NDArray[np.int32]


def examples_of(
    rows: Sequence[TokenLabels], chosen: Sequence[Ids], options: RewardModelOptions
) -> list[dict[str, Any]]:
    """Make training examples from rows of token labels.

    A row gives one example at the token level, and up to two at the sequence level (``--pairs``).

    Args:
        rows: token labels.
        chosen: token ids of the chosen response of each row.
        options: level and pairs.

    Returns:
        Examples with ``id``; ``pairs``, the (prompt ids, response ids) of the better and the worse response; and at
        the token level ``labels``, the token labels of both.
    """
    examples: list[dict[str, Any]] = []
    for r, c in zip(rows, chosen, strict=True):
        prompt, original, edited = (
            np.array(ids, dtype=np.int32) for ids in (r.prompt_ids, r.original_ids, r.edited_ids)
        )
        worse, better = (prompt, original), (prompt, edited)
        if options.level == "token":
            labels = [np.array(z, dtype=np.int8) for z in (r.edited_labels, r.original_labels)]
            examples.append({"id": r.id, "pairs": [better, worse], "labels": labels})
            continue
        if options.pairs in ("chosen", "both") and r.chosen:
            examples.append({"id": r.id, "pairs": [(prompt, c), worse]})
        if options.pairs in ("edited", "both") and r.edited != r.original:
            examples.append({"id": r.id, "pairs": [better, worse]})
    return examples


def lengths(examples: Sequence[dict[str, Any]], *, shared: bool) -> list[int]:
    """Number of tokens of each example in a row of a microbatch."""
    pairs = [e["pairs"] for e in examples]
    return row_lengths(pairs) if shared else [max(len(p) + len(r) for p, r in pair) for pair in pairs]


def collate(batch: list[dict[str, Any]], tokenizer: Tokenizer, device: torch.device, *, shared: bool) -> dict[str, Any]:
    """Collate examples into a microbatch: all better responses, then all worse ones.

    Args:
        batch: examples.
        tokenizer: gives the id of padding.
        device: where the microbatch goes.
        shared: whether both responses of a pair are in one row, see :class:`PairBatch`.

    Returns:
        ``id`` of each example, ``batch`` of 2B rows and, at the token level, ``labels`` (2B, T) long, 0 at padding.
    """
    pairs = [e["pairs"] for e in batch]
    padded = (
        PairBatch.of_pairs(pairs, tokenizer.pad_id, device)
        if shared
        else Batch.of([pair[side] for side in (0, 1) for pair in pairs], tokenizer.pad_id, device)
    )
    microbatch = {"id": [e["id"] for e in batch], "batch": padded}
    if "labels" in batch[0]:
        rows = [torch.from_numpy(e["labels"][side]).long() for side in (0, 1) for e in batch]
        microbatch["labels"] = pad_rows(rows).to(device)
    return microbatch


def counts(examples: Sequence[dict[str, Any]], options: RewardModelOptions) -> list[float]:
    """What each example adds to the divisor of the batch loss: the class weights of its tokens, or 1 for a pair."""
    if options.level == "sequence":
        return [1.0] * len(examples)
    weights = np.array([options.weight_bad, options.weight_neutral, options.weight_good])
    return [float(sum(weights[side + 1].sum() for side in e["labels"])) for e in examples]
