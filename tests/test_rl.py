"""The arithmetic of PPO against hand numbers, slow loops and torch.distributions."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical

from tokalign.core.rl import (
    KlControl,
    Scaling,
    compute_rewards,
    explained_variance,
    fit_scaling,
    gae,
    guard_length,
    kl_terms,
    last_token,
    masked_mean,
    masked_std,
    mean_rewards,
    place_rewards,
    policy_loss,
    scale_rewards,
    score_at_last_token,
    segment_ends,
    value_loss,
    whiten,
)

MASK = torch.tensor([[True, True, True], [True, False, False]])
JUNK = 1e12


class Case(NamedTuple):
    mask: Tensor
    draw: Any

    def junk(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, JUNK)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lengths = torch.tensor(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    width = int(lengths.max()) + draw(st.integers(0, 2))
    mask = torch.arange(width) < lengths[:, None]
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    return Case(mask, lambda: torch.randn(mask.shape, generator=g, dtype=torch.float64))


def counted(mask: Tensor) -> list[tuple[int, int]]:
    return [(b, t) for b, t in mask.nonzero().tolist()]


def same(a: Tensor, b: object) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype))


def test_masked_statistics_of_hand_numbers() -> None:
    x = torch.tensor([[2.0, 4.0, 6.0], [8.0, JUNK, JUNK]])
    assert float(masked_mean(x, MASK)) == 5.0
    assert float(masked_std(x, MASK)) == pytest.approx(math.sqrt(5))


def test_statistics_of_an_empty_mask_are_zero() -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert float(masked_mean(torch.full((2, 3), JUNK), none)) == 0.0
    assert float(masked_std(torch.full((2, 3), JUNK), none)) == 0.0


@given(cases())
def test_whitened_cells_agree_with_numpy_and_padding_changes_nothing(case: Case) -> None:
    x = case.draw()
    cells = x.numpy()[case.mask.numpy()]
    got = whiten(case.junk(x), case.mask)
    expected = np.zeros(x.shape)
    if cells.size > 1:
        expected[case.mask.numpy()] = (cells - np.mean(cells)) / np.std(cells)
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_whitening_of_hand_numbers() -> None:
    got = whiten(torch.tensor([[1.0, 2.0, 3.0], [2.0, JUNK, -JUNK]]), MASK)
    same(got, [[-1.4142136, 0.0, 1.4142136], [0.0, 0.0, 0.0]])


@given(cases())
def test_a_score_lands_on_the_last_counted_token(case: Case) -> None:
    scores = case.draw()[:, 0]
    expected = torch.zeros(case.mask.shape, dtype=torch.float64)
    for b, length in enumerate(case.mask.sum(1).tolist()):
        expected[b, length - 1] = scores[b]
    assert torch.equal(score_at_last_token(scores, case.mask), expected)
    assert last_token(case.mask).sum(1).tolist() == [1] * len(scores)


def test_a_score_lands_on_eos_and_never_on_padding() -> None:
    got = score_at_last_token(torch.tensor([5.0, -7.0]), MASK)
    assert got.tolist() == [[0.0, 0.0, 5.0], [-7.0, 0.0, 0.0]]


def test_rewards_of_hand_numbers_pay_for_leaving_the_reference() -> None:
    token_rewards = torch.tensor([[1.0, 0.0, -1.0], [0.5, JUNK, JUNK]])
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, JUNK, math.nan]])
    ref_logprobs = torch.tensor([[-2.0, -1.5, -3.0], [-4.5, -JUNK, math.nan]])
    got = compute_rewards(token_rewards, kl_terms(logprobs, ref_logprobs, MASK), MASK, kl_coef=0.2)
    same(got, [[0.8, 0.1, -1.0], [-0.3, 0.0, 0.0]])


def test_advantages_of_hand_numbers() -> None:
    # δ = (1 + .5·1 − .5, 0 + .5·(−1) − 1, 2 + 1) = (1, −1.5, 3); A = δ + .25·A'.
    rewards = torch.tensor([[1.0, 0.0, 2.0], [3.0, JUNK, JUNK]])
    values = torch.tensor([[0.5, 1.0, -1.0], [2.0, JUNK, JUNK]])
    advantages, returns = gae(rewards, values, MASK, gamma=0.5, gae_lambda=0.5)
    assert advantages.tolist() == [[0.8125, -0.75, 3.0], [1.0, 0.0, 0.0]]
    assert returns.tolist() == [[1.3125, 0.25, 2.0], [3.0, 0.0, 0.0]]


@given(cases(), st.floats(0, 1))
def test_lambda_1_gives_discounted_returns_minus_values(case: Case, gamma: float) -> None:
    rewards, values = case.draw(), case.draw()
    advantages, returns = gae(case.junk(rewards), case.junk(values), case.mask, gamma, 1.0)
    expected = torch.zeros_like(rewards)
    for b, t in counted(case.mask):
        end = int(case.mask[b].sum())
        expected[b, t] = sum(gamma ** (k - t) * float(rewards[b, k]) for k in range(t, end))
    same(returns, expected)
    same(advantages, torch.where(case.mask, expected - values, 0.0))


@given(cases(), st.floats(0, 1))
def test_lambda_0_gives_the_one_step_error(case: Case, gamma: float) -> None:
    rewards, values = case.draw(), case.draw()
    advantages, _ = gae(case.junk(rewards), case.junk(values), case.mask, gamma, 0.0)
    expected = torch.zeros_like(rewards)
    for b, t in counted(case.mask):
        last = t + 1 == int(case.mask[b].sum())
        expected[b, t] = rewards[b, t] - values[b, t] + (0.0 if last else gamma * values[b, t + 1])
    same(advantages, expected)


@given(cases(), st.floats(0, 1), st.floats(0, 0.95))
def test_advantages_average_the_n_step_errors_with_weights_of_lambda(case: Case, gamma: float, lam: float) -> None:
    rewards, values = case.draw(), case.draw()
    advantages, _ = gae(case.junk(rewards), case.junk(values), case.mask, gamma, lam)
    expected = torch.zeros_like(rewards)
    for b, t in counted(case.mask):
        r, v = rewards[b, case.mask[b]].tolist(), values[b, case.mask[b]].tolist()
        steps = len(r) - t
        for n in range(1, steps + 1):
            target = sum(gamma**k * r[t + k] for k in range(n)) + (gamma**n * v[t + n] if n < steps else 0.0)
            weight = (1 - lam) * lam ** (n - 1) if n < steps else lam ** (n - 1)
            expected[b, t] += weight * (target - v[t])
    same(advantages, expected)


@pytest.mark.parametrize("p", range(5))
def test_a_reward_reaches_its_action_and_earlier_ones_undiminished_and_never_later_ones(p: int) -> None:
    mask = torch.tensor([[True] * 5 + [False] * 2])
    rewards = torch.zeros(1, 7)
    rewards[0, p] = 3.0
    advantages, returns = gae(rewards, torch.zeros(1, 7), mask, gamma=1.0, gae_lambda=1.0)
    assert advantages.tolist() == returns.tolist() == [[3.0] * (p + 1) + [0.0] * (6 - p)]


@given(cases(), st.sampled_from([0.1, 0.2, 0.5]))
def test_policy_loss_is_the_mean_of_the_worse_of_two_surrogates(case: Case, clip: float) -> None:
    new, old, advantages = case.draw(), case.draw(), case.draw()
    got = policy_loss(case.junk(new), case.junk(old), case.junk(advantages), case.mask, clip)
    losses, clips = [], []
    for b, t in counted(case.mask):
        ratio, a = math.exp(float(new[b, t]) - float(old[b, t])), float(advantages[b, t])
        decided = (a > 0 and ratio > 1 + clip) or (a < 0 and ratio < 1 - clip)
        losses.append(-a * (1 + math.copysign(clip, a)) if decided else -a * ratio)
        clips.append(decided)
    assert float(got.loss) == pytest.approx(sum(losses) / len(losses), rel=1e-9, abs=1e-12)
    assert float(got.clip_fraction) == pytest.approx(sum(clips) / len(clips), rel=1e-6)


def test_policy_loss_and_gradient_of_hand_numbers() -> None:
    # Ratios 2, ½, 2, ½ with advantages 1, 1, -1, -1 at clip .2: the first and the last are clipped.
    logprobs = torch.tensor([[2.0, 0.5, 2.0, 0.5, 2.0]]).log().requires_grad_()
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, JUNK]])
    mask = torch.tensor([[True] * 4 + [False]])
    loss, clip_fraction = policy_loss(logprobs, torch.zeros(1, 5), advantages, mask, 0.2)
    loss.backward()
    assert float(loss) == pytest.approx((-1.2 - 0.5 + 2.0 + 0.8) / 4)
    assert float(clip_fraction) == 0.5
    assert logprobs.grad is not None
    same(logprobs.grad, [[0.0, -0.125, 0.5, 0.0, 0.0]])


def test_policy_loss_with_endless_range_never_clips() -> None:
    ratio = torch.tensor([[9.0, 0.01, 3.0], [0.5, JUNK, JUNK]])
    advantages = torch.tensor([[1.0, -2.0, -1.0], [4.0, JUNK, JUNK]])
    loss, clip_fraction = policy_loss(ratio.log(), torch.zeros(2, 3), advantages, MASK, math.inf)
    assert float(loss) == pytest.approx((-9.0 + 0.02 + 3.0 - 2.0) / 4)
    assert float(clip_fraction) == 0.0


@settings(max_examples=30)
@given(cases())
def test_gradient_of_a_fresh_policy_is_that_of_reinforce(case: Case) -> None:
    logits = torch.stack([case.draw() for _ in range(5)], -1).requires_grad_()
    policy = Categorical(logits=logits)
    actions = case.draw().abs().mul(1.5).long().clamp(max=4)
    logprobs, advantages = policy.log_prob(actions), case.draw()
    loss, clip_fraction = policy_loss(logprobs, logprobs.detach(), advantages, case.mask, 0.2)
    loss.backward()
    expected = torch.zeros_like(logits)
    for b, t in counted(case.mask):
        expected[b, t] = policy.probs[b, t].detach() * advantages[b, t]
        expected[b, t, actions[b, t]] -= advantages[b, t]
    assert logits.grad is not None
    same(logits.grad, expected.detach() / int(case.mask.sum()))
    assert float(clip_fraction) == 0.0


@given(cases(), st.sampled_from([0.0, 0.1, 0.5]))
def test_value_loss_is_half_the_mean_of_the_worse_of_two_squared_errors(case: Case, clip: float) -> None:
    values, old, returns = case.draw(), case.draw(), case.draw()
    got = value_loss(case.junk(values), case.junk(old), case.junk(returns) * 3, case.mask, clip)
    losses, clips = [], []
    for b, t in counted(case.mask):
        v, o, r = float(values[b, t]), float(old[b, t]), 3 * float(returns[b, t])
        near = v if not clip else o + clip if v > o + clip else o - clip if v < o - clip else v
        decided = abs(near - r) > abs(v - r)
        losses.append((near - r if decided else v - r) ** 2 / 2)
        clips.append(decided)
    assert float(got.loss) == pytest.approx(sum(losses) / len(losses), rel=1e-9)
    assert float(got.clip_fraction) == pytest.approx(sum(clips) / len(clips), rel=1e-6)


def test_value_loss_and_gradient_of_hand_numbers() -> None:
    # Moves of 1, 1 and .25 at clip .5: the first overshoots towards its return and is clipped.
    values = torch.tensor([[1.0, 1.0, 0.25, JUNK]], requires_grad=True)
    returns = torch.tensor([[2.0, -1.0, 1.25, -JUNK]])
    mask = torch.tensor([[True, True, True, False]])
    loss, clip_fraction = value_loss(values, torch.zeros(1, 4), returns, mask, 0.5)
    loss.backward()
    assert float(loss) == pytest.approx((2.25 + 4.0 + 1.0) / 6)
    assert float(clip_fraction) == pytest.approx(1 / 3)
    assert values.grad is not None
    same(values.grad, [[0.0, 2 / 3, -1 / 3, 0.0]])


def test_rewards_land_where_they_are_paid() -> None:
    raw = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    same(place_rewards(raw, mask), raw)
    same(place_rewards(raw, last_token(mask)), [[0, 0, 0, 15.0], [0, 48.0, 0, 0]])
    segments = torch.tensor([[1, 1, 2, 2], [1, 2, 0, 0]])
    ends = segment_ends(segments, mask)
    assert ends.tolist() == [[False, True, False, True], [True, True, False, False]]
    same(place_rewards(raw, ends), [[0, 3.0, 0, 12.0], [16.0, 32.0, 0, 0]])


@given(cases(), st.integers(1, 4))
def test_nothing_is_lost_or_made_by_waiting_for_the_end_of_a_segment(case: Case, size: int) -> None:
    raw = torch.where(case.mask, case.draw(), 0.0)
    segments = torch.arange(raw.shape[1]).div(size, rounding_mode="floor").expand(raw.shape)
    ends = segment_ends(segments, case.mask)
    placed_rewards = place_rewards(raw, ends)
    for b, length in enumerate(case.mask.sum(1).tolist()):
        for start in range(0, length, size):
            stop = min(start + size, length)
            assert placed_rewards[b, stop - 1].item() == pytest.approx(raw[b, start:stop].sum().item(), abs=1e-9)
            assert not placed_rewards[b, start : stop - 1].any()
        assert not placed_rewards[b, length:].any()


def test_centre_is_the_mean_payment_and_sigma_the_deviation_of_totals() -> None:
    # Totals 18, 4 and 14: mean 12, variance (36 + 64 + 4) / 3. Five payments of 36 in all.
    placed_rewards = torch.tensor([[10.0, 8.0], [4.0, 0.0], [9.0, 5.0]])
    paid = torch.tensor([[True, True], [True, False], [True, True]])
    got = fit_scaling(placed_rewards, paid, paid, centre=True, scale=True)
    assert got.centre == pytest.approx(7.2)
    assert got.sigma == pytest.approx(math.sqrt(104 / 3))


def test_the_mean_reward_is_paid_as_its_changes() -> None:
    # Means 9, 4 and 7: mean 20 / 3, variance (49 + 64 + 1) / 27. Centred by 7.2, the mean of five payments, the rewards
    # are 2.8, 0.8 | -3.2 | 1.8, -2.2. Means up to each token: 2.8, 1.8 | -3.2 | 1.8, -0.2.
    placed_rewards = torch.tensor([[10.0, 8.0], [4.0, 0.0], [9.0, 5.0]])
    paid = torch.tensor([[True, True], [True, False], [True, True]])
    got = fit_scaling(placed_rewards, paid, paid, centre=True, scale=True, by_length=True)
    assert got.centre == pytest.approx(7.2)
    assert got.sigma == pytest.approx(math.sqrt(114 / 27))
    scaled = scale_rewards(placed_rewards, paid, paid, got)
    assert (scaled * got.sigma).tolist() == [
        pytest.approx([2.8, -1.0]), pytest.approx([-3.2, 0.0]), pytest.approx([1.8, -2.0])
    ]  # fmt: skip


@given(cases())
def test_up_to_every_token_the_payments_sum_to_the_mean(case: Case) -> None:
    rewards = torch.where(case.mask, case.draw(), 0.0)
    payments = mean_rewards(rewards, case.mask)
    for b, length in enumerate(case.mask.sum(1).tolist()):
        for t in range(length):
            assert payments[b, : t + 1].sum().item() == pytest.approx(rewards[b, : t + 1].mean().item(), abs=1e-9)
        assert not payments[b, length:].any()


def test_scaling_that_is_off_changes_nothing() -> None:
    placed_rewards = torch.tensor([[3.0, 6.0, 9.0], [12.0, 0.0, 0.0]])
    assert fit_scaling(placed_rewards, MASK, MASK, centre=False, scale=False) == Scaling(0.0, 1.0)
    assert fit_scaling(placed_rewards, MASK, MASK, centre=False, scale=True) == Scaling(0.0, 3.0)


def test_totals_that_do_not_vary_are_left_unscaled() -> None:
    placed_rewards = torch.tensor([[1.0, 1.0, 2.0], [4.0, 0.0, 0.0]])
    assert fit_scaling(placed_rewards, MASK, MASK, centre=False, scale=True).sigma == 1.0
    one = fit_scaling(placed_rewards[:1], MASK[:1], MASK[:1], centre=True, scale=True)
    assert one.centre == pytest.approx(4 / 3)
    assert one.sigma == 1.0


def test_beyond_the_longest_first_responses_nothing_good_is_paid() -> None:
    rewards = torch.tensor([[1.0, -1.0, 2.0, -2.0, 3.0]])
    assert guard_length(rewards, 2.5).tolist() == [[1.0, -1.0, 2.0, -2.0, 0.0]]
    assert guard_length(rewards, 2.0).tolist() == [[1.0, -1.0, 0.0, -2.0, 0.0]]
    assert guard_length(rewards, 99.0).tolist() == rewards.tolist()


def test_kl_estimators_have_the_same_mean_under_the_policy_and_k3_is_never_negative() -> None:
    policy, reference = (Categorical(logits=torch.tensor(x).double()) for x in ([0.5, -1.0, 2.0], [1.0, 0.0, 0.5]))
    actions = torch.arange(3)[None]
    logs = policy.log_prob(actions), reference.log_prob(actions)
    mask = torch.ones(1, 3, dtype=torch.bool)
    exact = float(torch.distributions.kl_divergence(policy, reference))
    for estimator in ("k1", "k3"):
        terms = kl_terms(*logs, mask, estimator)
        assert float((policy.probs * terms).sum()) == pytest.approx(exact)
        assert (estimator == "k1") == bool((terms < 0).any())


def test_the_kl_coefficient_follows_the_kl_expected_five_rollouts_ahead() -> None:
    # From a KL of 0: average 3, expected 3 + 5 · 3 = 18, three times the target: 20 % more, the most.
    assert KlControl(0.1).after(6.0, target=6.0) == pytest.approx((0.12, 3.0))
    # Average 5, no change in sight: half the target, 20 % less, the most.
    assert KlControl(0.1, 5.0).after(5.0, target=10.0) == pytest.approx((0.08, 5.0))
    # Average 5.9, expected 5.9 - 5 · .1 = 5.4: 10 % below the target.
    assert KlControl(0.1, 6.0).after(5.8, target=6.0) == pytest.approx((0.09, 5.9))
    assert KlControl(0.1, 6.0).after(6.0, target=6.0) == (0.1, 6.0)


@given(st.floats(0.02, 0.2), st.floats(0.2, 2.0), st.floats(0.5, 8.0))
def test_the_kl_of_a_slow_policy_comes_near_its_target_without_going_far_beyond(
    speed: float, reward: float, target: float
) -> None:
    """A policy that moves by ``speed`` of the way to the KL at which penalty and reward balance, in each rollout."""
    control, kl, course = KlControl(0.2), 0.0, []
    for _ in range(150):
        control = control.after(kl, target)
        kl += speed * (reward / control.kl_coef - kl)
        course.append(kl)
    assert max(course) < 2 * max(target, speed * reward / 0.2 * 5)
    assert sum(course[-50:]) / 50 == pytest.approx(target, rel=0.15)


@given(cases())
def test_explained_variance_agrees_with_numpy(case: Case) -> None:
    values, returns = case.draw(), case.draw()
    got = float(explained_variance(case.junk(values), case.junk(returns), case.mask))
    v, r = values.numpy()[case.mask.numpy()], returns.numpy()[case.mask.numpy()]
    expected = 1 - np.var(r - v) / np.var(r) if r.size > 1 else 0.0
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 2.0, 3.0], 1.0), ([5.0, 5.0, 5.0], 0.0), ([3.0, 2.0, 1.0], -3.0), ([2.0, 3.0, 4.0], 1.0)],
)
def test_explained_variance_of_hand_numbers(values: list[float], expected: float) -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0]])
    assert float(explained_variance(torch.tensor([values]), returns, MASK[:1])) == pytest.approx(expected)


def test_returns_that_do_not_vary_explain_nothing() -> None:
    returns = torch.full((1, 3), 2.0)
    assert float(explained_variance(torch.tensor([[1.0, 5.0, 2.0]]), returns, MASK[:1])) == 0.0
