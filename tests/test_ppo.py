"""The PPO step as a whole: what it pays for is learnt, however networks lie in memory and the work is split."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tokalign.artifacts.schemas import Answer, PromptRow
from tokalign.config.methods import PpoOptions
from tokalign.core import rl
from tokalign.errors import TokalignError
from tokalign.judges import Comparison
from tokalign.judges.reward import RewardJudge
from tokalign.models.batch import Batch
from tokalign.models.policy import response_logprobs
from tokalign.models.reward_functions import Emitted, UserReward
from tokalign.models.sampler import Sampled, sample
from tokalign.models.samplers import generate
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo.evaluation import PolicyEvaluation
from tokalign.ppo.networks import Networks
from tokalign.ppo.rollout import PromptItem, Rollout
from tokalign.ppo.trainer import Learner

PROMPTS = [
    "Describe the sea with a simile.",
    "Where is the map?",
    "How do I light the stove?",
    "Tell me about osmosis.",
]
LIKED = 50
"""Of 500 token ids."""
LAYOUTS: dict[str, dict[str, Any]] = {
    "separate": {},
    "shared": {"value_model": "shared"},
    "lora": {"lora": True},
    "lora-shared": {"lora": True, "value_model": "shared"},
}


class PaysFor:
    """Pays 1 for every token below ``LIKED``, at that token."""

    name, dense, averaged = "liked", True, True

    def score(self, emitted: Emitted, microbatch: int) -> list[torch.Tensor]:
        return [(torch.tensor(list(r)) < LIKED).float() for _, r in emitted.pairs]


def learner(policy: Any, tokenizer: Tokenizer, folder: Path, **options: Any) -> Learner:
    policy.save_pretrained(folder)
    defaults: dict[str, Any] = {
        "lr": 3e-3, "value_lr": 3e-3, "max_new_tokens": 8, "batch_size": 32, "kl_coef": 0.0,
        "missing_eos_penalty": 0.0, "length_guard": 0.0,
    }  # fmt: skip
    ppo = PpoOptions(**{**defaults, **options})
    networks = Networks(str(folder), ppo, torch.device("cpu"), tokenizer)
    return Learner(networks, [PaysFor()], tokenizer, ppo, [1.0], torch.Generator().manual_seed(0))


def items(tokenizer: Tokenizer, times: int = 1) -> list[PromptItem]:
    return [PromptItem(p, ids) for p, ids in zip(PROMPTS, tokenizer.prompts(PROMPTS), strict=True)] * times


def weights(subject: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in subject.networks.policy_parameters])


def rollout(subject: Learner, prompts: Sequence[PromptItem]) -> tuple[Rollout, list[Sampled]]:
    mine, sampled = subject.collector.draw(prompts, range(len(prompts)))
    return subject.collector.evaluate(prompts, mine, sampled), sampled


@torch.no_grad()
def share_liked(policy: Any, tokenizer: Tokenizer) -> float:
    """Mean probability that a response begins with a token that is paid for."""
    logits = [policy(input_ids=torch.tensor([p])).logits[0, -1] for p in tokenizer.prompts(PROMPTS)]
    return float(torch.stack(logits).softmax(-1)[:, :LIKED].sum(-1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["token", "segment", "sequence"])
def test_what_is_paid_for_becomes_likelier(policy: Any, tokenizer: Tokenizer, tmp_path: Path, granularity: str) -> None:
    subject = learner(policy, tokenizer, tmp_path, granularity=granularity)
    for _ in range(12):
        metrics = subject.step(items(tokenizer, 8))
    assert share_liked(subject.networks.policy, tokenizer) > 3 * share_liked(policy, tokenizer)
    assert metrics["kl"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_however_networks_lie_in_memory_they_learn(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, layout: str
) -> None:
    more = {"lr": 2e-2, "value_lr": 1e-2, "lora_rank": 8} if "lora" in layout else {}
    torch.manual_seed(0)  # of the adapters' first weights
    subject = learner(policy, tokenizer, tmp_path, gradient_checkpointing=True, **LAYOUTS[layout], **more)
    batch = Batch.of([(p, [5, 6, 7]) for p in tokenizer.prompts(PROMPTS)], tokenizer.pad_id)

    def value() -> float:
        with torch.no_grad():
            nets = subject.networks
            found = nets.read(batch).values if nets.shared else nets.values(batch)
        assert found is not None
        return float(found.mean())

    assert value() == 0
    with subject.networks.reference() as reference:
        before = share_liked(reference, tokenizer)
    assert before == pytest.approx(share_liked(policy, tokenizer), abs=1e-6)
    for _ in range(12):
        subject.step(items(tokenizer, 8))
    assert share_liked(subject.networks.policy, tokenizer) > 2 * before
    assert value() > 0.2, "the value model learns that more is paid than at first"
    with subject.networks.reference() as reference:
        assert share_liked(reference, tokenizer) == pytest.approx(before, abs=1e-6), "the reference stays"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_policy_that_was_kept_is_the_policy(policy: Any, tokenizer: Tokenizer, tmp_path: Path, layout: str) -> None:
    from tokalign.models.loading import load_policy

    subject = learner(policy, tokenizer, tmp_path, **LAYOUTS[layout])
    subject.step(items(tokenizer))
    subject.networks.save_policy(tmp_path / "kept")
    batch = Batch.of([(p, [5, 6, 7]) for p in tokenizer.prompts(PROMPTS)], tokenizer.pad_id)
    with torch.no_grad():
        expected, reference = subject.networks.read(batch).logprobs, subject.networks.ref_logprobs(batch)
    subject.step(items(tokenizer))  # what was kept is not what it is at the end
    (tmp_path / "out").mkdir()
    subject.networks.export(tmp_path / "kept", tmp_path / "out")
    with torch.no_grad():
        again = response_logprobs(load_policy(tmp_path / "out"), batch).logprobs
    assert torch.allclose(again, expected, atol=1e-5)
    assert not torch.allclose(again, reference, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_saved_is_all_that_changes(policy: Any, tokenizer: Tokenizer, tmp_path: Path, layout: str) -> None:
    def fresh() -> Learner:
        torch.manual_seed(0)  # of the adapters' first weights
        return learner(policy, tokenizer, tmp_path, kl_target=0.5, **LAYOUTS[layout])

    subject, other = fresh(), fresh()
    subject.step(items(tokenizer))
    torch.save(subject.state_dict(), tmp_path / "state.pt")
    expected = [subject.step(items(tokenizer)) for _ in range(2)]
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in expected:
        again = other.step(items(tokenizer))
        assert {k: v for k, v in again.items() if "second" not in k} == {
            k: v for k, v in step.items() if "second" not in k
        }
    assert torch.equal(weights(subject), weights(other))


def test_without_adapters_and_with_untrained_ones_the_first_step_is_the_same(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    whole, lora = (
        learner(policy, tokenizer, tmp_path, **LAYOUTS[name]).step(items(tokenizer)) for name in ("separate", "lora")
    )
    for key in ("reward", "length", "entropy"):
        assert lora[key] == pytest.approx(whole[key], abs=1e-5)


def test_recomputed_activations_change_nothing(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    ends = []
    for checkpointing in (False, True):
        subject = learner(policy, tokenizer, tmp_path, gradient_checkpointing=checkpointing)
        subject.step(items(tokenizer, 2))
        ends.append(weights(subject))
    assert torch.allclose(ends[0], ends[1], atol=1e-6)


def test_half_precision_trains_whole_weights(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    subject = learner(policy, tokenizer, tmp_path, dtype="bfloat16")
    before = weights(subject)
    metrics = subject.step(items(tokenizer, 2))
    assert {p.dtype for p in subject.networks.policy_parameters} == {torch.float32}
    assert not torch.equal(before, weights(subject))
    assert metrics["kl"] == pytest.approx(0, abs=0.5)


def test_a_policy_is_given_out_in_the_precision_that_was_asked_for(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    subject = learner(policy, tokenizer, tmp_path, dtype="bfloat16")
    subject.networks.save_policy(tmp_path / "kept")
    (tmp_path / "out").mkdir()
    subject.networks.export(tmp_path / "kept", tmp_path / "out")
    kept, given = (load_file(tmp_path / name / "model.safetensors") for name in ("kept", "out"))
    assert kept.keys() == given.keys(), "weights that are one are kept once"
    assert {w.dtype for w in kept.values()} == {torch.float32}
    assert {w.dtype for w in given.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_what_adapters_learnt_survives_half_precision(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Changes far smaller than the steps between two numbers of bfloat16 at the size of the weights."""
    from tokalign.models.loading import load_policy

    subject = learner(policy, tokenizer, tmp_path, lora=True, dtype="bfloat16")
    assert subject.networks.adapters is not None
    for weight in subject.networks.policy_parameters:
        torch.nn.init.normal_(weight, std=3e-3)
    subject.networks.save_policy(tmp_path / "kept")
    (tmp_path / "out").mkdir()
    subject.networks.export(tmp_path / "kept", tmp_path / "out")
    batch = Batch.of([(p, [5, 6, 7]) for p in tokenizer.prompts(PROMPTS)], tokenizer.pad_id)

    adapter = load_file(tmp_path / "kept" / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    base, merged = policy.get_submodule(name).weight, load_file(tmp_path / "out" / "model.safetensors")
    change = merged[f"{name}.weight"] - base.detach().bfloat16().float()
    assert torch.allclose(change, b @ a * 2, rtol=1e-3, atol=1e-7), "alpha / rank is 2"
    used = load_policy(tmp_path / "out", "bfloat16", to_use=True)
    assert torch.equal(used.get_submodule(name).base_layer.weight, base.bfloat16()), "what was frozen is as it was"
    # The arithmetic of half precision left aside: what is lost in loading.
    plain = load_policy(tmp_path / "out", "bfloat16")
    models = (load_policy(tmp_path / "out"), used.float(), plain.float())
    with torch.no_grad():
        exact, ours, rounded = (response_logprobs(model, batch).logprobs for model in models)
    assert float((ours - exact).norm()) < 0.1 * float((rounded - exact).norm()), "adapters are rounded, sums are not"


def test_ids_that_the_tokenizer_lacks_are_never_said(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    policy.resize_token_embeddings(tokenizer.size + 12)
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.size :] *= 50
    subject = learner(policy, tokenizer, tmp_path)
    prompts = tokenizer.prompts(PROMPTS) * 4
    sampled = sample(policy, prompts, range(len(prompts)), tokenizer, subject.options)
    assert max(i for s in sampled for i in s.ids) < tokenizer.size
    assert (
        max(i for s in generate(policy, tokenizer.prompts(PROMPTS), [0, 1], tokenizer, subject.options) for i in s.ids)
        < tokenizer.size
    )
    batch = Batch.of([(p, s.ids) for p, s in zip(prompts, sampled, strict=True)], tokenizer.pad_id)
    again = subject.networks.read(batch).logprobs
    for row, s in zip(again.detach(), sampled, strict=True):
        assert s.logprobs is not None
        assert torch.allclose(row[: len(s.ids)], s.logprobs, atol=1e-4)


def test_a_step_does_not_touch_the_reference(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    subject = learner(policy, tokenizer, tmp_path)
    before = weights(subject)
    subject.step(items(tokenizer))
    assert subject.networks.ref_policy is not None
    same = zip(subject.networks.ref_policy.parameters(), policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(before, weights(subject))


@pytest.mark.parametrize("layout", ["separate", "shared"])
def test_microbatches_change_nothing_but_memory(policy: Any, tokenizer: Tokenizer, tmp_path: Path, layout: str) -> None:
    updated = []
    for microbatch in (32, 3):
        subject = learner(
            policy, tokenizer, tmp_path, microbatch=microbatch, epochs=1, minibatches=2, **LAYOUTS[layout]
        )
        # Plain SGD: Adam would blow rounding differences of near-zero gradients up to full steps.
        parameters = [*subject.networks.policy_parameters, *subject.networks.value_parameters]
        subject.optimizer = torch.optim.SGD(parameters, lr=0.1)
        subject.step(items(tokenizer, 4))
        updated.append(weights(subject))
    assert torch.allclose(updated[0], updated[1], atol=1e-5)
    start = torch.cat([p.flatten() for p in policy.parameters()])
    assert (updated[0] - start).abs().max() > 1e-3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        subject = learner(policy, tokenizer, tmp_path)
        for _ in range(2):
            subject.step(items(tokenizer, 4))
        runs.append(weights(subject))
    assert torch.equal(runs[0], runs[1])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_a_high_kl_penalty_holds_the_policy_back(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, estimator: str
) -> None:
    drift = {}
    for kl_coef in (0.0, 5.0):
        subject = learner(policy, tokenizer, tmp_path, kl_coef=kl_coef, kl_estimator=estimator)
        for _ in range(6):
            metrics = subject.step(items(tokenizer, 8))
        drift[kl_coef] = metrics["kl"]
    assert drift[5.0] < 0.5 * drift[0.0]


def test_the_kl_penalty_grows_while_the_kl_is_over_its_target(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    subject = learner(policy, tokenizer, tmp_path, kl_coef=0.1, kl_target=1e-4)
    subject.step(items(tokenizer, 4))
    assert subject.kl_control.kl_coef == pytest.approx(0.08), "nothing has drifted in the first rollout"
    before = subject.kl_control.kl_coef
    metrics = subject.step(items(tokenizer, 4))
    assert metrics["kl"] > 1e-4
    assert metrics["kl_coef"] == before < subject.kl_control.kl_coef == pytest.approx(before * 1.2)


def test_scaling_is_fixed_on_the_first_rollout(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    subject = learner(policy, tokenizer, tmp_path)
    subject.step(items(tokenizer, 8))
    first = subject.scaling
    subject.step(items(tokenizer, 8))
    assert first is not None
    assert subject.scaling is first


def test_with_length_normalise_the_mean_reward_counts(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The same rewards a second time, in responses twice as long, are worth no more."""
    plain = {"missing_eos_penalty": 0.0, "length_guard": 0.0, "centre": False}
    subject = learner(policy, tokenizer, tmp_path, length_normalise=True, **plain)
    subject.step(items(tokenizer, 8))
    found, _ = rollout(subject, items(tokenizer, 8))
    totals = subject._placed_rewards(found).sum(1)
    twice = [torch.cat([x, x], 1) for x in (found.scores[0], found.response_mask)]
    longer = subject._placed_rewards(replace(found, scores=twice[:1], response_mask=twice[1]))
    assert subject.scaling is not None
    expected = found.scores[0].sum(1) / found.response_mask.sum(1) / subject.scaling[0].sigma
    assert torch.allclose(totals, expected, atol=1e-5)
    assert torch.allclose(longer.sum(1), totals, atol=1e-5)
    assert float(totals.std()) > 0.1


def test_unfinished_responses_pay_on_their_last_token(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    subject = learner(policy, tokenizer, tmp_path, missing_eos_penalty=2.0, scale=False, centre=False, max_new_tokens=4)
    found, _ = rollout(subject, items(tokenizer, 8))
    extra = subject._placed_rewards(found) - found.scores[0]
    for row, (finished, (_, ids)) in enumerate(zip(found.finished, found.pairs, strict=True)):
        expected = [0.0] * extra.shape[1]
        if not finished:
            expected[len(ids) - 1] = -2.0
        assert extra[row].tolist() == expected
    assert not all(found.finished)


def test_reward_functions_are_put_on_one_scale_each_and_summed_by_weight(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    subject = learner(policy, tokenizer, tmp_path, centre=True)
    subject.weights = [2.0, -0.5]
    subject.reward_functions = subject.collector.reward_functions = [PaysFor(), PaysFor()]
    found, _ = rollout(subject, items(tokenizer, 8))
    found = replace(found, scores=[found.scores[0], 10 * found.scores[1]])
    rewards = subject._placed_rewards(found)
    mask = found.response_mask
    totals = found.scores[0].sum(1)
    one = torch.where(mask, found.scores[0] - found.scores[0][mask].mean(), 0.0) / totals.std(correction=0)
    assert torch.allclose(rewards, 1.5 * one, atol=1e-5)
    assert subject.scaling is not None
    assert subject.scaling[1].sigma == pytest.approx(10 * subject.scaling[0].sigma)


def test_what_is_paid_beyond_the_first_lengths_is_never_good(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    subject = learner(policy, tokenizer, tmp_path, length_guard=0.5, scale=False, centre=False)
    found, _ = rollout(subject, items(tokenizer, 8))
    subject.first = {"longest": 8.0}
    rewards = subject._placed_rewards(found)
    assert (rewards[:, 4:] <= 0).all()
    assert torch.equal(rewards[:, :4], found.scores[0][:, :4])
    assert (found.scores[0][:, 4:] > 0).any()


@pytest.mark.parametrize("layout", ["separate", "shared"])
def test_logprobs_are_computed_again_when_the_sampler_disagrees(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, layout: str
) -> None:
    subject = learner(policy, tokenizer, tmp_path, **LAYOUTS[layout])
    prompts = items(tokenizer)
    mine, sampled = subject.collector.draw(prompts, range(len(prompts)))
    right = {}
    for i, s in zip(mine, sampled, strict=True):
        assert s.logprobs is not None
        right[i] = s.logprobs.clone()
        s.logprobs.sub_(5e-3)  # more than rounding makes, less than a fault
    found = subject.collector.evaluate(prompts, mine, sampled)
    assert subject.collector.mismatch.reuse is False
    for row, logprobs in right.items():
        assert torch.allclose(found.logprobs[row, : len(logprobs)], logprobs, atol=1e-4)


def test_a_sampler_that_goes_wrong_later_is_found_out_by_the_first_update(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    subject = learner(policy, tokenizer, tmp_path)
    subject.step(items(tokenizer))
    assert subject.collector.mismatch.reuse is True
    honest = subject.collector.sampler

    subject.collector.sampler = off_by(honest, 5e-3)  # more than rounding makes, less than a fault
    subject.step(items(tokenizer))
    assert subject.collector.mismatch.reuse is False


def off_by(sampler: Any, nats: float) -> Any:
    return lambda *args: [replace(s, logprobs=s.logprobs - nats) for s in sampler(*args)]


@pytest.mark.parametrize("reuse", [True, False, None])
def test_a_sampler_that_does_not_follow_the_model_stops_the_run(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, reuse: bool | None
) -> None:
    """On every rollout, whether its log-probabilities serve or are computed again."""
    subject = learner(policy, tokenizer, tmp_path)
    subject.step(items(tokenizer))
    subject.collector.mismatch.reuse = reuse
    subject.collector.sampler = off_by(subject.collector.sampler, 0.2)
    before = [p.clone() for p in subject.networks.policy.parameters()]
    with pytest.raises(TokalignError, match=r"differ from the model's by 0\.2 nats"):
        subject.step(items(tokenizer))
    assert all(torch.equal(a, b) for a, b in zip(before, subject.networks.policy.parameters(), strict=True))


def test_generate_of_transformers_serves_too(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    subject = learner(policy, tokenizer, tmp_path, sampler="generate")
    metrics = subject.step(items(tokenizer))
    assert subject.collector.mismatch.reuse is False
    assert metrics["kl"] == pytest.approx(0, abs=1e-5)


def test_sentences_are_told_by_where_tokens_end(tokenizer: Tokenizer) -> None:
    from tokalign.ppo.rollout import sentences

    text = "Where is it? In the hall. Yes"
    ids = tokenizer.responses([text])[0].ids
    texts, places = tokenizer.located([ids, [tokenizer.eos_id]])
    assert texts == [text, ""]
    (found, empty) = sentences(texts, places)
    for number, (_, end) in zip(found.tolist(), places[0], strict=True):
        assert number == 1 + (end > 12) + (end > 25)
    assert len(empty) == 1


def test_a_reward_reaches_its_sentence_alone() -> None:
    mask = torch.ones(1, 5, dtype=torch.bool)
    ends = rl.segment_ends(torch.tensor([[1, 1, 1, 2, 2]]), mask)
    assert rl.place_rewards(torch.tensor([[0.0, 5.0, 0.0, -1.0, 0.0]]), ends).tolist() == [[0.0, 0.0, 5.0, 0.0, -1.0]]


@pytest.mark.parametrize("layout", ["shared", "lora-shared"])
def test_values_of_the_sampler_are_those_of_the_training_forward(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, layout: str
) -> None:
    subject = learner(policy, tokenizer, tmp_path, **LAYOUTS[layout])
    torch.nn.init.normal_(subject.networks.head.weight)
    first, _ = rollout(subject, items(tokenizer, 4))
    assert subject.collector.mismatch.reuse is True
    second, _ = rollout(subject, items(tokenizer, 4))
    assert second.pairs == first.pairs
    rows = range(len(second.pairs))
    with torch.no_grad():
        read = subject.networks.read(second.batch(rows, tokenizer.pad_id)).values
    assert read is not None
    assert torch.allclose(second.values, read, atol=1e-5)
    assert read.abs().sum() > 0


class PaysBrief:
    """One number a response, as a function gives it: at the last token."""

    name, dense, averaged = "brief", False, False

    def score(self, emitted: Emitted, microbatch: int) -> list[torch.Tensor]:
        return [torch.tensor([0.0] * (len(r) - 1) + [-len(r) / 100]) for _, r in emitted.pairs]


class PaysLate:
    """A reward at every token that, as it happens, is nothing before the last."""

    name, dense, averaged = "late", True, False
    score = PaysBrief.score


def test_a_dense_reward_that_pays_late_at_first_is_centred_all_the_same(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    subject = learner(policy, tokenizer, tmp_path)
    subject.reward_functions = subject.collector.reward_functions = [PaysLate()]
    found, _ = rollout(subject, items(tokenizer, 8))
    subject._placed_rewards(found)
    assert subject.scaling is not None
    assert subject.scaling[0].centre != 0


def test_one_score_a_response_is_not_centred_away(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.eos_id] *= 3  # so that lengths differ
    subject = learner(policy, tokenizer, tmp_path)
    subject.reward_functions = subject.collector.reward_functions = [PaysBrief()]
    found, _ = rollout(subject, items(tokenizer, 8))
    totals = subject._placed_rewards(found).sum(1)
    lengths = found.response_mask.sum(1).float()
    assert lengths.std() > 0.5
    assert float(torch.corrcoef(torch.stack([totals, lengths]))[0, 1]) == pytest.approx(-1, abs=1e-4)


def test_minibatches_are_even_and_hold_every_response_once_an_epoch(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    subject = learner(policy, tokenizer, tmp_path, minibatches=4, epochs=2)
    parts = list(subject._minibatches(10))
    assert [len(rows) for rows, _ in parts] == [2, 3, 2, 3] * 2
    assert sorted(i for rows, _ in parts[:4] for i in rows) == list(range(10))
    assert [fresh for _, fresh in parts] == [True] + [False] * 7


def test_responses_sampled_a_few_at_a_time_are_the_same(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pairs = []
    for size in (0, 3):
        subject = learner(policy, tokenizer, tmp_path, sample_batch=size)
        found, _ = rollout(subject, items(tokenizer, 2))
        pairs.append(found.pairs)
    assert pairs[0] == pairs[1]


class Alike:
    """Finds all responses alike."""

    name = "reward"

    def compare(self, prompts: Any, references: Any, candidates: Any) -> list[Comparison]:
        return [Comparison(1.5) for _ in prompts]

    def describe(self, prompts: Any, responses: Any) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(("penalty", "expected"), [(1.0, [2.0, 1.0, 1.5, 1.5]), (0.0, [1.5] * 4)])
def test_what_does_not_end_loses_where_that_is_charged_for(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, penalty: float, expected: list[float]
) -> None:
    subject = learner(policy, tokenizer, tmp_path, missing_eos_penalty=penalty)
    rows = [PromptRow(id=str(k), prompt=PROMPTS[0]) for k in range(4)]
    alike = UserReward(lambda prompts, texts, places: [1.0] * len(texts), "alike")
    judge = RewardJudge([alike], [1.0], tokenizer, ended_wins=bool(penalty))
    evaluation = PolicyEvaluation(subject.networks, tokenizer, rows, judge, sample)
    ends = [(False, True), (True, False), (True, True), (False, False)]
    evaluation.reference = [Answer(text, end) for text, (end, _) in zip("abcd", ends, strict=True)]
    assert evaluation._verdict([Answer(text, end) for text, (_, end) in zip("ABCD", ends, strict=True)]) == expected


def test_prompts_without_room_are_counted(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    subject = learner(policy, tokenizer, tmp_path, max_length=64)
    rows = [PromptRow(id="short", prompt=PROMPTS[0]), PromptRow(id="long", prompt="Where is it? " * 40)]
    evaluation = PolicyEvaluation(subject.networks, tokenizer, rows, Alike(), sample)
    assert (evaluation.prompts, evaluation.left_out) == ([PROMPTS[0]], 1)
