"""Reward-model losses and metrics against loops and hand numbers."""

import math
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokalign.core.rewards import (
    class_report,
    pair_accuracy,
    pair_loss,
    per_span,
    per_word,
    project,
    targets,
    token_loss,
)

WEIGHTS, HARD = torch.tensor([1.0, 0.2, 3.0]), targets()


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
    assert float(token_loss(logits, labels, mask, WEIGHTS, HARD)) == pytest.approx(expected, rel=1e-5)


def test_token_loss_of_hand_numbers() -> None:
    # p(bad) = 1/2 with weight 1 and p(good) = 1/8 with weight 3: (ln 2 + 3 ln 8) / 4 = 2.5 ln 2.
    logits = torch.tensor([[[0.5, 0.25, 0.25], [0.75, 0.125, 0.125]]]).log()
    loss = token_loss(logits, torch.tensor([[-1, 1]]), torch.tensor([[True, True]]), WEIGHTS, HARD)
    assert float(loss) == pytest.approx(1.7328679, rel=1e-6)


def test_token_loss_ignores_what_the_mask_leaves_out() -> None:
    logits, labels = torch.zeros(2, 3, 3), torch.zeros(2, 3, dtype=torch.long)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    logits[~mask], labels[~mask] = 1e30, -100
    logits.requires_grad_()
    loss = token_loss(logits, labels, mask, WEIGHTS, HARD)
    loss.backward()
    assert loss.item() == pytest.approx(1.0986123, rel=1e-6)
    assert logits.grad is not None
    assert not logits.grad[~mask].any()
    assert logits.grad[mask].all()


def test_token_loss_of_a_class_without_weight_does_not_count() -> None:
    logits = torch.tensor([[[5.0, 0.0, -2.0], [0.0, 0.0, 0.0]]])
    loss = token_loss(
        logits, torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([1.0, 0.0, 1.0]), HARD
    )
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


def test_what_the_model_should_say() -> None:
    assert targets().tolist() == torch.eye(3).tolist()
    assert targets(soft_neutral=True).tolist() == [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]]
    assert targets(True, 0.3).numpy() == pytest.approx(np.array([[0.8, 0.1, 0.1], [0.45, 0.1, 0.45], [0.1, 0.1, 0.8]]))


@given(seed=st.integers(0, 10**6), smoothing=st.floats(0, 0.5))
def test_a_smoothed_loss_without_weights_is_that_of_torch(seed: int, smoothing: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(2, 5, 3, generator=g), torch.randint(-1, 2, (2, 5), generator=g)
    mask = torch.ones(2, 5, dtype=torch.bool)
    got = token_loss(logits, labels, mask, torch.ones(3), targets(smoothing=smoothing))
    expected = torch.nn.functional.cross_entropy(logits.view(-1, 3), labels.view(-1) + 1, label_smoothing=smoothing)
    assert float(got) == pytest.approx(float(expected), rel=1e-5)


@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=12))
def test_a_word_weighs_what_its_tokens_weigh_on_average(tokens: list[tuple[float, bool]]) -> None:
    rewards, starts = [r for r, _ in tokens], [i == 0 or s for i, (_, s) in enumerate(tokens)]
    got = per_word(torch.tensor([rewards]), torch.tensor([starts]))[0].tolist()
    words: list[list[float]] = []
    for reward, start in zip(rewards, starts, strict=True):
        words = [*words, [reward]] if start else [*words[:-1], [*words[-1], reward]]
    assert got == pytest.approx([reward / len(word) for word in words for reward in word])


# From one tokenizer to another.

SIZE = 12
CUTS = st.lists(st.integers(0, SIZE), max_size=8).map(sorted)
"""Where tokens end: several may end on one character, and one may be empty."""


def tokens_of(ends: list[int], eos: bool) -> np.ndarray:
    pairs = list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
    pairs = [(min(start, SIZE - 1), end) for start, end in pairs]
    return np.array([*pairs, (SIZE, SIZE)] if eos or not pairs else pairs).reshape(-1, 2)


def owned(tokens: np.ndarray, origin: float) -> list[tuple[float, float]]:
    """What each token owns, step by step."""
    text = [int(end) for start, end in tokens if start < SIZE]
    text = [SIZE if end == text[-1] else end for end in text]
    found, begin = [], origin
    for end, group in groupby(text):
        n = len(list(group))
        found += [(begin + (end - begin) * k / n, begin + (end - begin) * (k + 1) / n) for k in range(n)]
        begin = end
    return found + [(SIZE, SIZE + 1)] * (len(tokens) - len(text))


@given(CUTS, CUTS, st.booleans(), st.booleans(), st.data())
def test_a_projection_keeps_the_total_and_shares_a_reward_out_by_characters(
    one: list[int], other: list[int], eos_one: bool, eos_other: bool, data: st.DataObject
) -> None:
    source, target = tokens_of(one, eos_one), tokens_of(other, eos_other)
    rewards = np.array([data.draw(st.sampled_from([0.0, 0.0, -1.0, 0.5, 2.0])) for _ in source])
    got = project(rewards, source, target, SIZE)
    assert got.sum() == pytest.approx(rewards.sum(), abs=1e-9)
    origin = -1.0 if 0 in [*one, *other] else 0.0
    expected = np.zeros(len(target))
    for reward, (low, high) in zip(rewards, owned(source, origin), strict=True):
        shares = [max(0.0, min(high, end) - max(low, begin)) / (high - low) for begin, end in owned(target, origin)]
        expected += reward * np.array(shares)
        expected[-1] += reward * (1 - sum(shares))  # the last owns all that is left
    assert got == pytest.approx(expected, abs=1e-9)


@given(CUTS, st.booleans(), st.data())
def test_between_equal_tokenizers_nothing_changes(ends: list[int], eos: bool, data: st.DataObject) -> None:
    tokens = tokens_of(ends, eos)
    rewards = np.array([data.draw(st.floats(-2, 2)) for _ in tokens])
    assert project(rewards, tokens, tokens, SIZE) == pytest.approx(rewards, abs=1e-9)


def test_a_projection_by_hand() -> None:
    # "unkind words": un|kind| words|EOS, in the other tokenizer unkind| wor|ds|EOS.
    source, target = np.array([(0, 2), (2, 6), (6, 12), (12, 12)]), np.array([(0, 6), (6, 10), (10, 12), (12, 12)])
    assert project(np.array([1.0, 2.0, 6.0, 9.0]), source, target, 12) == pytest.approx([3, 4, 2, 9])
    assert project(np.array([3.0, 4.0, 2.0, 9.0]), target, source, 12) == pytest.approx([1, 2, 6, 9])
    # White space in no token belongs to the token after it; what never ended has no EOS.
    assert project(np.array([1.0, 6.0]), np.array([(0, 6), (7, 12)]), target, 12) == pytest.approx([1, 4, 2, 0])
    assert project(np.array([3.0, 4.0, 2.0, 9.0]), target, source[:3], 12) == pytest.approx([1, 2, 15])
    # Three bytes of one character against one token.
    bytes_ = np.array([(0, 1), (0, 1), (0, 1), (1, 1)])
    assert project(np.array([1.0, 2.0, 3.0, 4.0]), bytes_, np.array([(0, 1), (1, 1)]), 1) == pytest.approx([6, 4])
    assert project(np.array([6.0, 4.0]), np.array([(0, 1), (1, 1)]), bytes_, 1) == pytest.approx([2, 2, 2, 4])
