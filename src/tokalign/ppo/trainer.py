"""The PPO training step: rollout, rewards, advantages, updates. The arithmetic is in ``core/rl.py``."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokalign.config.methods import PpoOptions
from tokalign.core import reward_hacking, rl
from tokalign.errors import TokalignError
from tokalign.models import distributed
from tokalign.models.batch import Batch, by_length
from tokalign.models.reward_functions import RewardFunction
from tokalign.models.sampler import new_seeds
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo.networks import Networks
from tokalign.ppo.rollout import Collector, PromptItem, Rollout, payout_positions

SHOWN = 4
"""Number of responses per step that are kept as samples."""


class Targets(NamedTuple):
    """Training targets of an update, (B, T) each, 0 at padding."""

    advantages: Tensor
    """Whitened."""
    returns: Tensor


class Samples(NamedTuple):
    """Some responses of the last rollout."""

    prompts: list[PromptItem]
    responses: list[list[int]]
    """Token ids."""
    rewards: list[list[float]]
    """Weighted sum of the reward functions at each token, before placing and scaling."""


@dataclass
class Learner:
    """Networks, reward functions and state of a PPO run. :meth:`step` is one training step."""

    networks: Networks
    reward_functions: Sequence[RewardFunction]
    tokenizer: Tokenizer
    options: PpoOptions
    weights: Sequence[float]
    """Weight of each reward function."""
    generator: torch.Generator
    """Random generator for sampling seeds and the order of minibatches; on the CPU, in the same state in all
    processes."""
    optimizer: torch.optim.Optimizer = field(init=False)
    scaling: list[rl.Scaling] | None = None
    """Scaling of each reward function; None before the first rollout."""
    first: dict[str, float] = field(default_factory=dict)
    """Statistics of the first rollout: mean ``length`` in tokens, ``repetition``, and ``longest``, the 95th percentile
    of the lengths. Empty before it."""
    kl_control: rl.KlControl = field(init=False)
    """KL coefficient β of the next rollout, which ``--kl-target`` adapts."""
    samples: Samples | None = None
    """Some responses of the last rollout."""

    def __post_init__(self) -> None:
        self.collector = Collector(self.networks, self.reward_functions, self.tokenizer)
        self.kl_control = rl.KlControl(self.options.kl_coef)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.networks.policy_parameters, "lr": self.options.lr},
                {"params": self.networks.value_parameters, "lr": self.options.value_lr},
            ],
            weight_decay=0.0,
            betas=(0.9, 0.95),
            fused=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes from step to step, for ``torch.save``. Collective: every process must call it."""
        return {
            "networks": self.networks.state_dict(),
            "optimizer": distributed.gathered_moments(self.networks.all(), self.optimizer),
            "generator": self.generator.get_state(),
            "scaling": None if self.scaling is None else [s._asdict() for s in self.scaling],
            "first": self.first,
            "kl_coef": self.kl_control.kl_coef,
            "mean_kl": self.kl_control.mean_kl,
            "reuse_logprobs": self.collector.mismatch.reuse,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`."""
        self.networks.load_state_dict(state["networks"])
        distributed.spread_moments(self.networks.all(), self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.scaling = state["scaling"] and [rl.Scaling(**s) for s in state["scaling"]]
        self.first, self.kl_control = state["first"], rl.KlControl(state["kl_coef"], state.get("mean_kl", 0.0))
        self.collector.mismatch.reuse = state["reuse_logprobs"]

    def step(self, prompts: Sequence[PromptItem]) -> dict[str, float]:
        """Run one training step: a rollout over ``prompts`` and its updates. ``docs/ppo.md`` has the formulas.

        Collective: every process must call it, with the same prompts.

        Args:
            prompts: the prompts of the batch.

        Returns:
            The metrics of the step, as in ``metrics.jsonl``.

        Raises:
            TokalignError: gradients are not finite, or the sampler does not match the model.
        """
        options, mismatch, clock = self.options, self.collector.mismatch, [time.perf_counter()]

        def lap() -> float:
            clock.append(time.perf_counter())
            return clock[-1] - clock[-2]

        # 1. Sample a response to every prompt. Models are in eval mode: no dropout.
        local_indices, sampled = self.collector.draw(prompts, new_seeds(len(prompts), self.generator))
        seconds = {"rollout": lap()}

        # 2. Score: log-probabilities under policy and reference, values, and rewards of each reward function.
        rollout = self.collector.evaluate(prompts, local_indices, sampled)
        mask = rollout.response_mask
        lengths, repeated = mask.sum(1).float(), reward_hacking.repetition(rollout.ids, mask)
        seconds["scoring"] = lap()

        # 3. Place rewards at the payout positions and scale them, with a scaling fixed on the first rollout. Apply the
        #    length guard and the penalty for a missing EOS.
        if not self.first:
            longest = float(lengths.quantile(0.95))
            self.first = {"length": float(lengths.mean()), "repetition": repeated, "longest": longest}
        token_rewards = self._placed_rewards(rollout)

        # 4. Subtract the KL penalty; estimate advantages by GAE and whiten them over response tokens.
        kl = rl.kl_terms(rollout.logprobs, rollout.ref_logprobs, mask, options.kl_estimator)
        rewards = rl.compute_rewards(token_rewards, kl, mask, self.kl_control.kl_coef)
        advantages, returns = rl.gae(rewards, rollout.values, mask, options.gamma, options.gae_lambda)
        targets = Targets(rl.whiten(advantages, mask), returns)

        # 5. Update: several epochs of minibatches.
        stats = [self._update(rollout, targets, *part) for part in self._minibatches(len(prompts))]
        seconds["update"] = lap()

        # 6. Adapt the KL coefficient if there is a target.
        mean_kl, used_kl_coef = float(kl.sum(1).mean()), self.kl_control.kl_coef
        if options.kl_target:
            self.kl_control = self.kl_control.after(mean_kl, options.kl_target)

        raw = torch.stack([w * scores for w, scores in zip(self.weights, rollout.scores, strict=True)]).sum(0)
        by_function = {
            f"reward/{function.name}": float(scores.sum(1).mean())
            for function, scores in zip(self.reward_functions, rollout.scores, strict=True)
        }
        self.samples = self._samples(prompts, rollout, raw)
        return {
            **_means(stats),
            "reward": float(raw.sum(1).mean()),
            **(by_function if len(self.reward_functions) > 1 else {}),
            "token_reward": float(rl.masked_mean(raw, mask)),
            **({"mismatch": mismatch.nats} if mismatch.nats is not None else {}),
            "kl": mean_kl,
            "kl_coef": used_kl_coef,
            "length": float(lengths.mean()),
            "repetition": repeated,
            "finished": sum(rollout.finished) / len(rollout.finished),
            "explained_variance": float(rl.explained_variance(rollout.values, returns, mask)),
            "tokens_per_second": float(mask.sum()) / sum(seconds.values()),
            **{f"seconds_{name}": s for name, s in seconds.items()},
        }

    def _placed_rewards(self, rollout: Rollout) -> Tensor:
        """(B, T): weighted sum of the rewards, placed and scaled, with length guard and missing-EOS penalty.

        The first call also measures ``self.scaling``.
        """
        options, mask = self.options, rollout.response_mask
        payout_mask = payout_positions(options.granularity, rollout)
        placed_rewards = [rl.place_rewards(scores, payout_mask) for scores in rollout.scores]
        if self.scaling is None:
            # A single score per response is not centred: subtracting its mean at every token would reward (or
            # penalise) length. Nor is its mean over tokens taken.
            dense = [
                bool(distributed.all_reduce_max(bool(reward_function.dense)))
                for reward_function in self.reward_functions
            ]
            centre = options.centre and options.granularity != "sequence"
            self.scaling = [
                rl.fit_scaling(
                    placed, payout_mask, mask, centre=centre and is_dense, scale=options.scale,
                    by_length=options.length_normalise and is_dense,
                )
                for is_dense, placed in zip(dense, placed_rewards, strict=True)
            ]  # fmt: skip
        rewards = torch.zeros_like(placed_rewards[0])
        for weight, placed, scaling in zip(self.weights, placed_rewards, self.scaling, strict=True):
            rewards += weight * rl.scale_rewards(placed, payout_mask, mask, scaling)
        if options.length_guard:
            rewards = rl.guard_length(rewards, options.length_guard * self.first["longest"])
        unfinished = ~torch.tensor(rollout.finished, device=mask.device)
        return rewards - options.missing_eos_penalty * (rl.last_token(mask) & unfinished[:, None])

    def _minibatches(self, n: int) -> Iterator[tuple[list[int], bool]]:
        """Rows of each optimiser step, and whether it is the first step on this rollout."""
        cuts = [n * k // self.options.minibatches for k in range(self.options.minibatches + 1)]
        for epoch in range(self.options.epochs):
            order = torch.randperm(n, generator=self.generator).tolist()
            for start, end in pairwise(cuts):
                if start < end:
                    yield order[start:end], epoch == start == 0

    def _update(self, rollout: Rollout, targets: Targets, rows: list[int], first: bool) -> dict[str, float]:
        """Make one optimiser step on ``rows``, in microbatches of similar length.

        Args:
            rollout: the rollout.
            targets: advantages and returns.
            rows: rows of the minibatch, over all processes.
            first: whether this is the first step on the rollout: the policy has not changed since sampling.

        Returns:
            Losses, clip fractions and gradient norms; with ``first``, also the entropy.

        Raises:
            TokalignError: gradients are not finite, or the sampler does not match the model.
        """
        sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction"), 0.0)
        sums |= {"entropy": 0.0} if first else {}
        tokens = int(rollout.response_mask[rows].sum())
        self.optimizer.zero_grad(set_to_none=True)
        with self.networks.training():
            for group, weight in self._microbatches(rollout, rows):
                batch = rollout.batch(group, self.tokenizer.pad_id)
                # Means are over the tokens of the minibatch: weight each microbatch by its share of them.
                share = weight * float(batch.response_mask.sum()) / tokens
                found = self._backward(rollout, targets, group, batch, share, first)
                for name in sums:
                    sums[name] += float(found[name]) * share
        policy, value = self.networks.policy_parameters, self.networks.value_parameters
        distributed.sum_gradients([*policy, *value])
        # Clip the two separately, so that a large gradient of the value model does not shrink the policy's.
        norm = self.options.max_grad_norm or float("inf")
        sums = distributed.summed(sums)
        for name, parameters in (("grad_norm", policy), ("value_grad_norm", value)):
            size = torch.nn.utils.clip_grad_norm_(parameters, norm)
            sums[name] = float(size.full_tensor() if hasattr(size, "full_tensor") else size)
        if not all(map(math.isfinite, (sums["grad_norm"], sums["value_grad_norm"]))):
            raise TokalignError(
                f"gradients are not finite: policy {sums['grad_norm']}, value {sums['value_grad_norm']}",
                remedy="lower --lr and --value-lr, or use --dtype float32",
            )
        if first and rollout.by_sampler:
            self.collector.mismatch.conclude()
        self.optimizer.step()
        return sums

    def _backward(
        self, rollout: Rollout, targets: Targets, group: list[int], batch: Batch, share: float, first: bool
    ) -> dict[str, Any]:
        """Add the gradients of one microbatch, scaled by ``share``; return its metrics."""
        options, mask = self.options, batch.response_mask
        width = mask.shape[1]
        new = self.networks.read(batch, entropy=first)
        old = rollout.logprobs[group, :width]
        now, mismatch = new.logprobs.detach(), self.collector.mismatch
        weights = rollout.importance[group, :width]
        if rollout.by_sampler:
            weights = weights * mismatch.truncation(now, old)
            if first:
                mismatch.compare(old, now, mask)
        advantages = targets.advantages[group, :width]
        policy = rl.policy_loss(new.logprobs, old, advantages, mask, options.clip_range, weights)
        if self.networks.shared:
            assert new.values is not None
            value = self._value_loss(rollout, targets, group, new.values, mask)
            ((policy.loss + options.vf_coef * value.loss) * share).backward()  # type: ignore[no-untyped-call]
        else:
            (policy.loss * share).backward()  # type: ignore[no-untyped-call]
            with self.networks.valuing():
                value = self._value_loss(rollout, targets, group, self.networks.values(batch), mask)
                (value.loss * share).backward()  # type: ignore[no-untyped-call]
        return {
            "policy_loss": policy.loss.detach(),
            "value_loss": value.loss.detach(),
            "clip_fraction": policy.clip_fraction,
            "value_clip_fraction": value.clip_fraction,
            "entropy": rl.masked_mean(new.entropy, mask) if new.entropy is not None else 0.0,
        }

    def _value_loss(
        self, rollout: Rollout, targets: Targets, group: list[int], values: Tensor, mask: Tensor
    ) -> rl.LossStats:
        width = mask.shape[1]
        return rl.value_loss(
            values, rollout.values[group, :width], targets.returns[group, :width], mask, self.options.value_clip
        )

    def _microbatches(self, rollout: Rollout, rows: list[int]) -> Iterator[tuple[list[int], float]]:
        """Split this process's part of a minibatch into groups of similar length.

        Every process yields the same number of groups, as collective operations require.

        Yields:
            Rows of each group and the weight of its loss: 1, or 0 for a group that only pads the number of groups.
        """
        sizes = rollout.sizes
        local_rows = distributed.local_part(sorted(rows, key=lambda i: -sizes[i]))
        groups = [
            [local_rows[j] for j in group]
            for group in by_length([sizes[i] for i in local_rows], self.options.microbatch)
        ]
        yield from ((group, 1.0) for group in groups)
        for _ in range(distributed.all_reduce_max(len(groups)) - len(groups)):
            yield rows[:1], 0.0

    def _samples(self, prompts: Sequence[PromptItem], rollout: Rollout, raw: Tensor) -> Samples:
        lengths = rollout.response_mask.sum(1).tolist()
        rows = range(min(SHOWN, len(prompts)))
        rewards = [raw[i, : lengths[i]].tolist() for i in rows]
        return Samples([prompts[i] for i in rows], [list(rollout.pairs[i][1]) for i in rows], rewards)


def _means(stats: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the optimiser steps that have it."""
    return {key: sum(found) / len(found) for key in stats[0] if (found := [s[key] for s in stats if key in s])}
