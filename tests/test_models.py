"""Models: the one shift between logits and tokens, sampling, scoring. Oracles take one row at a time, unpadded."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokalign.config.options import SamplingOptions
from tokalign.errors import InputError, TokalignError
from tokalign.models import loading, sampler
from tokalign.models.batch import PASS, Batch, by_length
from tokalign.models.draw import draw
from tokalign.models.policy import response_logprobs, response_values
from tokalign.models.reward import RewardModel
from tokalign.models.sampler import Sampled, new_seeds, respond, sample
from tokalign.models.samplers import generate
from tokalign.models.tokenizer import Tokenizer

PAIRS = [([5, 6, 7], [8, 9, 10, 11, 1]), ([5, 9], [12, 1]), ([7, 7, 7, 7, 8, 9], [30]), ([3], [40, 41, 42, 1])]


def drawn_from(
    policy: Any, prompts: list[list[int]], tokenizer: Tokenizer, seed: int = 0, **options: Any
) -> list[Sampled]:
    seeds = new_seeds(len(prompts), torch.Generator().manual_seed(seed))
    return sample(policy, prompts, seeds, tokenizer, SamplingOptions(**options))


def known(sampled: Sampled) -> torch.Tensor:
    assert sampled.logprobs is not None
    return sampled.logprobs


def shuffled(model: Any, seed: int = 3) -> Any:
    """Random heads, so that a zero head hides nothing."""
    torch.manual_seed(seed)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_one_row_at_a_time(policy: Any, temperature: float) -> None:
    got = response_logprobs(policy, Batch.of(PAIRS, pad_id=0), temperature, entropy=True)
    assert got.entropy is not None
    for row, (prompt, response) in enumerate(PAIRS):
        ids = torch.tensor([prompt + response])
        logits = policy(input_ids=ids).logits[0] / temperature
        for t, token in enumerate(response):
            # The token at index p was emitted by the logits at index p - 1.
            dist = torch.distributions.Categorical(logits=logits[len(prompt) + t - 1])
            assert got.logprobs[row, t].item() == pytest.approx(dist.log_prob(torch.tensor(token)).item(), abs=1e-5)
            assert got.entropy[row, t].item() == pytest.approx(dist.entropy().item(), abs=1e-4)
    mask = Batch.of(PAIRS, pad_id=0).response_mask
    assert (got.logprobs[~mask] == 0).all()


def test_what_pads_does_not_matter(policy: Any) -> None:
    a = response_logprobs(policy, Batch.of(PAIRS, pad_id=0)).logprobs
    b = response_logprobs(policy, Batch.of(PAIRS, pad_id=99)).logprobs
    assert torch.equal(a, b)


def test_value_is_of_the_state_before_the_token(tokenizer: Tokenizer, policy: Any, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    model = shuffled(loading.new_value_model(tmp_path))
    got = response_values(model, Batch.of(PAIRS, pad_id=0))
    for row, (prompt, response) in enumerate(PAIRS):
        for t in range(len(response)):
            seen = torch.tensor([prompt + response[:t]])
            assert got[row, t].item() == pytest.approx(model(input_ids=seen).logits[0, -1, 0].item(), abs=1e-4)


def test_fresh_value_and_reward_heads_start_at_zero(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    assert not response_values(loading.new_value_model(tmp_path), Batch.of(PAIRS, pad_id=0)).any()
    ratings = RewardModel(loading.new_token_model(tmp_path), tokenizer, "token").rate(PAIRS)
    assert all(not r.any() for r in ratings.rewards)


def test_sampler_logprobs_equal_the_training_forward(policy: Any, tokenizer: Tokenizer) -> None:
    prompts = tokenizer.prompts(
        ["Describe the sea with a simile.", "Where is the map?", "How do I light the stove? Go on."]
    )
    drawn = drawn_from(policy, prompts * 3, tokenizer, max_new_tokens=24, temperature=0.9)
    pairs = [(p, s.ids) for p, s in zip(prompts * 3, drawn, strict=True)]
    again = response_logprobs(policy, Batch.of(pairs, tokenizer.pad_id), 0.9).logprobs
    for row, s in enumerate(drawn):
        assert torch.allclose(again[row, : len(s.ids)], known(s), atol=1e-4)


def test_the_output_layer_reads_one_state_a_row_in_one_piece(policy: Any, tokenizer: Tokenizer) -> None:
    """A view of longer rows would make PyTorch copy the layer's weights once a row."""
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        handle = policy.get_output_embeddings().register_forward_hook(lambda _, args, __: seen.append(args[0]))
        drawn_from(policy, [[5, 6, 7, 8], [9, 10]], tokenizer, max_new_tokens=3)
        handle.remove()
    assert len(seen) >= 3
    assert all(x.is_contiguous() and x.shape[1] == 1 for x in seen)


