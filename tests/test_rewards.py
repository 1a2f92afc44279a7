"""Reward-model losses and metrics against loops and hand numbers."""

import math
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokalign.core.rewards import class_report, pair_accuracy, pair_loss, per_span, token_loss

WEIGHTS = torch.tensor([1.0, 0.2, 3.0])


def slow_token_loss(
    logits: list[list[list[float]]], labels: list[list[int]], mask: list[list[bool]], weights: list[float]
) -> float:
    above, below = 0.0, 0.0
    for logit_row, label_row, mask_row in zip(logits, labels, mask, strict=True):
        for scores, z, counts in zip(logit_row, label_row, mask_row, strict=True):
            if counts:
                w = weights[{-1: 0, 0: 1, 1: 2}[z]]
                p = math.exp(scores[{-1: 0, 0: 1, 1: 2}[z]]) / sum(math.exp(s) for s in scores)
                above += w * -math.log(p)
                below += w
    return above / below


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), b=st.integers(1, 4), t=st.integers(1, 6))
def test_token_loss_is_the_weighted_mean_of_negative_log_probabilities(seed: int, b: int, t: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, t, 3, generator=g)
    labels = torch.randint(-1, 2, (b, t), generator=g)
    mask = torch.rand(b, t, generator=g) < 0.6
    mask[0, 0] = True
    expected = slow_token_loss(logits.tolist(), labels.tolist(), mask.tolist(), WEIGHTS.tolist())
    assert float(token_loss(logits, labels, mask, WEIGHTS)) == pytest.approx(expected, rel=1e-5)


def test_token_loss_of_hand_numbers() -> None:
    # p(bad) = 1/2 with weight 1 and p(good) = 1/8 with weight 3: (ln 2 + 3 ln 8) / 4 = 2.5 ln 2.
    logits = torch.tensor([[[0.5, 0.25, 0.25], [0.75, 0.125, 0.125]]]).log()
    loss = token_loss(logits, torch.tensor([[-1, 1]]), torch.tensor([[True, True]]), WEIGHTS)
    assert float(loss) == pytest.approx(1.7328679, rel=1e-6)


def test_token_loss_ignores_what_the_mask_leaves_out() -> None:
    logits, labels = torch.zeros(2, 3, 3), torch.zeros(2, 3, dtype=torch.long)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    logits[~mask], labels[~mask] = 1e30, -100
    logits.requires_grad_()
    loss = token_loss(logits, labels, mask, WEIGHTS)
    loss.backward()
    assert loss.item() == pytest.approx(1.0986123, rel=1e-6)
    assert logits.grad is not None
    assert not logits.grad[~mask].any()
    assert logits.grad[mask].all()


def test_token_loss_of_a_class_without_weight_does_not_count() -> None:
    logits = torch.tensor([[[5.0, 0.0, -2.0], [0.0, 0.0, 0.0]]])
    loss = token_loss(logits, torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([1.0, 0.0, 1.0]))
    assert loss.item() == pytest.approx(1.0986123, rel=1e-6)


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        ([0.0], [0.0], 0.6931472),
        ([1.0986123], [0.0], 0.2876821),
        ([0.0], [1.0986123], 1.3862944),
        ([2.0, 7.0986123], [2.0, 6.0], 0.4904146),
        ([500.0], [-500.0], 0.0),
        ([-500.0], [500.0], 1000.0),
    ],
)
def test_pair_loss_of_hand_numbers(better: list[float], worse: list[float], expected: float) -> None:
    assert float(pair_loss(torch.tensor(better), torch.tensor(worse))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        ([1.0, 0.0, 2.0, 3.0], [0.0, 1.0, 2.0, 2.5], 0.625),
        ([1.0, 1.0], [1.0, 1.0], 0.5),
        ([-3.0], [-4.0], 1.0),
        ([-4.0], [-3.0], 0.0),
    ],
)
def test_pair_accuracy_counts_a_tie_as_half(better: list[float], worse: list[float], expected: float) -> None:
    assert pair_accuracy(better, worse) == expected


def test_pair_accuracy_of_no_pairs_is_none() -> None:
    assert pair_accuracy([], []) is None


def test_pair_accuracy_refuses_sides_of_different_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        pair_accuracy([1.0, 2.0], [1.0])


def test_class_report_of_hand_counted_tokens() -> None:
    labels = torch.tensor([-1, -1, -1, 0, 0, 0, 0, 1])
    predicted = torch.tensor([-1, -1, 0, 0, 0, 0, -1, 0])
    report = class_report(predicted, labels)
    assert report["bad"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3})
    assert report["neutral"] == pytest.approx({"precision": 0.6, "recall": 0.75, "f1": 2 / 3, "support": 4})
    assert report["good"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_class_report_of_uneven_precision_and_recall() -> None:
    report = class_report(torch.tensor([1, 1, 1, 1]), torch.tensor([1, 0, 0, -1]))
    assert report["good"] == {"precision": 0.25, "recall": 1.0, "f1": 0.4, "support": 1}
    assert report["bad"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_class_report_of_no_tokens_is_all_zero() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    zero = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert class_report(empty, empty) == {"bad": zero, "neutral": zero, "good": zero}


@given(
    st.lists(
        st.lists(st.sampled_from([-0.9, -0.4, -0.05, 0.0, 0.05, 0.3, 1.0]), min_size=1, max_size=12),
        min_size=1,
        max_size=4,
    )
)
def test_a_reward_is_shared_in_its_span(rows: list[list[float]]) -> None:
    width = max(map(len, rows))
    padded = torch.tensor([row + [0.7] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    shared = per_span(padded, mask)
    for row, got in zip(rows, shared.tolist(), strict=True):
        expected: list[float] = []
        for _, run in groupby(row, key=lambda r: (r > 0) - (r < 0) if abs(r) >= 0.1 else None):
            members = list(run)
            large = abs(members[0]) >= 0.1
            expected += [r / len(members) if large else r for r in members]
        assert got[: len(row)] == pytest.approx(expected)
