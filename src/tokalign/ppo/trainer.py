"""One step of PPO on a policy: rollout, rewards, advantages, updates. The arithmetic is in ``core/rl.py``."""

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
from tokalign.ppo.rollout import MISMATCH, Collector, PromptItem, Rollout, payout_positions, refuse_gap

SHOWN = 4
"""Responses of a step that are kept to be looked at."""


class Targets(NamedTuple):
    """What an update aims at: (B, T) each."""

    advantages: Tensor
    returns: Tensor


class Samples(NamedTuple):
    """Some responses of the last rollout: their rewards are as they were given, before any scaling."""

    prompts: list[PromptItem]
    responses: list[list[int]]
    rewards: list[list[float]]


@dataclass
class Learner:
    """The networks of PPO, who pays, and the state that a run carries from step to step."""

    networks: Networks
    reward_functions: Sequence[RewardFunction]
    tokenizer: Tokenizer
    options: PpoOptions
    weights: Sequence[float]
    """What each reward function counts."""
    generator: torch.Generator
    """Of seeds and the order of minibatches; on the CPU, the same in all processes."""
    optimizer: torch.optim.Optimizer = field(init=False)
    scaling: list[rl.Scaling] | None = None
    first: dict[str, float] = field(default_factory=dict)
    """What the first rollout was like: ``length``, ``repetition``, and ``longest``, the 95th percentile of lengths."""
    kl_coef: float = field(init=False)
    samples: Samples | None = None

    def __post_init__(self) -> None:
        self.collector = Collector(self.networks, self.reward_functions, self.tokenizer)
        self.kl_coef = self.options.kl_coef
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.networks.policy_parameters, "lr": self.options.lr},
                {"params": self.networks.value_parameters, "lr": self.options.value_lr},
            ],
            weight_decay=0.0,
            betas=(0.9, 0.95),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step, for ``torch.save``. All processes must ask."""
        return {
            "networks": self.networks.state_dict(),
            "optimizer": distributed.gathered_moments(self.networks.all(), self.optimizer),
            "generator": self.generator.get_state(),
            "scaling": None if self.scaling is None else [s._asdict() for s in self.scaling],
            "first": self.first,
            "kl_coef": self.kl_coef,
            "reuse_logprobs": self.collector.reuse_logprobs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.networks.load_state_dict(state["networks"])
        distributed.spread_moments(self.networks.all(), self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.scaling = state["scaling"] and [rl.Scaling(**s) for s in state["scaling"]]
        self.first, self.kl_coef = state["first"], state["kl_coef"]
        self.collector.reuse_logprobs = state["reuse_logprobs"]

    def step(self, prompts: Sequence[PromptItem]) -> dict[str, float]:
        """One rollout over prompts and its updates. Returns the metrics of the step."""
        k, clock = self.options, [time.perf_counter()]

        def lap() -> float:
            clock.append(time.perf_counter())
            return clock[-1] - clock[-2]

        # 1. Sample a response to every prompt. Models stay in eval mode: no dropout anywhere.
        mine, sampled = self.collector.draw(prompts, new_seeds(len(prompts), self.generator))
        seconds = {"rollout": lap()}

        # 2. Read: log-probabilities under policy and reference, values, and the scores of each reward function.
        rollout = self.collector.evaluate(prompts, mine, sampled)
        mask = rollout.response_mask
        lengths, repeated = mask.sum(1).float(), reward_hacking.repetition(rollout.ids, mask)
        seconds["scoring"] = lap()

        # 3. Let rewards land where the granularity says, and put them on one scale, fixed by the first rollout.
        #    Nothing good is paid far beyond the first lengths; a response that never ends pays.
        if not self.first:
            longest = float(lengths.quantile(0.95))
            self.first = {"length": float(lengths.mean()), "repetition": repeated, "longest": longest}
        token_rewards = self._placed_rewards(rollout)

        # 4. Subtract the price of drift, and estimate advantages, whitened over the tokens that count.
        kl = rl.kl_terms(rollout.logprobs, rollout.ref_logprobs, mask, k.kl_estimator)
        rewards = rl.compute_rewards(token_rewards, kl, mask, self.kl_coef)
        advantages, returns = rl.gae(rewards, rollout.values, mask, k.gamma, k.gae_lambda)
        targets = Targets(rl.whiten(advantages, mask), returns)

        # 5. Several passes of minibatches.
        stats = [self._update(rollout, targets, *part) for part in self._minibatches(len(prompts))]
        seconds["update"] = lap()

        # 6. Keep the drift near its target, if there is one.
        drift = float(kl.sum(1).mean())
        used, self.kl_coef = self.kl_coef, rl.adapt(self.kl_coef, drift, k.kl_target) if k.kl_target else self.kl_coef

        raw = torch.stack([w * scores for w, scores in zip(self.weights, rollout.scores, strict=True)]).sum(0)
        each = {
            f"reward/{p.name}": float(e.sum(1).mean())
            for p, e in zip(self.reward_functions, rollout.scores, strict=True)
        }
        self.samples = self._some(prompts, rollout, raw)
        return {
            **_means(stats),
            "reward": float(raw.sum(1).mean()),
            **(each if len(self.reward_functions) > 1 else {}),
            "token_reward": float(rl.masked_mean(raw, mask)),
            "kl": drift,
            "kl_coef": used,
            "length": float(lengths.mean()),
            "repetition": repeated,
            "finished": sum(rollout.finished) / len(rollout.finished),
            "explained_variance": float(rl.explained_variance(rollout.values, returns, mask)),
            "tokens_per_second": float(mask.sum()) / sum(seconds.values()),
            **{f"seconds_{name}": s for name, s in seconds.items()},
        }

    def _placed_rewards(self, rollout: Rollout) -> Tensor:
        """(B, T): the rewards of all functions together, placed, scaled and guarded."""
        k, mask = self.options, rollout.response_mask
        payout_mask = payout_positions(k.granularity, rollout)
        centre = k.centre and k.granularity != "sequence"
        placed_rewards = [rl.place_rewards(scores, payout_mask) for scores in rollout.scores]
        if self.scaling is None:
            # One score a response is not centred: taken off every token, its mean would make length pay, or cost.
            dense = [
                bool(distributed.all_reduce_max(bool(reward_function.dense)))
                for reward_function in self.reward_functions
            ]
            self.scaling = [
                rl.fit_scaling(given, payout_mask, centre=centre and several, scale=k.scale)
                for several, given in zip(dense, placed_rewards, strict=True)
            ]
        rewards = torch.zeros_like(placed_rewards[0])
        for weight, given, scaling in zip(self.weights, placed_rewards, self.scaling, strict=True):
            rewards += weight * torch.where(payout_mask, (given - scaling.centre) / scaling.sigma, 0.0)
        if k.length_guard:
            rewards = rl.guard_length(rewards, k.length_guard * self.first["longest"])
        unfinished = ~torch.tensor(rollout.finished, device=mask.device)
        return rewards - k.missing_eos_penalty * (rl.last_token(mask) & unfinished[:, None])

    def _minibatches(self, n: int) -> Iterator[tuple[list[int], bool]]:
        """Rows of each optimiser step, and whether it is the first on this rollout."""
        cuts = [n * k // self.options.minibatches for k in range(self.options.minibatches + 1)]
        for epoch in range(self.options.epochs):
            order = torch.randperm(n, generator=self.generator).tolist()
            for start, end in pairwise(cuts):
                if start < end:
                    yield order[start:end], epoch == start == 0

    def _update(self, rollout: Rollout, targets: Targets, rows: list[int], fresh: bool) -> dict[str, float]:
        """One optimiser step on ``rows``, in microbatches of similar length; ``fresh``: nothing has moved yet."""
        sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction"), 0.0)
        sums |= {"entropy": 0.0} if fresh else {}
        widest = 0.0
        counted = int(rollout.response_mask[rows].sum())
        self.optimizer.zero_grad(set_to_none=True)
        with self.networks.training():
            for group, weight in self._microbatches(rollout, rows):
                batch = rollout.batch(group, self.tokenizer.pad_id)
                # Means are over the minibatch's tokens: each microbatch weighs by its own.
                share = weight * float(batch.response_mask.sum()) / counted
                found, apart = self._backward(rollout, targets, group, batch, share, fresh)
                widest = max(widest, apart)
                for name in sums:
                    sums[name] += float(found[name]) * share
        policy, value = self.networks.policy_parameters, self.networks.value_parameters
        distributed.sum_gradients([*policy, *value])
        # Clipped apart: the critic's gradient must not shrink the actor's.
        norm = self.options.max_grad_norm or float("inf")
        sums = distributed.summed(sums)
        for name, parameters in (("grad_norm", policy), ("value_grad_norm", value)):
            size = torch.nn.utils.clip_grad_norm_(parameters, norm)
            sums[name] = float(size.full_tensor() if hasattr(size, "full_tensor") else size)
        if not all(map(torch.isfinite, map(torch.tensor, (sums["grad_norm"], sums["value_grad_norm"])))):
            raise TokalignError(
                f"gradients are not finite: policy {sums['grad_norm']}, value {sums['value_grad_norm']}",
                remedy="lower --lr and --value-lr, or use --dtype float32",
            )
        if fresh:
            widest = distributed.all_reduce_max(widest)
            if self.collector.reuse_logprobs:  # the old ones are the sampler's
                refuse_gap(widest, self.options.dtype)
            if widest > MISMATCH:
                self.collector.reuse_logprobs = False  # from the next rollout on, they are computed again
        self.optimizer.step()
        return sums

    def _backward(
        self, rollout: Rollout, targets: Targets, group: list[int], batch: Batch, share: float, fresh: bool
    ) -> tuple[dict[str, Any], float]:
        """Gradients of one microbatch; its figures, and how far log-probabilities are from those of the rollout."""
        k, mask = self.options, batch.response_mask
        width = mask.shape[1]
        new = self.networks.read(batch, entropy=fresh)
        old = rollout.logprobs[group, :width]
        actor = rl.policy_loss(new.logprobs, old, targets.advantages[group, :width], mask, k.clip_range)
        if self.networks.shared:
            assert new.values is not None
            critic = self._critic(rollout, targets, group, new.values, mask)
            ((actor.loss + k.vf_coef * critic.loss) * share).backward()  # type: ignore[no-untyped-call]
        else:
            (actor.loss * share).backward()  # type: ignore[no-untyped-call]
            with self.networks.valuing():
                critic = self._critic(rollout, targets, group, self.networks.values(batch), mask)
                (critic.loss * share).backward()  # type: ignore[no-untyped-call]
        return {
            "policy_loss": actor.loss.detach(),
            "value_loss": critic.loss.detach(),
            "clip_fraction": actor.clip_fraction,
            "value_clip_fraction": critic.clip_fraction,
            "entropy": rl.masked_mean(new.entropy, mask) if new.entropy is not None else 0.0,
        }, float((new.logprobs.detach() - old).abs().max()) if fresh else 0.0

    def _critic(
        self, rollout: Rollout, targets: Targets, group: list[int], values: Tensor, mask: Tensor
    ) -> rl.LossStats:
        width = mask.shape[1]
        return rl.value_loss(
            values, rollout.values[group, :width], targets.returns[group, :width], mask, self.options.value_clip
        )

    def _microbatches(self, rollout: Rollout, rows: list[int]) -> Iterator[tuple[list[int], float]]:
        """This process's part of a minibatch, in groups of similar length that count 1.

        All processes make as many passes: one with less to do makes a pass that counts 0.
        """
        sizes = rollout.sizes
        mine = distributed.local_part(sorted(rows, key=lambda i: -sizes[i]))
        groups = [[mine[j] for j in group] for group in by_length([sizes[i] for i in mine], self.options.microbatch)]
        yield from ((group, 1.0) for group in groups)
        for _ in range(distributed.all_reduce_max(len(groups)) - len(groups)):
            yield rows[:1], 0.0

    def _some(self, prompts: Sequence[PromptItem], rollout: Rollout, raw: Tensor) -> Samples:
        lengths = rollout.response_mask.sum(1).tolist()
        some = range(min(SHOWN, len(prompts)))
        rewards = [raw[i, : lengths[i]].tolist() for i in some]
        return Samples([prompts[i] for i in some], [list(rollout.pairs[i][1]) for i in some], rewards)


def _means(stats: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over optimiser steps; of what is measured on the first alone, that."""
    return {key: sum(found) / len(found) for key in stats[0] if (found := [s[key] for s in stats if key in s])}