def test_greedy_sampling_equals_hugging_face_generate(policy: Any, tokenizer: Tokenizer) -> None:
    prompts = tokenizer.prompts(["Describe the sea with a simile.", "Where is the map?"])
    drawn = drawn_from(policy, prompts, tokenizer, max_new_tokens=12, temperature=0)
    for prompt, s in zip(prompts, drawn, strict=True):
        ids = torch.tensor([prompt])
        out = policy.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert out[0, len(prompt) :].tolist() == s.ids


def test_rows_end_at_eos_and_leave_the_batch(policy: Any, tokenizer: Tokenizer) -> None:
    # A head that loves EOS: rows end at different times, so the batch shrinks on the way.
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.eos_id] *= 3
    prompts = tokenizer.prompts([f"Where is the map {i}?" for i in range(40)])
    drawn = drawn_from(policy, prompts, tokenizer, seed=1, max_new_tokens=30)
    assert {s.finished for s in drawn} == {True, False} or len({len(s.ids) for s in drawn}) > 3
    for s in drawn:
        assert s.finished == (s.ids[-1] == tokenizer.eos_id)
        assert tokenizer.eos_id not in s.ids[:-1]
        assert s.finished or len(s.ids) == 30
    pairs = [(p, s.ids) for p, s in zip(prompts, drawn, strict=True)]
    again = response_logprobs(policy, Batch.of(pairs, tokenizer.pad_id)).logprobs
    for row, s in enumerate(drawn):
        assert torch.allclose(again[row, : len(s.ids)], known(s), atol=1e-4)


def test_top_p_never_draws_from_the_tail(policy: Any, tokenizer: Tokenizer) -> None:
    prompts = tokenizer.prompts(["Where is the map?"]) * 64
    logits = policy(input_ids=torch.tensor(prompts[:1])).logits[0, -1]
    probs, order = logits.softmax(-1).sort(descending=True)
    allowed, total = set(), 0.0
    for p, i in zip(probs.tolist(), order.tolist(), strict=True):
        if total >= 0.3:
            break
        allowed.add(i)
        total += p
    drawn = drawn_from(policy, prompts, tokenizer, seed=2, max_new_tokens=1, top_p=0.3)
    assert {s.ids[0] for s in drawn} <= allowed
    assert len({s.ids[0] for s in drawn}) > 1


def test_tokens_are_drawn_as_often_as_they_are_likely(policy: Any, tokenizer: Tokenizer) -> None:
    prompts = tokenizer.prompts(["Where is the map?"]) * 4000
    probs = policy(input_ids=torch.tensor(prompts[:1])).logits[0, -1].softmax(-1)
    drawn = torch.tensor([s.ids[0] for s in drawn_from(policy, prompts, tokenizer, max_new_tokens=1)])
    counts = drawn.bincount(minlength=len(probs)).double()
    common = probs * 4000 >= 5
    expected = probs.double() * 4000
    statistic = float(((counts - expected) ** 2 / expected)[common].sum())
    freedom = int(common.sum())
    assert freedom > 20
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5, "chi-squared, four standard deviations"


