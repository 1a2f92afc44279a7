"""One step of PPO on a policy: rollout, rewards, advantages, updates. The arithmetic is in ``core/rl.py``."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokalign.config import TrainPpoConfig
from tokalign.core import rl
from tokalign.errors import TokalignError
from tokalign.models.batch import Batch, Pair, by_length, pad_rows
from tokalign.models.policy import TokenStats, response_logprobs, response_values
from tokalign.models.reward import RewardModel
from tokalign.models.sampler import Sampled, sample
from tokalign.models.tokenization import Codec

MISMATCH = 1e-3
"""Nats by which the sampler's log-probabilities may differ from the training forward and still serve."""


@dataclass
class Rollout:
    """A sampled batch: B responses, T tokens, padded on the right. (B, T) each; mask **True = counts**."""

    pairs: list[Pair]
    sampled: list[Sampled]
    response_mask: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    raw_rewards: Tensor


class Targets(NamedTuple):
    """What an update aims at: (B, T) each."""

    advantages: Tensor
    returns: Tensor


@dataclass
class Learner:
    """The four networks of PPO and the state that a run carries from step to step."""

    policy: Any
    ref_policy: Any
    value_model: Any
    reward_model: RewardModel
    codec: Codec
    knobs: TrainPpoConfig
    generator: torch.Generator
    optimizer: torch.optim.Optimizer = field(init=False)
    scaling: rl.Scaling | None = None
    reuse_logprobs: bool | None = None
    """Whether the sampler's log-probabilities serve as the old ones; found out on the first rollout."""

    def __post_init__(self) -> None:
        self.ref_policy.requires_grad_(False)
        self.reward_model.model.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.policy.parameters()), "lr": self.knobs.lr},
                {"params": list(self.value_model.parameters()), "lr": self.knobs.value_lr},
            ],
            weight_decay=0.0,
            betas=(0.9, 0.95),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step, for ``torch.save``."""
        return {
            "policy": self.policy.state_dict(),
            "value_model": self.value_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "scaling": None if self.scaling is None else self.scaling._asdict(),
            "reuse_logprobs": self.reuse_logprobs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.policy.load_state_dict(state["policy"])
        self.value_model.load_state_dict(state["value_model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.scaling = state["scaling"] and rl.Scaling(**state["scaling"])
        self.reuse_logprobs = state["reuse_logprobs"]

    def step(self, prompts: Sequence[list[int]]) -> dict[str, float]:
        """One rollout over ``prompts`` and its updates. Returns the metrics of the step."""
        k, clock = self.knobs, [time.perf_counter()]

        def lap() -> float:
            clock.append(time.perf_counter())
            return clock[-1] - clock[-2]

        # 1. Sample a response to every prompt. Models stay in eval mode: no dropout anywhere.
        pairs, sampled = self._sample(prompts)
        seconds = {"rollout": lap()}

        # 2. Score: log-probabilities under policy and reference, values, a reward at every token.
        rollout = self._score(pairs, sampled)
        mask = rollout.response_mask
        seconds["scoring"] = lap()

        # 3. Put rewards on one scale, fixed by the first rollout; a response that never ends pays.
        dense = k.granularity == "token"
        if self.scaling is None:
            self.scaling = rl.fit_scaling(
                rollout.raw_rewards, mask, centre=k.centre and dense, scale=k.scale, dense=dense
            )
        token_rewards = self._scaled(rollout)

        # 4. Subtract the price of drift, and estimate advantages.
        rewards = rl.compute_rewards(token_rewards, rollout.logprobs, rollout.ref_logprobs, mask, k.kl_coef)
        advantages, returns = rl.gae(rewards, rollout.values, mask, k.gamma, k.gae_lambda)
        targets = Targets(rl.whiten(advantages, mask), returns)

        # 5. Several passes of minibatches.
        stats: list[dict[str, float]] = []
        for _ in range(k.epochs):
            stats += [self._update(rollout, targets, rows) for rows in self._minibatches(len(pairs))]
        seconds["update"] = lap()

        kl = rl.masked_mean(rollout.logprobs - rollout.ref_logprobs, mask) * mask.sum() / len(mask)
        return {
            **{key: sum(s[key] for s in stats) / len(stats) for key in stats[0]},
            "reward": float(rollout.raw_rewards.sum(1).mean()),
            "token_reward": float(rl.masked_mean(rollout.raw_rewards, mask)),
            "kl": float(kl),
            "length": float(mask.sum(1).float().mean()),
            "finished": sum(s.finished for s in sampled) / len(sampled),
            "explained_variance": float(rl.explained_variance(rollout.values, returns, mask)),
            "tokens_per_second": float(mask.sum()) / sum(seconds.values()),
            **{f"seconds_{name}": s for name, s in seconds.items()},
        }

    def _sample(self, prompts: Sequence[list[int]]) -> tuple[list[Pair], list[Sampled]]:
        k = self.knobs
        sampled = sample(
            self.policy,
            prompts,
            max_new_tokens=k.max_new_tokens,
            eos_id=self.codec.eos_id,
            pad_id=self.codec.pad_id,
            generator=self.generator,
            temperature=k.temperature,
            top_p=k.top_p,
        )
        return [(p, s.ids) for p, s in zip(prompts, sampled, strict=True)], sampled

    @torch.no_grad()
    def _score(self, pairs: list[Pair], sampled: list[Sampled]) -> Rollout:
        k = self.knobs
        logprobs = [s.logprobs for s in sampled]
        ref: list[Tensor] = [torch.empty(0)] * len(pairs)
        values: list[Tensor] = [torch.empty(0)] * len(pairs)
        for group in by_length([len(p) + len(r) for p, r in pairs], k.microbatch):
            batch = self._batch(pairs, group)
            ref_rows = response_logprobs(self.ref_policy, batch, k.temperature).logprobs
            value_rows = response_values(self.value_model, batch)
            if self.reuse_logprobs is None:
                # Sampling and training run different code paths: trust one for the other only if they agree.
                ours = response_logprobs(self.policy, batch, k.temperature).logprobs
                theirs = pad_rows([logprobs[i] for i in group], ours.shape[1]).to(ours.device)
                self.reuse_logprobs = float((ours - theirs).abs().max()) <= MISMATCH
            if not self.reuse_logprobs:
                new_rows = response_logprobs(self.policy, batch, k.temperature).logprobs
            for row, i in enumerate(group):
                n = len(pairs[i][1])
                ref[i], values[i] = ref_rows[row, :n], value_rows[row, :n]
                if not self.reuse_logprobs:
                    logprobs[i] = new_rows[row, :n]
        device = self.policy.device
        lengths = torch.tensor([len(r) for _, r in pairs], device=device)
        mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
        raw = self.reward_model.rate(pairs, k.microbatch)
        rewards = raw.padded(mask.shape[1]).to(device)
        if k.granularity == "sequence":
            rewards = rl.spread_score(rewards.sum(1), mask)
        return Rollout(pairs, sampled, mask, pad_rows(logprobs).to(device), pad_rows(ref), pad_rows(values), rewards)

    def _scaled(self, rollout: Rollout) -> Tensor:
        assert self.scaling is not None
        mask, last = rollout.response_mask, rl.last_token(rollout.response_mask)
        paid = mask if self.knobs.granularity == "token" else last
        rewards = torch.where(paid, (rollout.raw_rewards - self.scaling.centre) / self.scaling.sigma, 0.0)
        unfinished = torch.tensor([not s.finished for s in rollout.sampled], device=mask.device)
        return rewards - self.knobs.missing_eos_penalty * (last & unfinished[:, None])

    def _minibatches(self, n: int) -> Iterator[list[int]]:
        order = torch.randperm(n, generator=self.generator, device=self.generator.device).tolist()
        size = -(-n // self.knobs.minibatches)
        return (order[i : i + size] for i in range(0, n, size))

    def _batch(self, pairs: Sequence[Pair], rows: Sequence[int]) -> Batch:
        return Batch.of([pairs[i] for i in rows], self.codec.pad_id, self.policy.device)

    def _update(self, rollout: Rollout, targets: Targets, rows: list[int]) -> dict[str, float]:
        """One optimiser step on ``rows``, in microbatches of similar length."""
        k = self.knobs
        counted = int(rollout.response_mask[rows].sum())
        totals = dict.fromkeys(("policy_loss", "value_loss", "entropy", "clip_fraction", "value_clip_fraction"), 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        for local in by_length([len(rollout.pairs[i][0]) + len(rollout.pairs[i][1]) for i in rows], k.microbatch):
            group = [rows[j] for j in local]
            batch = self._batch(rollout.pairs, group)
            mask = batch.response_mask
            width = mask.shape[1]
            # Means are over the minibatch's tokens: each microbatch weighs by its own.
            share = float(mask.sum()) / counted
            new: TokenStats = response_logprobs(self.policy, batch, k.temperature)
            actor = rl.policy_loss(
                new.logprobs, rollout.logprobs[group, :width], targets.advantages[group, :width], mask, k.clip_range
            )
            critic = rl.value_loss(
                response_values(self.value_model, batch),
                rollout.values[group, :width],
                targets.returns[group, :width],
                mask,
                k.value_clip,
            )
            ((actor.loss + critic.loss) * share).backward()  # type: ignore[no-untyped-call]
            for name, value in (
                ("policy_loss", actor.loss),
                ("value_loss", critic.loss),
                ("entropy", rl.masked_mean(new.entropy, mask)),
                ("clip_fraction", actor.clip_fraction),
                ("value_clip_fraction", critic.clip_fraction),
            ):
                totals[name] += float(value.detach()) * share
        # Clipped apart: the critic's gradient must not shrink the actor's.
        norm = k.max_grad_norm or float("inf")
        totals["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), norm))
        value_norm = float(torch.nn.utils.clip_grad_norm_(self.value_model.parameters(), norm))
        if not all(map(torch.isfinite, map(torch.tensor, (totals["grad_norm"], value_norm)))):
            raise TokalignError(
                f"gradients are not finite: policy {totals['grad_norm']}, value {value_norm}",
                remedy="lower --lr and --value-lr, or use --dtype float32",
            )
        self.optimizer.step()
        return totals
