"""Sampler and training forward pass in half precision, and adapters that are merged for sampling."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from tests.test_ppo import items, learner, rollout
from tokalign.config.options import LoraOptions
from tokalign.core import rl
from tokalign.errors import TokalignError
from tokalign.models.loading import recompute_activations
from tokalign.models.lora import POLICY, Adapters, rounded
from tokalign.models.tokenizer import Tokenizer

HALF = {"dtype": "bfloat16"}


def shifted(sampler: Any, nats: float) -> Any:
    return lambda *args: [replace(s, logprobs=s.logprobs - nats) for s in sampler(*args)]


def test_truncated_weights_of_hand_numbers() -> None:
    now, sampled = torch.tensor([[4.0, 0.5, 1.0]]).log(), torch.zeros(1, 3)
    assert rl.importance_weights(now, sampled, 2.0).tolist() == [[2.0, pytest.approx(0.5), 1.0]]
    assert rl.truncation(now, sampled, 2.0).tolist() == [[pytest.approx(0.5), 1.0, 1.0]]


def test_a_ratio_that_is_truncated_keeps_its_gradient() -> None:
    # Ratio 4, advantage -1: PPO does not clip it, and the gradient would be 4 times as large as on the policy.
    logprobs, mask = torch.tensor([[math.log(4.0)]]).requires_grad_(), torch.ones(1, 1, dtype=torch.bool)
    factor = rl.truncation(logprobs.detach(), torch.zeros(1, 1), 2.0)
    loss, _ = rl.policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[-1.0]]), mask, 0.2, factor)
    loss.backward()
    assert logprobs.grad is not None
    assert [loss.item(), logprobs.grad.item()] == pytest.approx([2.0, 2.0])


def test_weights_make_a_sum_over_samples_one_over_the_policy() -> None:
    """Expected values under the policy, from tokens that another distribution sampled."""
    generator = torch.Generator().manual_seed(0)
    policy, sampler = (torch.randn(6, generator=generator).log_softmax(0) for _ in range(2))
    worth = torch.randn(6, generator=generator)
    weights = rl.importance_weights(policy, sampler, math.inf)
    assert (sampler.exp() * weights * worth).sum() == pytest.approx((policy.exp() * worth).sum().item(), abs=1e-6)


def test_rounding_at_random_is_right_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor([1.0, 1.001, -0.3, 3.14159, -1e-20, 0.0])
    many = torch.stack([rounded(x, torch.bfloat16, generator) for _ in range(4000)]).double()
    gap = torch.tensor([2.0**-7, 2.0**-7, 2.0**-9, 2.0**-6, 2.0**-74, 0.0], dtype=torch.double)
    assert ((many - x.double()).abs() <= gap).all(), "one of the two neighbours"
    error = (many.mean(0) - x.double()).abs()
    assert (error <= 4 * gap / 2 / 4000**0.5).all(), "four standard errors of the mean"
    assert (many[:, 0] == 1).all(), "what bfloat16 has is kept"
    assert torch.equal(rounded(x, torch.float32, generator), x)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_adapters_give_the_same_logits_and_leave_no_trace(policy: Any, architecture: str) -> None:
    """GPT-2 keeps its weights transposed."""
    small = GPT2Config(vocab_size=80, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    base = policy if architecture == "llama" else AutoModelForCausalLM.from_config(small).eval()
    adapters = Adapters(base, LoraOptions(lora_rank=4))
    for weight in adapters.parameters(POLICY):
        torch.nn.init.normal_(weight, std=0.2)
    ids = torch.arange(12).reshape(2, 6)
    before = {name: w.clone() for name, w in adapters.model.named_parameters()}
    with torch.no_grad():
        expected = adapters.model(input_ids=ids).logits
        with adapters.merged():
            merged = adapters.model(input_ids=ids).logits
        with adapters.off():
            plain = adapters.model(input_ids=ids).logits
        assert torch.equal(adapters.model(input_ids=ids).logits, expected)
    assert torch.allclose(merged, expected, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2)
    assert all(torch.equal(before[name], w) for name, w in adapters.model.named_parameters())
    assert all(w.requires_grad for w in adapters.parameters(POLICY))


def test_an_update_below_the_precision_of_the_weights_is_sampled_on_average(policy: Any) -> None:
    adapters = Adapters(policy.bfloat16(), LoraOptions(lora_rank=4))
    for name, weight in adapters.model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.constant_(weight, 0.004 if "lora_A" in name else 0.0003)
    layer = next(m for m in adapters.model.modules() if hasattr(m, "get_delta_weight"))
    weight = layer.base_layer.weight
    before, wanted = weight.float(), layer.get_delta_weight(POLICY)
    assert torch.equal((before + wanted).bfloat16().float()[before.abs() > 0.02], before[before.abs() > 0.02])
    with adapters.merged():
        moved = (layer.base_layer.weight.float() - before)[before.abs() > 0.02]
    assert moved.mean() == pytest.approx(float(wanted.mean()), rel=0.35), "and none of it by rounding to the nearest"


@pytest.mark.parametrize("layout", [{}, {"value_model": "shared"}, {"lora": True}])
def test_half_precision_keeps_the_samplers_logprobs_and_reports_the_mismatch(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, layout: dict[str, Any]
) -> None:
    subject = learner(policy, tokenizer, tmp_path, **HALF, **layout)
    metrics = subject.step(items(tokenizer))
    assert subject.collector.mismatch.reuse is True
    assert 0 < metrics["mismatch"] < 0.1
    read = []
    networks, honest = subject.networks, subject.networks.read
    networks.read = lambda *a, **k: read.append(1) or honest(*a, **k)  # type: ignore[method-assign,func-returns-value]
    found, sampled = rollout(subject, items(tokenizer))
    assert not read, "no pass of the policy over what it has just sampled"
    for row in found.logprobs:
        assert any(torch.equal(row[: len(t.logprobs)], t.logprobs) for t in sampled if t.logprobs is not None)
    assert (found.importance[found.response_mask] == 1).all()


@pytest.mark.parametrize(("nats", "reuse"), [(0.05, True), (0.2, False)])
def test_the_weights_reach_the_loss(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nats: float, reuse: bool
) -> None:
    """In every update of a rollout, also when its first one ends the reuse from the next rollout on."""
    subject = learner(policy, tokenizer, tmp_path, importance_cap=1.01, lr=0.0, **HALF)
    subject.step(items(tokenizer))
    seen: list[float] = []
    honest = rl.policy_loss

    def watched(*given: Any) -> Any:
        seen.append(float(rl.masked_mean(given[5], given[3])))
        return honest(*given)

    monkeypatch.setattr(rl, "policy_loss", watched)
    subject.collector.sampler = shifted(subject.collector.sampler, nats)
    subject.step(items(tokenizer))
    assert subject.collector.mismatch.reuse is reuse
    assert len(seen) >= 4
    assert seen == pytest.approx([1.01 * math.exp(-nats)] * len(seen), abs=0.02), "truncated ratios"
    seen.clear()
    subject.step(items(tokenizer))
    expected = 1.01 * math.exp(-nats) if reuse else 1.01
    assert seen == pytest.approx([expected] * len(seen), abs=0.02)


def test_a_cap_of_0_computes_them_again_in_half_precision(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    subject = learner(policy, tokenizer, tmp_path, importance_cap=0.0, **HALF)
    found, sampled = rollout(subject, items(tokenizer))
    assert subject.collector.mismatch.reuse is False
    assert (found.importance[found.response_mask] == 1).all()
    known = [s.logprobs for s in sampled if s.logprobs is not None]
    assert not any(torch.equal(row[: len(k)], k) for row in found.logprobs for k in known)
    exact = learner(policy, tokenizer, tmp_path, importance_cap=0.0)
    exact.step(items(tokenizer))
    assert exact.collector.mismatch.reuse is True, "in float32 they are the same"


def test_a_sampler_that_is_somewhat_off_gets_truncated_weights(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    subject = learner(policy, tokenizer, tmp_path, importance_cap=1.1, **HALF)
    honest = subject.collector.sampler
    subject.collector.sampler = shifted(honest, 0.2)
    found, _ = rollout(subject, items(tokenizer))
    assert subject.collector.mismatch.reuse is False
    assert subject.collector.mismatch.nats == pytest.approx(0.2, abs=0.02)
    mask = found.response_mask
    assert found.importance[mask] == pytest.approx(1.1), "e^0.2 is above the cap"
    subject.collector.sampler = shifted(honest, -0.2)
    found, _ = rollout(subject, items(tokenizer))
    mask = found.response_mask
    assert found.importance[mask].log().mean() == pytest.approx(-0.2, abs=0.02)
    assert json.loads(json.dumps(subject.step(items(tokenizer))["mismatch"])) == pytest.approx(0.2, abs=0.05)


def test_a_sampler_that_is_wrong_in_half_precision_stops_the_run(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    subject = learner(policy, tokenizer, tmp_path, **HALF)
    subject.step(items(tokenizer))
    subject.collector.sampler = shifted(subject.collector.sampler, 0.5)
    with pytest.raises(TokalignError, match=r"differ from the model's by 0\.5 nats on average"):
        subject.step(items(tokenizer))


@pytest.mark.parametrize("recompute", [False, True])
def test_autocast_alone_gives_the_numbers_of_pefts_conversions(policy: Any, recompute: bool) -> None:
    from peft.tuners.lora import LoraLayer

    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    found = []
    for conversions in (False, True):
        torch.manual_seed(0)
        adapters = Adapters(copy.deepcopy(policy).bfloat16(), LoraOptions(lora_rank=4))
        generator = torch.Generator().manual_seed(1)
        for name, weight in adapters.model.named_parameters():
            if ".lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1, generator=generator)
        layers: list[Any] = [m for m in adapters.model.modules() if isinstance(m, LoraLayer)]
        for layer in layers if conversions else []:
            del layer._cast_input_dtype
        if recompute:
            recompute_activations(adapters.model)
            adapters.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = adapters.model(input_ids=ids).logits
        logits.float().square().mean().backward()
        found.append((logits, [p.grad for p in adapters.parameters(POLICY) if p.grad is not None]))
        with torch.no_grad():  # without autocast, inputs are converted as before
            adapters.model(input_ids=ids)
    (one, gradients), (two, expected) = found
    assert torch.equal(one, two)
    assert len(gradients) == len(adapters.parameters(POLICY))
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