def test_a_response_is_the_same_in_whatever_company_it_is_drawn(policy: Any, tokenizer: Tokenizer) -> None:
    prompts = tokenizer.prompts([f"Where is map {i}? {'Please. ' * (i % 5)}" for i in range(12)])
    options = SamplingOptions(max_new_tokens=16)
    seeds = new_seeds(12, torch.Generator().manual_seed(3))
    together = respond(policy, tokenizer, prompts, options, seeds, batch_size=12)
    assert respond(policy, tokenizer, prompts, options, seeds, batch_size=5) == together
    assert respond(policy, tokenizer, prompts[:4], options, seeds[:4], batch_size=4) == together[:4]
    assert respond(policy, tokenizer, prompts, options, seeds[::-1], batch_size=12) != together


def test_generate_of_transformers_draws_the_same_where_nothing_is_left_to_chance(
    policy: Any, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.eos_id] *= 3
    prompts = tokenizer.prompts(
        ["Describe the sea with a simile.", "Where is the map?", "Tell me about osmosis. Go on."]
    )
    options = SamplingOptions(max_new_tokens=12, temperature=0)
    theirs = generate(policy, prompts, [1, 2, 3], tokenizer, options)
    ours = sample(policy, prompts, [1, 2, 3], tokenizer, options)
    assert [(s.ids, s.finished) for s in theirs] == [(s.ids, s.finished) for s in ours]
    policy.generation_config.repetition_penalty = 5.0  # what a model ships for its use
    again = generate(policy, prompts, [1, 2, 3], tokenizer, options)
    assert [s.ids for s in again] == [s.ids for s in theirs]
    assert policy.generation_config.repetition_penalty == 5.0
    uniforms = [
        generate(policy, prompts, seeds, tokenizer, SamplingOptions(max_new_tokens=12))
        for seeds in ([5, 6, 7], [5, 6, 7], [8])
    ]
    assert uniforms[0] == uniforms[1] != uniforms[2]
    assert all(s.logprobs is None for s in uniforms[0])


def test_token_rewards_equal_one_row_at_a_time(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    model = shuffled(loading.new_token_model(tmp_path))
    ratings = RewardModel(model, tokenizer, "token").rate(PAIRS, microbatch=3)
    discrete = RewardModel(model, tokenizer, "token", "discrete").rate(PAIRS, microbatch=2)
    for i, (prompt, response) in enumerate(PAIRS):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) :]
        bad, _, good = logits.exp().div(logits.exp().sum(-1, keepdim=True)).T  # softmax once, by hand
        assert torch.allclose(ratings.rewards[i], good - bad, atol=1e-5)
        assert discrete.rewards[i].tolist() == [float(row.argmax()) - 1 for row in logits]
    assert ratings.means == [pytest.approx(float(r.mean())) for r in ratings.rewards]


def test_sequence_score_is_read_at_eos_even_if_it_is_the_padding_token(policy: Any, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    model = shuffled(loading.new_sequence_model(tmp_path))
    tiny = type("Pads", (), {"pad_id": 1})()  # EOS is 1 in PAIRS
    scores = RewardModel(model, tiny, "sequence").rate(PAIRS).sums
    for score, (prompt, response) in zip(scores, PAIRS, strict=True):
        hidden = model.model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0, -1]
        assert score == pytest.approx(model.score(hidden).item(), abs=1e-4)


