"""Losses and metrics of reward models. Pure: tensors and numbers in, numbers out.

Labels are -1 bad, 0 neutral, +1 good; class index = label + 1. Masks: **True = counts**.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def targets(soft_neutral: bool = False, smoothing: float = 0.0) -> Tensor:
    """(3, 3): row z is what the model should say of a token labelled z (bad, neutral, good).

    Args:
        soft_neutral: a neutral token is as likely bad as good, as in TLCR (Yoon et al., 2024, equation 3); the
            class neutral is then never said.
        smoothing: the share that goes to all classes alike.
    """
    table = torch.eye(3)
    if soft_neutral:
        table[1] = torch.tensor([0.5, 0.0, 0.5])
    return table * (1 - smoothing) + smoothing / 3


def token_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor, goals: Tensor, total: float | None = None
) -> Tensor:
    """Class-weighted cross-entropy over response tokens: ``-Σ w[z]·Σ_c q[z, c]·log p(c) / Σ w[z]``.

    The divisor is the sum of weights over the whole batch of an optimiser step: where that is cut into microbatches,
    each is given the ``total`` of all, and their losses add up to the loss of the batch.

    Args:
        logits: (B, T, 3), bad / neutral / good.
        labels: (B, T) long, -1 / 0 / +1.
        mask: (B, T) bool, True at response tokens of original and edited.
        weights: (3,) class weights.
        goals: (3, 3), see :func:`targets`.
        total: what to divide by; None: the weights of these tokens.
    """
    z = labels[mask] + 1
    logp = logits[mask].float().log_softmax(-1)
    return -(weights[z] * (goals[z] * logp).sum(-1)).sum() / (weights[z].sum() if total is None else total)


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
    return torch.where(sign != 0, rewards / _run_sizes(starts), rewards)


def per_word(rewards: Tensor, starts: Tensor) -> Tensor:
    """Divide every reward by the number of tokens of its word, so that a word weighs the same whatever its subwords.

    Args:
        rewards: (B, T).
        starts: (B, T) bool, True at the first token of a word, and at padding.
    """
    return rewards / _run_sizes(starts)


def _run_sizes(starts: Tensor) -> Tensor:
    """(B, T): length of the run that each place is in; runs begin where ``starts`` is True."""
    run = starts.long().cumsum(1)
    sizes = torch.zeros(len(starts), starts.shape[1] + 1, device=starts.device)
    sizes.scatter_add_(1, run, torch.ones(starts.shape, device=starts.device))
    return sizes.gather(1, run)


def project(rewards: Floats, source: NDArray[Any], target: NDArray[Any], size: int) -> Floats:
    """Rewards of the tokens of one tokenizer, carried over to those of another by the characters they stand on.

    A token owns the characters from the end of the one before to its own end; of several that end on one character
    each owns an equal part; EOS owns what is after the text. A reward is spread evenly over what its token owns. The
    total stays; a token gets none from tokens it shares nothing with; between equal tokenizations nothing changes.

    Args:
        rewards: (S,) of the source's tokens.
        source: (S, 2) their offsets, ``[start, end)`` in code points; EOS, if there, is ``[size, size)``.
        target: (T, 2) offsets of the tokens to reward, at least one.
        size: code points of the text.

    Returns:
        (T,).
    """
    origin = -1.0 if 0 in source[:, 1] or 0 in target[:, 1] else 0.0  # room for tokens that stand before the text
    held = np.interp(_bounds(target, size, origin), _bounds(source, size, origin), np.cumsum([0.0, *rewards]))
    held[0], held[-1] = 0.0, rewards.sum()  # the last owns all that is left
    return np.diff(held)


def _bounds(offsets: NDArray[Any], size: int, origin: float) -> Floats:
    """(T + 1,): where what the tokens own begins and ends, rising."""
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
    """Bradley-Terry: sum of ``-log σ(better - worse)`` over ``total`` (None: the number of pairs). Scores (B,)."""
    return -torch.nn.functional.logsigmoid(better - worse).sum() / (len(better) if total is None else total)


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
