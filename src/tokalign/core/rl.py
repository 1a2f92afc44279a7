"""PPO arithmetic with a reward at every token: pure tensor functions.

Shapes: B responses, T response tokens. ``response_mask`` (B, T) bool, **True = counts**: the sampled tokens, EOS
included. Padding is on the right and False.

Column t of every (B, T) tensor belongs to response token t: its log-probability, the value of the state *before* it,
the reward for emitting it. The shift of logits (position p predicts token p + 1) is done once, in
``models/policy.py``, never here.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class LossStats(NamedTuple):
    """A scalar loss to minimise, and the fraction of tokens (0 to 1) whose loss is the clipped term."""

    loss: Tensor
    clip_fraction: Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` over the True cells of ``mask``; 0 if there are none. (B, T) → ()."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


def masked_std(x: Tensor, mask: Tensor) -> Tensor:
    """Population standard deviation of ``x`` over the True cells of ``mask``. (B, T) → ()."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask).sqrt()


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Whiten ``x`` to mean 0 and standard deviation 1 over the True cells of ``mask``; 0 elsewhere. (B, T) → (B, T)."""
    white = (x - masked_mean(x, mask)) / (masked_std(x, mask) + eps)
    return torch.where(mask, white, 0.0)


def last_token(response_mask: Tensor) -> Tensor:
    """(B, T) bool: True at the last counted token of each row (EOS if the response is finished)."""
    after = torch.zeros_like(response_mask)
    after[:, :-1] = response_mask[:, 1:]
    return response_mask & ~after


def score_at_last_token(scores: Tensor, response_mask: Tensor) -> Tensor:
    """Sequence-level rewards (B, T): ``scores`` (B,) at the last counted token of each row, 0 elsewhere."""
    return torch.where(last_token(response_mask), scores[:, None], 0.0)


def segment_ends(segments: Tensor, response_mask: Tensor) -> Tensor:
    """(B, T) bool: True at the last counted token of each segment.

    Args:
        segments: (B, T) long, index of the segment of each token; non-decreasing along a row.
        response_mask: (B, T) bool, True = counts.
    """
    ends = last_token(response_mask)
    ends[:, :-1] |= response_mask[:, 1:] & (segments[:, 1:] != segments[:, :-1])
    return ends


def place_rewards(raw: Tensor, payout_mask: Tensor) -> Tensor:
    """Sum rewards up to the next payout position. Only this differs between token, segment and sequence granularity.

    Args:
        raw: (B, T) reward of each token, 0 at padding.
        payout_mask: (B, T) bool, True at payout positions: every counted token, the last token of each segment, or the
            last token of the response. Rewards after the last payout position of a row are dropped.

    Returns:
        (B, T): at each payout position, the sum of ``raw`` since the previous one; 0 elsewhere.
    """
    payout = payout_mask.long().cumsum(1) - payout_mask.long()  # index of the payout that includes this token
    sums = torch.zeros(len(raw), raw.shape[1] + 1, device=raw.device, dtype=raw.dtype).scatter_add_(1, payout, raw)
    return torch.where(payout_mask, sums.gather(1, payout), 0.0)


class Scaling(NamedTuple):
    """Scaling of placed rewards, ``(reward - centre) / sigma``. Measured on the first rollout and fixed."""

    centre: float
    sigma: float
    by_length: bool = False
    """Whether a response is paid the mean of its rewards instead of their sum; see :func:`mean_rewards`."""


def mean_rewards(rewards: Tensor, response_mask: Tensor) -> Tensor:
    """Rewards whose total is the mean reward of a token, each token paid by its change of the mean.

    With m_t the mean of the rewards up to token t and m before the first token 0, token t is paid m_t - m_(t-1). So a
    token is credited with all that it changes, also by making the response longer. Dividing the rewards by the final
    length would credit a token only with its own share.

    Args:
        rewards: (B, T), 0 at padding.
        response_mask: (B, T) bool, True = counts.

    Returns:
        (B, T): 0 at padding. Up to any token, the payments sum to the mean of the rewards up to it.
    """
    means = rewards.cumsum(1) / response_mask.cumsum(1).clamp(min=1)
    changes = torch.diff(means, dim=1, prepend=torch.zeros_like(means[:, :1]))
    return torch.where(response_mask, changes, 0.0)


def fit_scaling(
    placed_rewards: Tensor,
    payout_mask: Tensor,
    response_mask: Tensor,
    *,
    centre: bool,
    scale: bool,
    by_length: bool = False,
) -> Scaling:
    """Measure the scaling on the placed rewards of one rollout.

    ``sigma`` is the standard deviation of a response's total reward, so the scale does not depend on the granularity.
    ``centre`` is the mean reward per payout position; without it, a longer response would get a higher (or lower)
    total for its length alone.

    Args:
        placed_rewards: (B, T), see :func:`place_rewards`.
        payout_mask: (B, T) bool, True at payout positions.
        response_mask: (B, T) bool, True = counts.
        centre: False sets ``centre`` to 0.
        scale: False sets ``sigma`` to 1, as does a measured value of at most 1e-6.
        by_length: see :class:`Scaling`.
    """
    totals = placed_rewards.sum(1) / (response_mask.sum(1).clamp(min=1) if by_length else 1)
    sigma = float(totals.std(correction=0)) if scale else 1.0
    mean = float(masked_mean(placed_rewards, payout_mask)) if centre else 0.0
    return Scaling(mean, sigma if sigma > 1e-6 else 1.0, by_length)


def scale_rewards(placed_rewards: Tensor, payout_mask: Tensor, response_mask: Tensor, scaling: Scaling) -> Tensor:
    """Centre and scale placed rewards (B, T); 0 at padding. Arguments as for :func:`fit_scaling`.

    Without ``scaling.by_length``, rewards are 0 wherever nothing is paid.
    """
    rewards = torch.where(payout_mask, placed_rewards - scaling.centre, 0.0)
    return (mean_rewards(rewards, response_mask) if scaling.by_length else rewards) / scaling.sigma


def guard_length(rewards: Tensor, longest: float) -> Tensor:
    """Set positive rewards (B, T) from column ``longest`` on to 0, so that growing longer gains nothing."""
    beyond = torch.arange(rewards.shape[1], device=rewards.device) >= longest
    return torch.where(beyond, rewards.clamp(max=0), rewards)


def kl_terms(logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor, estimator: str = "k1") -> Tensor:
    """Per-token terms (B, T) of the estimate of KL(policy ‖ reference), in nats; 0 at padding.

    ``k1`` is ``logprobs - ref_logprobs``, ``k3`` is ``exp(-k1) - 1 + k1`` (Schulman, 2020, "Approximating KL
    Divergence"). Both have the same expectation under the policy. k3 is never negative and has a lower variance near
    the reference.

    Args:
        logprobs: (B, T) log-probabilities under the policy.
        ref_logprobs: (B, T) log-probabilities under the reference.
        response_mask: (B, T) bool, True = counts.
        estimator: ``k1`` or ``k3``.
    """
    k1 = torch.where(response_mask, logprobs - ref_logprobs, 0.0)
    return k1 if estimator == "k1" else (-k1).exp() - 1 + k1


class KlControl(NamedTuple):
    """KL coefficient that is adapted so that the KL reaches a target.

    Ziegler et al. (2019, section 2.2) change the coefficient by at most 2 % per rollout, in proportion to the relative
    error of the KL. Runs of tens of rollouts end before that has an effect. Here the coefficient changes by at most
    20 %, in proportion to the relative error of the KL expected five rollouts ahead. The KL reacts to the coefficient
    with a delay, so that the present error alone would make it overshoot the target.
    """

    kl_coef: float
    """Coefficient β of the next rollout."""
    mean_kl: float = 0.0
    """Moving average of the KL, in nats per response: weight 1/2 for the last rollout, 1/4 for the one before, ..."""

    def after(self, kl: float, target: float) -> "KlControl":
        """Coefficient and average after a rollout.

        Args:
            kl: mean KL of the rollout, in nats per response.
            target: desired KL, in the same unit.
        """
        mean_kl = (self.mean_kl + kl) / 2
        expected = mean_kl + _AHEAD * (mean_kl - self.mean_kl)
        error = min(max(expected / target - 1, -_MOST), _MOST)
        return KlControl(self.kl_coef * (1 + error), mean_kl)


_AHEAD = 5
"""Rollouts ahead for which the KL is predicted."""
_MOST = 0.2
"""Largest relative change of the coefficient in a rollout."""


def compute_rewards(token_rewards: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """Subtract the KL penalty: ``token_rewards - kl_coef · kl`` at counted tokens, 0 at padding. All (B, T)."""
    return torch.where(response_mask, token_rewards - kl_coef * kl, 0.0)


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16), backwards over T.

    Args:
        rewards: (B, T), reward for emitting token t.
        values: (B, T), value of the state before token t. The value after the last counted token is taken as 0.
        response_mask: (B, T) bool, True = counts.
        gamma: discount factor.
        gae_lambda: 0 uses the values alone (low variance), 1 the rewards alone (no bias).

    Returns:
        ``advantages`` and ``returns = advantages + values``, both (B, T), 0 at padding.
    """
    values = torch.where(response_mask, values, 0.0)
    rewards = torch.where(response_mask, rewards, 0.0)
    advantages = torch.zeros_like(rewards)
    advantage = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(advantage)
    for t in reversed(range(rewards.shape[1])):  # T steps on (B,) vectors, not a loop over B·T
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(response_mask[:, t], delta + gamma * gae_lambda * advantage, 0.0)
        advantages[:, t] = advantage
        next_value = values[:, t]
    return advantages, torch.where(response_mask, advantages + values, 0.0)


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Weights of tokens that another distribution sampled: ``min(π / π_sampler, cap)``; all shapes are the same."""
    return (logprobs - sampler_logprobs).exp().clamp(max=cap)


def truncation(logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Factor that truncates ``π / π_sampler`` at ``cap``: ``min(1, cap / ratio)``; all shapes are the same."""
    return (cap * (sampler_logprobs - logprobs).exp()).clamp(max=1)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float,
    weights: Tensor | float = 1.0,
) -> LossStats:
    """Clipped surrogate loss (Schulman et al., 2017, eq. 7), mean over counted tokens.

    Args:
        logprobs: (B, T) log-probabilities under the policy being updated; gradients flow through them.
        old_logprobs: (B, T) log-probabilities at sampling time.
        advantages: (B, T).
        response_mask: (B, T) bool, True = counts.
        clip_range: ε; the probability ratio is clipped to [1 - ε, 1 + ε].
        weights: (B, T) weights of the tokens, without gradients.
    """
    ratio = torch.where(response_mask, logprobs - old_logprobs, 0.0).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return LossStats(
        masked_mean(weights * torch.maximum(plain, clipped), response_mask),
        masked_mean((clipped > plain).float(), response_mask),
    )


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor, clip_range: float
) -> LossStats:
    """Clipped value loss, mean over counted tokens: ``½ · max((v - R)², (v_clipped - R)²)``.

    Args:
        values: (B, T) values v of the model being updated; gradients flow through them.
        old_values: (B, T) values at sampling time.
        returns: (B, T) targets R.
        response_mask: (B, T) bool, True = counts.
        clip_range: largest distance of ``v_clipped`` from ``old_values``; 0 disables clipping.
    """
    error = (values - returns) ** 2
    if not clip_range:
        return LossStats(0.5 * masked_mean(error, response_mask), torch.zeros(()))
    clipped_values = values.clamp(old_values - clip_range, old_values + clip_range)  # exactly `values` inside the range
    clipped_error = (clipped_values - returns) ** 2
    return LossStats(
        0.5 * masked_mean(torch.maximum(error, clipped_error), response_mask),
        masked_mean((clipped_error > error).float(), response_mask),
    )


def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor) -> Tensor:
    """``1 - Var(returns - values) / Var(returns)`` over counted tokens; 0 if the returns are constant. (B, T) → ()."""
    total = masked_std(returns, response_mask) ** 2
    residual = masked_std(returns - values, response_mask) ** 2
    return torch.where(total > 0, 1 - residual / total.clamp(min=1e-12), torch.zeros(()))