def test_reward_stands_on_the_last_token_of_a_sequence_model(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    ratings = RewardModel(shuffled(loading.new_sequence_model(tmp_path)), tokenizer, "sequence").rate(PAIRS)
    for (_, response), reward in zip(PAIRS, ratings.rewards, strict=True):
        assert len(reward) == len(response)
        assert not reward[:-1].any()
        assert reward[-1] != 0


def test_models_of_other_shapes_are_refused(policy: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(InputError, match="but a reward model needs"):
        RewardModel.load(tmp_path)
    with pytest.raises(InputError, match="no reward model"):
        RewardModel.load(tmp_path / "nowhere")


def test_dropout_is_off_in_new_models(policy: Any, tmp_path: Path) -> None:
    policy.config.classifier_dropout = 0.5
    policy.save_pretrained(tmp_path)
    model = loading.new_token_model(tmp_path)
    assert all(m.p == 0 for m in model.modules() if isinstance(m, torch.nn.Dropout))


def test_even_groups_hold_every_index_once_and_similar_lengths_together() -> None:
    assert by_length([3, 9, 1, 8, 2], 2, even=True) == [[1, 3], [0, 4], [2]]


@given(st.lists(st.integers(1, 600), max_size=9), st.integers(1, 5))
def test_groups_are_the_cheapest_that_there_are(lengths: list[int], size: int) -> None:
    groups = by_length(lengths, size)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) <= size for group in groups)

    def cost(cuts: list[list[int]]) -> int:
        return sum(len(group) * max(lengths[i] for i in group) + PASS for group in cuts)

    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    found = cost(groups)
    for places in product([False, True], repeat=max(len(order) - 1, 0)):
        cuts = [[i] for i in order[:1]]
        for i, new in zip(order[1:], places, strict=True):
            if new:
                cuts.append([i])
            else:
                cuts[-1].append(i)
        if all(len(group) <= size for group in cuts):
            assert found <= cost(cuts)


def test_any_of_a_models_ends_ends_a_response(policy: Any, tokenizer: Tokenizer) -> None:
    other = Tokenizer(tokenizer.hf_tokenizer, "ends", [tokenizer.eos_id, 7, 8, 9])
    prompts = tokenizer.prompts([f"Where is the map {i}?" for i in range(40)])
    with torch.no_grad():
        policy.lm_head.weight[[7, 8]] *= 3
    for sampler_ in (sample, generate):
        drawn = sampler_(policy, prompts, list(range(40)), other, SamplingOptions(max_new_tokens=30))
        assert {s.ids[-1] for s in drawn if s.finished} & {7, 8}
        for s in drawn:
            assert s.finished == (s.ids[-1] in other.ends)
            assert not {*s.ids[:-1]} & {*other.ends}


def test_a_policy_with_learnt_places_refuses_what_is_longer(tokenizer: Tokenizer) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=tokenizer.size, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    assert loading.max_positions(gpt2) == 32
    prompts = [[5] * 10]
    assert len(respond(gpt2, tokenizer, prompts, SamplingOptions(max_new_tokens=22), [0], 1)) == 1
    with pytest.raises(InputError, match="at most 32 tokens, but a prompt has 10 and --max-new-tokens is 23"):
        respond(gpt2, tokenizer, prompts, SamplingOptions(max_new_tokens=23), [0], 1)


