"""Losses and metrics of reward models: pure functions of tensors and numbers.

Labels are -1 bad, 0 neutral, +1 good; class index = label + 1. Masks: **True = counts**. Shapes: B responses, T
tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def targets(soft_neutral: bool = False, smoothing: float = 0.0) -> Tensor:
    """(3, 3): target class probabilities by label; rows and columns are bad, neutral, good.

    Args:
        soft_neutral: the target of a neutral token is [0.5, 0, 0.5] over bad, neutral and good, as in TLCR (Yoon et
            al., 2024, eq. 3); the model then never predicts neutral.
        smoothing: share of the target (0 to 1) that is spread equally over all classes.
    """
    table = torch.eye(3)
    if soft_neutral:
        table[1] = torch.tensor([0.5, 0.0, 0.5])
    return table * (1 - smoothing) + smoothing / 3


def token_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor, goals: Tensor, total: float | None = None
) -> Tensor:
    """Class-weighted cross-entropy over response tokens: ``-Σ w[z]·Σ_c q[z, c]·log p(c) / Σ w[z]``.

    If a batch is split into microbatches, pass the sum of weights of the whole batch as ``total``; the losses of the
    microbatches then sum to the loss of the batch.

    Args:
        logits: (B, T, 3), bad / neutral / good.
        labels: (B, T) long, -1 / 0 / +1.
        mask: (B, T) bool, True at response tokens of original and edited.
        weights: (3,) class weights w.
        goals: (3, 3) target probabilities q, see :func:`targets`.
        total: divisor; None: the sum of the weights of these tokens.
    """
    z = labels[mask] + 1
    logp = logits[mask].float().log_softmax(-1)
    return -(weights[z] * (goals[z] * logp).sum(-1)).sum() / (weights[z].sum() if total is None else total)


def per_span(rewards: Tensor, mask: Tensor, least: float = 0.1) -> Tensor:
    """Share each reward among the tokens of its span, so that the total of an edit does not depend on its length.

    A span is a run of tokens whose rewards have the same sign and an absolute value of at least ``least``. Its
    rewards are divided by the number of its tokens. Smaller rewards are unchanged.

    Args:
        rewards: (B, T).
        mask: (B, T) bool, True at response tokens.
        least: smallest absolute reward that is part of a span.

    Returns:
        (B, T).
    """
    sign = torch.where(mask & (rewards.abs() >= least), rewards.sign(), 0.0)
    starts = torch.ones_like(mask)
    starts[:, 1:] = sign[:, 1:] != sign[:, :-1]
    return torch.where(sign != 0, rewards / _run_sizes(starts), rewards)


def per_word(rewards: Tensor, starts: Tensor) -> Tensor:
    """Divide each reward by the number of tokens of its word, so that its total does not depend on the subwords.

    Args:
        rewards: (B, T).
        starts: (B, T) bool, True at the first token of each word, and at padding.

    Returns:
        (B, T).
    """
    return rewards / _run_sizes(starts)


def _run_sizes(starts: Tensor) -> Tensor:
    """(B, T): length of the run that contains each position; a run begins where ``starts`` is True."""
    run = starts.long().cumsum(1)
    sizes = torch.zeros(len(starts), starts.shape[1] + 1, device=starts.device)
    sizes.scatter_add_(1, run, torch.ones(starts.shape, device=starts.device))
    return sizes.gather(1, run)


def project(rewards: Floats, source: NDArray[Any], target: NDArray[Any], size: int) -> Floats:
    """Carry token rewards over to the tokens of another tokenizer, by character offsets.

    A token covers the characters from the end of the previous token to its own end. Tokens with the same end share
    that range equally. EOS covers the position after the text. The reward of a token is spread evenly over its range,
    and a target token gets the sum over its own range. The total is unchanged, a token gets reward only from tokens it
    overlaps, and equal tokenizations give equal rewards.

    Args:
        rewards: (S,) rewards of the source tokens.
        source: (S, 2) offsets of the source tokens, ``[start, end)`` in code points. EOS, if present, is
            ``[size, size)``.
        target: (T, 2) offsets of the target tokens, T ≥ 1.
        size: length of the text in code points.

    Returns:
        (T,) rewards of the target tokens.
    """
    origin = -1.0 if 0 in source[:, 1] or 0 in target[:, 1] else 0.0  # room for tokens that end at 0
    total = np.interp(_bounds(target, size, origin), _bounds(source, size, origin), np.cumsum([0.0, *rewards]))
    total[0], total[-1] = 0.0, rewards.sum()  # the last token gets the remainder
    return np.diff(total)


def _bounds(offsets: NDArray[Any], size: int, origin: float) -> Floats:
    """(T + 1,): increasing bounds of the ranges that the tokens cover."""
    text = offsets[:, 0] < size
    ends = np.maximum.accumulate(offsets[text, 1]).astype(np.float64)
    if len(ends):
        ends[ends == ends[-1]] = size
    after = int(np.sum(~text))
    first, last = np.searchsorted(ends, ends, "left"), np.searchsorted(ends, ends, "right")
    before = np.append(origin, ends)[first]
    inside = before + (ends - before) * (np.arange(len(ends)) + 1 - first) / (last - first)
    return np.concatenate([[origin if len(ends) else size], inside, size + np.arange(1, after + 1) / max(after, 1)])


def pair_loss(better: Tensor, worse: Tensor, total: float | None = None) -> Tensor:
    """Bradley-Terry loss: sum of ``-log σ(better - worse)``, divided by ``total``.

    Args:
        better: (B,) scores of the better responses.
        worse: (B,) scores of the worse responses.
        total: divisor; None: B, the number of pairs.
    """
    return -torch.nn.functional.logsigmoid(better - worse).sum() / (len(better) if total is None else total)


def pair_accuracy(better: Sequence[float], worse: Sequence[float]) -> float | None:
    """Share of pairs (0 to 1) whose better response has the higher score. A tie counts half. None without pairs."""
    if not better:
        return None
    return sum(wins(better, worse)) / len(better)


def wins(better: Sequence[float], worse: Sequence[float]) -> list[float]:
    """Of each pair, whether the better response has the higher score: 1, 0, or 0.5 for a tie."""
    return [1.0 if b > w else 0.5 if b == w else 0.0 for b, w in zip(better, worse, strict=True)]


def class_report(predicted: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of the classes ``bad``, ``neutral`` and ``good``.

    A precision or recall with a denominator of 0 is 0.

    Args:
        predicted: (N,) predicted labels, -1 / 0 / +1.
        labels: (N,) true labels, -1 / 0 / +1.

    Returns:
        By class name, ``precision``, ``recall``, ``f1`` and ``support`` (number of tokens with that label).
    """
    report = {}
    for name, z in (("bad", -1), ("neutral", 0), ("good", 1)):
        correct = int(((predicted == z) & (labels == z)).sum())
        positive, support = int((predicted == z).sum()), int((labels == z).sum())
        precision, recall = correct / positive if positive else 0.0, correct / support if support else 0.0
        f1 = 2 * precision * recall / (precision + recall) if correct else 0.0
        report[name] = {"precision": precision, "recall": recall, "f1": f1, "support": support}
    return report
