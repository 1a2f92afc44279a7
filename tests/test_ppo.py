"""The PPO step as a whole: what it pays for is learnt, however the work is split."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tokalign.config import TrainPpoConfig
from tokalign.core import rl
from tokalign.models import loading
from tokalign.models.batch import Pair
from tokalign.models.ppo import Learner
from tokalign.models.reward import Ratings
from tokalign.models.tokenization import Codec

PROMPTS = [
    "Describe the sea with a simile.",
    "Where is the map?",
    "How do I light the stove?",
    "Tell me about osmosis.",
]


LIKED = 50
"""Of 500 token ids."""


class PaysFor:
    """A stand-in reward model: 1 for every token below ``liked``, at that token."""

    level = "token"

    def __init__(self, liked: int) -> None:
        self.liked, self.model = liked, torch.nn.Linear(1, 1)

    def rate(self, pairs: list[Pair], microbatch: int = 32) -> Ratings:
        return Ratings([(torch.tensor(list(r)) < self.liked).float() for _, r in pairs], None)


def learner(policy: Any, codec: Codec, folder: Path, **knobs: Any) -> Learner:
    policy.save_pretrained(folder)
    defaults: dict[str, Any] = {
        "lr": 3e-3, "value_lr": 3e-3, "max_new_tokens": 8, "batch_size": 32, "steps": 1, "kl_coef": 0.0,
        "missing_eos_penalty": 0.0,
    }  # fmt: skip
    config = TrainPpoConfig(out=folder, prompts="-", policy="-", reward_model="-", **{**defaults, **knobs})
    return Learner(
        policy=copy.deepcopy(policy),
        ref_policy=copy.deepcopy(policy),
        value_model=loading.new_value_model(folder),
        reward_model=PaysFor(LIKED),  # type: ignore[arg-type]
        codec=codec,
        knobs=config,
        generator=torch.Generator().manual_seed(0),
    )


@torch.no_grad()
def share_paid(policy: Any, codec: Codec) -> float:
    """Mean probability that a response begins with a token that is paid for."""
    logits = [policy(input_ids=torch.tensor([p])).logits[0, -1] for p in codec.prompts(PROMPTS)]
    return float(torch.stack(logits).softmax(-1)[:, :LIKED].sum(-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["token", "sequence"])
def test_what_is_paid_for_becomes_likelier(policy: Any, codec: Codec, tmp_path: Path, granularity: str) -> None:
    subject = learner(policy, codec, tmp_path, granularity=granularity)
    prompts = codec.prompts(PROMPTS) * 8
    for _ in range(12):
        metrics = subject.step(prompts)
    assert share_paid(subject.policy, codec) > 3 * share_paid(policy, codec)
    assert metrics["kl"] > 0


def test_a_step_does_not_touch_reference_or_reward_model(policy: Any, codec: Codec, tmp_path: Path) -> None:
    subject = learner(policy, codec, tmp_path)
    subject.step(codec.prompts(PROMPTS))
    same = zip(subject.ref_policy.parameters(), policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    moved = zip(subject.policy.parameters(), policy.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in moved)


def test_microbatches_change_nothing_but_memory(policy: Any, codec: Codec, tmp_path: Path) -> None:
    updated = []
    for microbatch in (32, 3):
        subject = learner(policy, codec, tmp_path, microbatch=microbatch, epochs=1, minibatches=2, lr=1e-2)
        # Plain SGD: Adam would blow rounding differences of near-zero gradients up to full steps.
        subject.optimizer = torch.optim.SGD([*subject.policy.parameters(), *subject.value_model.parameters()], lr=0.1)
        subject.step(codec.prompts(PROMPTS) * 4)
        updated.append(torch.cat([p.flatten() for p in subject.policy.parameters()]))
    assert torch.allclose(updated[0], updated[1], atol=1e-5)
    start = torch.cat([p.flatten() for p in policy.parameters()])
    assert (updated[0] - start).abs().max() > 1e-3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(policy: Any, codec: Codec, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        subject = learner(policy, codec, tmp_path)
        for _ in range(2):
            subject.step(codec.prompts(PROMPTS) * 4)
        runs.append(torch.cat([p.flatten() for p in subject.policy.parameters()]))
    assert torch.equal(runs[0], runs[1])


@pytest.mark.slow
def test_a_strong_leash_holds_the_policy_back(policy: Any, codec: Codec, tmp_path: Path) -> None:
    drift = {}
    for kl_coef in (0.0, 5.0):
        torch.manual_seed(0)
        subject = learner(policy, codec, tmp_path, kl_coef=kl_coef)
        for _ in range(10):
            metrics = subject.step(codec.prompts(PROMPTS) * 8)
        drift[kl_coef] = metrics["kl"]
    assert drift[5.0] < 0.5 * drift[0.0]


def test_scaling_is_fixed_on_the_first_rollout(policy: Any, codec: Codec, tmp_path: Path) -> None:
    subject = learner(policy, codec, tmp_path)
    subject.step(codec.prompts(PROMPTS) * 8)
    first = subject.scaling
    subject.step(codec.prompts(PROMPTS) * 8)
    assert first is not None
    assert subject.scaling is first


def test_unfinished_responses_pay_on_their_last_token(policy: Any, codec: Codec, tmp_path: Path) -> None:
    subject = learner(policy, codec, tmp_path, missing_eos_penalty=2.0, scale=False, centre=False, max_new_tokens=4)
    subject.scaling = rl.Scaling(0.0, 1.0)
    pairs, sampled = subject._sample(codec.prompts(PROMPTS) * 8)
    rollout = subject._score(pairs, sampled)
    extra = subject._scaled(rollout) - rollout.raw_rewards
    for row, s in enumerate(sampled):
        expected = [0.0] * extra.shape[1]
        if not s.finished:
            expected[len(s.ids) - 1] = -2.0
        assert extra[row].tolist() == expected
    assert any(not s.finished for s in sampled)


def test_logprobs_are_recomputed_when_the_sampler_disagrees(policy: Any, codec: Codec, tmp_path: Path) -> None:
    subject = learner(policy, codec, tmp_path)
    pairs, sampled = subject._sample(codec.prompts(PROMPTS))
    right = [s.logprobs.clone() for s in sampled]
    for s in sampled:
        s.logprobs.sub_(1.0)
    rollout = subject._score(pairs, sampled)
    assert subject.reuse_logprobs is False
    for row, logprobs in enumerate(right):
        assert torch.allclose(rollout.logprobs[row, : len(logprobs)], logprobs, atol=1e-4)
