"""The arithmetic of PPO with a reward at every token. Pure tensor functions.

Shapes: B responses, T tokens. ``response_mask`` (B, T) bool, **True = counts**: the tokens the policy
emitted, EOS included; padding is False, stands on the right and never counts.

Column t of every (B, T) tensor speaks of response token t: the log-probability with which it was
emitted, the value of the state *before* it, the reward for having emitted it. A model whose logits at
position p predict token p+1 is shifted once, where logits are gathered (``models/policy.py``), never here.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class LossStats(NamedTuple):
    """A scalar loss to minimise and the share of tokens at which clipping decided (0 to 1)."""

    loss: Tensor
    clip_fraction: Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` where ``mask``; 0 if it is nowhere True. Shapes (B, T) → ()."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


def masked_std(x: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation (n in the denominator) of ``x`` where ``mask``. Shapes (B, T) → ()."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask).sqrt()


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """``x`` with mean 0 and standard deviation 1 over the True cells; 0 elsewhere. (B, T) → (B, T)."""
    white = (x - masked_mean(x, mask)) / (masked_std(x, mask) + eps)
    return torch.where(mask, white, 0.0)


def last_token(response_mask: Tensor) -> Tensor:
    """(B, T) bool, True at the last counted token of each row (EOS when the response is finished)."""
    after = torch.zeros_like(response_mask)
    after[:, :-1] = response_mask[:, 1:]
    return response_mask & ~after


def score_at_last_token(scores: Tensor, response_mask: Tensor) -> Tensor:
    """Classical sequence reward: ``scores`` (B,) at the last token, 0 before it. → (B, T)."""
    return torch.where(last_token(response_mask), scores[:, None], 0.0)


def segment_ends(segments: Tensor, response_mask: Tensor) -> Tensor:
    """(B, T) bool, True at the last counted token of each segment.

    Args:
        segments: (B, T) long, the number of the segment that a token is of; never falling along a row.
        response_mask: (B, T), True = counts.
    """
    ends = last_token(response_mask)
    ends[:, :-1] |= response_mask[:, 1:] & (segments[:, 1:] != segments[:, :-1])
    return ends


def place_rewards(raw: Tensor, payout_mask: Tensor) -> Tensor:
    """Rewards kept until the next token at which they are paid: this alone sets granularities apart. (B, T) → (B, T).

    Args:
        raw: (B, T) what each token earned, 0 where not counted.
        payout_mask: (B, T) bool, True where rewards land: at every counted token, at the end of each segment, or at the
            last token. What is earned after the last of them is lost.
    """
    stop = payout_mask.long().cumsum(1) - payout_mask.long()  # index of the payout that includes this token
    held = torch.zeros(len(raw), raw.shape[1] + 1, device=raw.device, dtype=raw.dtype).scatter_add_(1, stop, raw)
    return torch.where(payout_mask, held.gather(1, stop), 0.0)


class Scaling(NamedTuple):
    """How raw token rewards become comparable: ``(raw - centre) / sigma``. Fixed on the first rollout."""

    centre: float
    sigma: float


def fit_scaling(placed_rewards: Tensor, payout_mask: Tensor, *, centre: bool, scale: bool) -> Scaling:
    """Statistics of one rollout's rewards after they were placed. Both (B, T).

    ``sigma`` is the standard deviation of a response's total, so that rewards pull with the same strength wherever
    they land. ``centre`` is the mean of a payment: without it, length itself would pay (or cost).
    """
    sigma = float(placed_rewards.sum(1).std(correction=0)) if scale else 1.0
    return Scaling(float(masked_mean(placed_rewards, payout_mask)) if centre else 0.0, sigma if sigma > 1e-6 else 1.0)


def guard_length(rewards: Tensor, longest: float) -> Tensor:
    """Rewards (B, T) of which nothing good is paid beyond ``longest`` tokens: a text cannot earn by going on."""
    beyond = torch.arange(rewards.shape[1], device=rewards.device) >= longest
    return torch.where(beyond, rewards.clamp(max=0), rewards)


def kl_terms(logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor, estimator: str = "k1") -> Tensor:
    """What each token adds to the estimate of KL(policy ‖ reference); 0 where not counted. (B, T).

    ``k1``, ``logprobs - ref_logprobs``, and ``k3``, ``exp(-k1) - 1 + k1`` (Schulman, 2020, "Approximating KL
    divergence"), have the same mean under the policy; k3 is never negative, and varies less near the reference.
    """
    k1 = torch.where(response_mask, logprobs - ref_logprobs, 0.0)
    return k1 if estimator == "k1" else (-k1).exp() - 1 + k1


def adapt(kl_coef: float, kl: float, target: float) -> float:
    """The coefficient for the next rollout, given the KL of this one: Ziegler et al. (2019), section 2.2.

    It moves by at most 2 % a rollout, in proportion to how far ``kl`` is from ``target``.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + 0.1 * error)


def compute_rewards(token_rewards: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """``token_rewards - kl_coef · kl`` on counted tokens, 0 elsewhere. (B, T)."""
    return torch.where(response_mask, token_rewards - kl_coef * kl, 0.0)


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16), backwards over T.

    Args:
        rewards: (B, T) for having emitted token t.
        values: (B, T) of the state before token t. The state after the last counted token is worth 0.
        response_mask: (B, T), True = counts.
        gamma: discount.
        gae_lambda: 0 trusts values (low variance), 1 trusts rewards (no bias).

    Returns:
        ``advantages`` and ``returns = advantages + values``, both (B, T), 0 where not counted.
    """
    values = torch.where(response_mask, values, 0.0)
    rewards = torch.where(response_mask, rewards, 0.0)
    advantages = torch.zeros_like(rewards)
    carried = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(carried)
    for t in reversed(range(rewards.shape[1])):  # T steps on (B,) vectors, not a loop over B·T
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        carried = torch.where(response_mask[:, t], delta + gamma * gae_lambda * carried, 0.0)
        advantages[:, t] = carried
        next_value = values[:, t]
    return advantages, torch.where(response_mask, advantages + values, 0.0)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor, clip_range: float
) -> LossStats:
    """Clipped surrogate (Schulman et al., 2017, eq. 7), mean over counted tokens. All (B, T)."""
    ratio = torch.where(response_mask, logprobs - old_logprobs, 0.0).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return LossStats(
        masked_mean(torch.maximum(plain, clipped), response_mask),
        masked_mean((clipped > plain).float(), response_mask),
    )


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor, clip_range: float
) -> LossStats:
    """Clipped squared error, mean over counted tokens: ``½ · max((v - R)², (v_clipped - R)²)``.

    ``v_clipped`` moves at most ``clip_range`` from ``old_values``; 0 turns clipping off. All (B, T).
    """
    plain = (values - returns) ** 2
    if not clip_range:
        return LossStats(0.5 * masked_mean(plain, response_mask), torch.zeros(()))
    moved = values.clamp(old_values - clip_range, old_values + clip_range)  # exactly `values` when inside
    clipped = (moved - returns) ** 2
    return LossStats(
        0.5 * masked_mean(torch.maximum(plain, clipped), response_mask),
        masked_mean((clipped > plain).float(), response_mask),
    )


def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor) -> Tensor:
    """``1 - Var(returns - values) / Var(returns)`` over counted tokens; 0 when returns do not vary."""
    total = masked_std(returns, response_mask) ** 2
    rest = masked_std(returns - values, response_mask) ** 2
    return torch.where(total > 0, 1 - rest / total.clamp(min=1e-12), torch.zeros(()))
