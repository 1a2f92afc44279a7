"""Engines have weights of their own: they follow the policy, or the run stops."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.forked import run
from tests.test_pipeline import lines
from tokalign.config.options import LoraOptions, SamplingOptions
from tokalign.config.stages import TrainPpoConfig
from tokalign.errors import TokalignError, UsageError
from tokalign.models import lora, samplers
from tokalign.models.engines import check_follows, plain_weights, take_weights
from tokalign.models.sampler import Engine, Sampled, respond, sample
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo import rollout
from tokalign.stages import ppo


class FakeEngine:
    """Samples with the built-in sampler from a copy of the weights, as an engine does; ``stale`` keeps the first."""

    name = "the fake engine"

    def __init__(self, policy: Any, *, stale: bool = False, off: float = 0.0) -> None:
        self.copy, self.stale, self.off = deepcopy(policy), stale, off
        self.synced, self.batches, self.closed = 0, list[int](), False

    def sync(self, policy: Any) -> None:
        self.synced += 1
        if not self.stale:
            self.copy.load_state_dict(dict(plain_weights(policy)))

    def __call__(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        tokenizer: Tokenizer,
        options: SamplingOptions,
        value_head: Any = None,
    ) -> list[Sampled]:
        self.batches.append(len(prompts))
        drawn = sample(self.copy, prompts, seeds, tokenizer, options)
        return [Sampled(s.ids, s.finished, s.logprobs + self.off) for s in drawn if s.logprobs is not None]

    def close(self) -> None:
        self.closed = True


def changed(policy: Any, by: float) -> Any:
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(by * torch.randn_like(weight))
    return policy


def test_an_engine_that_follows_passes_and_a_stale_one_stops_the_run(policy: Any, tokenizer: Tokenizer) -> None:
    options = SamplingOptions()
    changed(policy, 0.1)
    engine = FakeEngine(policy)
    assert isinstance(engine, Engine)
    assert not isinstance(sample, Engine)
    changed(policy, 0.05)
    with pytest.raises(TokalignError, match="does not follow the policy") as stale:
        check_follows(engine, policy, tokenizer, options, "float32")
    assert stale.value.exit_code == 1
    take_weights(engine, policy)
    take_weights(sample, policy)  # nothing to do
    assert check_follows(engine, policy, tokenizer, options, "float32") < 1e-4


@pytest.mark.parametrize(("dtype", "passes", "fails"), [("float32", 5e-4, 2e-3), ("bfloat16", 0.08, 0.15)])
def test_limits_by_type(policy: Any, tokenizer: Tokenizer, dtype: str, passes: float, fails: float) -> None:
    found = check_follows(FakeEngine(policy, off=passes), policy, tokenizer, SamplingOptions(temperature=0.0), dtype)
    assert found == pytest.approx(passes, rel=0.1)
    with pytest.raises(TokalignError, match="largest" if dtype == "float32" else "mean"):
        check_follows(FakeEngine(policy, off=fails), policy, tokenizer, SamplingOptions(top_p=0.5), dtype)
    with pytest.raises(TokalignError, match="is nan"):
        check_follows(FakeEngine(policy, off=float("nan")), policy, tokenizer, SamplingOptions(), dtype)


def test_plain_weights_are_those_of_a_saved_model(policy: Any, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "plain")
    saved, found = load_file(tmp_path / "plain" / "model.safetensors"), dict(plain_weights(policy))
    assert saved.keys() <= found.keys()
    assert all(torch.equal(found[name], weight) for name, weight in saved.items())


def test_plain_weights_of_merged_adapters(policy: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = set(policy.state_dict())
    adapters = lora.Adapters(policy, LoraOptions(lora=True))
    for weight in adapters.parameters("default" if "default" in adapters._trainable else lora.POLICY):
        torch.nn.init.normal_(weight, std=0.1)
    with adapters.merged():
        found = {name: weight.clone() for name, weight in plain_weights(adapters.model)}
    assert found.keys() == names
    with adapters.off():
        before = {name: weight.clone() for name, weight in plain_weights(adapters.model)}
    adapters.save(lora.POLICY, tmp_path / "saved")
    merged = dict(adapters.export(tmp_path / "saved", tmp_path / "adapter").state_dict())
    assert all(torch.allclose(found[name], merged[name], atol=1e-5) for name in names)
    assert any(not torch.allclose(found[name], before[name], atol=1e-3) for name in names)


def test_an_engine_gets_all_prompts_at_once(policy: Any, tokenizer: Tokenizer) -> None:
    engine, prompts = FakeEngine(policy), tokenizer.prompts(["one", "two, and a bit more", "three"])
    options = SamplingOptions(max_new_tokens=4)
    texts = respond(policy, tokenizer, prompts, options, [1, 2, 3], 2, engine)
    assert engine.batches == [3]
    assert texts == respond(policy, tokenizer, prompts, options, [1, 2, 3], 2)


@pytest.fixture
def train(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save(tmp_path / "policy")
    (tmp_path / "few.txt").write_text("One?\nTwo?\nThree?\n")

    def trained(name: str, **options: Any) -> list[dict[str, Any]]:
        config = TrainPpoConfig(
            prompts=str(ROOT / "data" / "prompts"), policy=str(tmp_path / "policy"), eval_judge="reward",
            reward_model=["tests.test_engines:shorter"], out=tmp_path / name, batch_size=4, max_new_tokens=8,
            max_length=200, lr=1e-3, eval_prompts=str(tmp_path / "few.txt"), eval_every=2, quiet=True, device="cpu",
            **{"steps": 3, **options},
        )  # fmt: skip
        ppo.run(config)
        return lines(tmp_path / name / "metrics.jsonl")

    return trained


def shorter(prompts: Sequence[Any], responses: Sequence[str], offsets: Any) -> list[float]:
    """A reward."""
    return [-float(len(response)) for response in responses]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [False, True])
def test_ppo_syncs_before_it_samples(
    train: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, dtype: str, lora: bool
) -> None:
    from tokalign.models.loading import load_policy

    engines = []

    def start(policy: Any, *_: Any) -> FakeEngine:
        owner = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
        engines.append(FakeEngine(load_policy(owner.config._name_or_path)))
        return engines[-1]

    own = train("own", dtype=dtype, lora=lora)
    with monkeypatch.context() as m:
        m.setattr(rollout, "choose", start)
        found = train("engine", dtype=dtype, lora=lora)
    (engine,) = engines
    # Once for the reference's responses, then for each of 3 rollouts and 2 evaluations.
    assert engine.synced == 6
    assert all("mismatch" in row for row in found if "kl" in row)
    if dtype == "float32":
        for a, b in zip(own, found, strict=True):
            shared = {key for key in a if "seconds" not in key and key not in ("tokens_per_second", "mismatch")}
            assert {key: a[key] for key in shared} == pytest.approx({key: b[key] for key in shared}, abs=1e-4)


@pytest.mark.slow
def test_ppo_stops_if_the_engine_does_not_follow(
    train: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "choose", lambda policy, *_: FakeEngine(policy, stale=True))
    with pytest.raises(TokalignError, match="the sampler's log-probabilities differ"):
        train("stale", kl_coef=0.0, steps=6)


def test_without_vllm_it_says_how_to_install_it(policy: Any, tokenizer: Tokenizer, monkeypatch: Any) -> None:
    monkeypatch.setattr("tokalign.models.vllm_engine.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="needs the package vllm") as missing:
        samplers.choose(policy, tokenizer, SamplingOptions(sampler="vllm"), "float32")
    assert "tokalign[vllm]" in missing.value.remedy
    monkeypatch.setattr("tokalign.models.vllm_engine.find_spec", lambda _: True)
    monkeypatch.setattr("tokalign.models.vllm_engine.distributed.world", lambda: 2)
    with pytest.raises(UsageError, match="in one process"):
        samplers.choose(policy, tokenizer, SamplingOptions(sampler="vllm"), "float32")


@pytest.mark.slow
def test_the_option_exists_on_the_command_line(tmp_path: Path) -> None:
    for command in ("train-ppo", "generate", "eval-winrate"):
        assert "vllm" in run(tmp_path, command, "--help").stdout


def test_engines_are_closed(policy: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(policy)
    monkeypatch.setattr(samplers, "choose", lambda *_: engine)
    with (
        pytest.raises(ValueError, match="x"),
        samplers.sampling_with(policy, tokenizer, SamplingOptions(), "float32") as found,
    ):
        assert found is engine
        raise ValueError("x")
    assert engine.closed