@pytest.mark.parametrize("size", [3, 255, 256, 257, 1000, 40_000])
@pytest.mark.parametrize("top_p", [1.0, 0.3])
def test_a_draw_is_that_of_the_whole_cumulative_distribution(size: int, top_p: float) -> None:
    torch.manual_seed(size)
    logits, uniforms = 3 * torch.randn(32, size), torch.rand(32)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-24])
    logits[2, : size // 2] = logits[3, -1] = -torch.inf
    logp = (logits.double() / 0.7).log_softmax(-1)
    probs = logp.exp()
    if top_p < 1:
        ranked, order = probs.sort(-1, descending=True)
        ranked[ranked.cumsum(-1) - ranked >= top_p] = 0
        probs = torch.zeros_like(probs).scatter(-1, order, ranked)
    ends = probs.cumsum(-1)
    expected = torch.searchsorted(ends, uniforms.double()[:, None] * ends[:, -1:], right=True)
    expected = expected.minimum((probs > 0).cumsum(1).argmax(1, keepdim=True))  # rounding alone passes the last
    tokens, scores = draw(logits.clone(), 0.7, top_p, uniforms)
    assert (tokens[:, None] != expected).sum() <= 1, "rounding may decide between neighbours"
    assert (probs.gather(1, tokens[:, None]) > 0).all()
    assert torch.allclose(scores.double(), logp.gather(1, tokens[:, None]).squeeze(1), atol=2e-6)
    best, score = draw(logits.clone(), 0.0, 1.0, uniforms)
    assert (best == logits.argmax(-1)).all()
    assert torch.allclose(score, logits.log_softmax(-1).max(-1).values, atol=1e-5)


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_prompt_that_occurs_several_times_is_read_once(
    policy: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, dropped: int
) -> None:
    first, second = tokenizer.prompts(["Where is the map?", "What is it, and where? Say both."])
    prompts = [first, second, first, first, second][dropped:]
    options, seeds = SamplingOptions(max_new_tokens=12), list(range(len(prompts)))
    head = torch.nn.Linear(policy.config.hidden_size, 1)
    alone = [sample(policy, [p], [s], tokenizer, options, head)[0] for p, s in zip(prompts, seeds, strict=True)]
    read: list[tuple[int, ...]] = []
    forward = policy.forward

    def watched(**given: Any) -> Any:
        read.append(tuple(given["input_ids"].shape))
        return forward(**given)

    monkeypatch.setattr(policy, "forward", watched)
    together = sample(policy, prompts, seeds, tokenizer, options, head)
    assert read[0] == (2, len(second))
    assert read[1][0] == len(prompts)
    assert [s.ids for s in together] == [s.ids for s in alone]
    for ours, expected in zip(together, alone, strict=True):
        for found, wanted in ((ours.logprobs, expected.logprobs), (ours.values, expected.values)):
            assert found is not None
            assert wanted is not None
            assert torch.allclose(found, wanted, atol=1e-5)


def test_first_tokens_that_all_prompts_share_are_read_once(
    policy: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning = "Please tell me, and take your time, in which town and in which house "
    prompts = tokenizer.prompts(
        [beginning + rest for rest in ("it is.", "the map is, and where.", "we are?", "it is.")]
    )
    same = sampler.shared_prefix([tuple(p) for p in prompts])
    assert same == max(k for k in range(len(min(prompts, key=len))) if len({tuple(p[:k]) for p in prompts}) == 1)
    assert same >= sampler.PREFIX
    options, seeds = SamplingOptions(max_new_tokens=12), list(range(4))
    alone = [sample(policy, [p], [s], tokenizer, options)[0] for p, s in zip(prompts, seeds, strict=True)]
    read: list[tuple[int, ...]] = []
    forward = policy.forward

    def watched(**given: Any) -> Any:
        read.append(tuple(given["input_ids"].shape))
        return forward(**given)

    monkeypatch.setattr(policy, "forward", watched)
    together = sample(policy, prompts, seeds, tokenizer, options)
    assert read[:2] == [(1, same), (3, max(map(len, prompts)) - same)]
    assert [s.ids for s in together] == [s.ids for s in alone]
    for ours, expected in zip(together, alone, strict=True):
        assert ours.logprobs is not None
        assert expected.logprobs is not None
        assert torch.allclose(ours.logprobs, expected.logprobs, atol=1e-5)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_shared_prefix_leaves_a_token_of_every_row(rows: list[list[int]]) -> None:
    expected = max(k for k in range(min(map(len, rows))) if all(r[:k] == rows[0][:k] for r in rows))
    assert sampler.shared_prefix([tuple(r) for r in rows]) == expected


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_and_no_traceback(
    policy: Any, tokenizer: Tokenizer, wrong: float
) -> None:
    torch.nn.init.constant_(policy.get_output_embeddings().weight, wrong)
    with pytest.raises(TokalignError, match="not finite"):
        sample(policy, tokenizer.prompts(["Hi"]), [0], tokenizer, SamplingOptions(max_new_tokens=2))
