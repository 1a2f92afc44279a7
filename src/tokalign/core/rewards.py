"""Losses and metrics of reward models. Pure: tensors and numbers in, numbers out.

Labels are -1 bad, 0 neutral, +1 good; class index = label + 1. Masks: **True = counts**.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def token_loss(logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Class-weighted cross-entropy over response tokens: ``-Σ w[z]·log p(z) / Σ w[z]``.

    Args:
        logits: (B, T, 3), bad / neutral / good.
        labels: (B, T) long, -1 / 0 / +1.
        mask: (B, T) bool, True at response tokens of original and edited.
        weights: (3,) class weights.
    """
    return torch.nn.functional.cross_entropy(logits[mask].float(), labels[mask] + 1, weight=weights)


def per_span(rewards: Tensor, mask: Tensor, least: float = 0.1) -> Tensor:
    """Share a reward among the tokens of its span, so that a fix weighs the same whatever its length.

    A span is a run of tokens whose rewards have one sign and at least the size ``least``; each is divided by
    the number of tokens in its run. Smaller rewards stay as they are.

    Args:
        rewards: (B, T).
        mask: (B, T) bool, True at response tokens.
        least: size from which a reward makes a span.
    """
    sign = torch.where(mask & (rewards.abs() >= least), rewards.sign(), 0.0)
    starts = torch.ones_like(mask)
    starts[:, 1:] = sign[:, 1:] != sign[:, :-1]
    run = starts.long().cumsum(1)  # from 1 in each row
    sizes = torch.zeros(len(rewards), rewards.shape[1] + 1, device=rewards.device)
    sizes.scatter_add_(1, run, torch.ones_like(rewards))
    return torch.where(sign != 0, rewards / sizes.gather(1, run), rewards)


def pair_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Bradley-Terry: mean of ``-log σ(better - worse)``. Scores (B,)."""
    return -torch.nn.functional.logsigmoid(better - worse).mean()


def pair_accuracy(better: Sequence[float], worse: Sequence[float]) -> float | None:
    """Share of pairs whose better side scores higher; ties are half. None without pairs."""
    if not better:
        return None
    wins = sum(1.0 if b > w else 0.5 if b == w else 0.0 for b, w in zip(better, worse, strict=True))
    return wins / len(better)


def class_report(predicted: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of bad, neutral and good. Both (N,), -1 / 0 / +1.

    A precision or recall with nothing to divide by is 0.
    """
    report = {}
    for name, z in (("bad", -1), ("neutral", 0), ("good", 1)):
        hit = int(((predicted == z) & (labels == z)).sum())
        said, true = int((predicted == z).sum()), int((labels == z).sum())
        precision, recall = hit / said if said else 0.0, hit / true if true else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
        report[name] = {"precision": precision, "recall": recall, "f1": f1, "support": true}
    return report
