"""Who pays: reward models of other tokenizers, several at once, functions of one's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.test_models import shuffled
from tokalign.artifacts.schemas import Answer
from tokalign.config.methods import PpoOptions
from tokalign.errors import InputError, UsageError
from tokalign.judges.reward import RewardJudge
from tokalign.models import loading, reward_functions
from tokalign.models.reward import RewardModel
from tokalign.models.reward_functions import Emitted, ModelReward, UserReward
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo import rewards
from tokalign.ppo.networks import Networks

PROMPTS = ["Where is the map?", "Tell me about osmosis."]
TEXTS = ["It is in the hall, I think.", "Osmosis is water moving 🦊 through a membrane."]


@pytest.fixture
def other() -> Tokenizer:
    """A tokenizer that cuts otherwise."""
    return train_tiny(["water moving through the hall is osmosis", "a membrane, I think"] * 5, 330)


@pytest.fixture
def emitted(tokenizer: Tokenizer) -> Emitted:
    ids = [r.ids for r in tokenizer.responses(TEXTS)]
    ids[1] = ids[1][:-1]  # one that never ended
    return Emitted(PROMPTS, list(zip(tokenizer.prompts(PROMPTS), ids, strict=True)), [True, False], tokenizer)


def model_of(tokenizer: Tokenizer, level: str) -> RewardModel:
    return RewardModel(shuffled(loading.new_tiny_classifier(tokenizer, 0, 256, level)), tokenizer, level)


def test_ids_are_found_in_their_text_however_it_is_spelt(tokenizer: Tokenizer) -> None:
    usual = tokenizer.responses(TEXTS)
    texts, places = tokenizer.located([r.ids for r in usual])
    assert texts == TEXTS
    assert places == [r.offsets for r in usual]
    by_letter = [i for letter in "hall" for i in tokenizer.responses([letter])[0].ids[:-1]]
    assert len(by_letter) == 4
    texts, places = tokenizer.located([[*by_letter, tokenizer.eos_id], [tokenizer.eos_id]])
    assert texts == ["hall", ""]
    assert places == [[(0, 1), (1, 2), (2, 3), (3, 4), (4, 4)], [(0, 0)]]


def test_a_character_of_several_tokens_is_found_where_it_ends(tokenizer: Tokenizer) -> None:
    ids = tokenizer.responses(["a🦊b"])[0].ids
    letters = [tokenizer.responses([c])[0].ids[:-1] for c in ("a", "🦊", "b")]
    spelt = [i for letter in letters for i in letter]
    assert len(letters[1]) > 1
    (text,), (places,) = tokenizer.located([[*spelt, tokenizer.eos_id]])
    assert text == "a🦊b"
    assert [end for _, end in places] == [1] + [1] * (len(letters[1]) - 1) + [2, 3, 3] or ids == [
        *spelt,
        tokenizer.eos_id,
    ]


def test_a_model_with_the_policys_tokenizer_pays_what_it_says(tokenizer: Tokenizer, emitted: Emitted) -> None:
    model = model_of(tokenizer, "token")
    paid = ModelReward(model, "rm", foreign=False).score(emitted, 8)
    for got, expected in zip(paid, model.rate(emitted.pairs).rewards, strict=True):
        assert torch.equal(got, expected)
    # Carried over to the same tokens, nothing changes.
    for got, expected in zip(ModelReward(model, "rm", foreign=True).score(emitted, 8), paid, strict=True):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_model_with_another_tokenizer_pays_as_much_in_all(other: Tokenizer, emitted: Emitted, level: str) -> None:
    model = model_of(other, level)
    paid = ModelReward(model, "rm", foreign=True).score(emitted, 8)
    own = [r.ids for r in other.responses(TEXTS)]
    own[1] = own[1][:-1]
    rated = model.rate(list(zip(other.prompts(PROMPTS), own, strict=True)))
    for got, total, (_, ids) in zip(paid, rated.sums, emitted.pairs, strict=True):
        assert len(got) == len(ids)
        assert float(got.sum()) == pytest.approx(total, abs=1e-4)
        if level == "sequence":
            assert not got[:-1].any()


def test_an_empty_response_without_an_end_is_paid_nothing(tokenizer: Tokenizer, other: Tokenizer) -> None:
    special = tokenizer.hf_tokenizer.convert_tokens_to_ids("<|user|>")
    odd = Emitted(PROMPTS[:1], [(tokenizer.prompts(PROMPTS[:1])[0], [special])], [False], tokenizer)
    assert ModelReward(model_of(other, "token"), "rm", foreign=True).score(odd, 8)[0].tolist() == [0.0]


def test_a_function_pays_for_tokens_or_for_the_whole(emitted: Emitted) -> None:
    def both(prompts: Any, responses: Any, offsets: Any) -> list[Any]:
        assert prompts == PROMPTS
        return [[float(e - s) for s, e in offsets[0]], -len(responses[1])]

    first, second = UserReward(both, "both").score(emitted, 8)
    assert float(first.sum()) == len(TEXTS[0])
    assert second[-1] == -len(TEXTS[1])
    assert not second[:-1].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [([1.0], "1 rewards for 2"), ([[1.0, 2.0], 1.0], "2 numbers for the"),
     ([float("nan"), 1.0], "returned nan for response 0"), (["good", 1.0], "returned 'good' for response 0")],
)  # fmt: skip
def test_what_is_no_reward_is_refused(emitted: Emitted, given: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        UserReward(lambda *_: given, "mine:f").score(emitted, 8)


def test_reward_functions_are_loaded_by_what_they_are(
    policy: Any, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rewards.py").write_text(
        "def brief(prompts, responses, offsets):\n    return [0] * len(responses)\n"
    )
    policy.save_pretrained("policy")
    tokenizer.save(tmp_path / "policy")
    for level in ("token", "sequence"):
        model_of(tokenizer, level).model.save_pretrained(level)
        tokenizer.save(tmp_path / level)

    def load(*sources: str, **options: Any) -> list[reward_functions.RewardFunction]:
        networks = Networks("policy", PpoOptions(**options), torch.device("cpu"), tokenizer)
        return rewards.load(sources, tokenizer, networks)

    found = load("token", "sequence", "my_rewards:brief")
    assert [(p.name, p.dense) for p in found] == [("token", True), ("sequence", False), ("my_rewards:brief", None)]
    assert reward_functions.lineage("my_rewards:brief")["kind"] == "function"
    before = reward_functions.lineage("my_rewards:brief")["sha256"]
    with pytest.raises(UsageError, match="one score per response"):
        load("sequence")
    assert load("sequence", granularity="sequence")
    for wrong, message in (("my_rewards:none", "cannot import"), ("nowhere.at:all", "cannot import")):
        with pytest.raises(InputError, match=message):
            reward_functions.lineage(wrong)
    (tmp_path / "my_rewards.py").write_text(
        "def brief(prompts, responses, offsets):\n    return [1] * len(responses)\n"
    )
    assert reward_functions.lineage("my_rewards:brief")["sha256"] != before


def said(texts: list[str]) -> list[Answer]:
    return [Answer(text) for text in texts]


def test_the_reward_judge_weighs_means_and_sums(tokenizer: Tokenizer) -> None:
    model = model_of(tokenizer, "token")
    prices = UserReward(lambda p, r, o: [len(text) for text in r], "length")
    judge = RewardJudge([ModelReward(model, "rm", foreign=False), prices], [2.0, 0.5], tokenizer)
    rated = model.rate(
        [(p, r.ids) for p, r in zip(tokenizer.prompts(PROMPTS), tokenizer.responses(TEXTS), strict=True)]
    )
    means, lengths = judge._scores(PROMPTS, said(TEXTS))
    assert means == pytest.approx(rated.means)
    assert lengths == [float(len(text)) for text in TEXTS]
    same = judge.compare(PROMPTS, said(TEXTS), said(TEXTS))
    assert [c.preference for c in same] == [1.5, 1.5]
    only = RewardJudge([prices], [-1.0], tokenizer)
    longer = [text + " Yes." for text in TEXTS]
    assert [c.preference for c in only.compare(PROMPTS, said(TEXTS), said(longer))] == [1.0, 1.0]


def test_several_reward_functions_are_weighed_on_the_scale_of_their_own_spread(tokenizer: Tokenizer) -> None:
    """A payer of dollars and one of cents say as much."""
    words = UserReward(lambda p, r, o: [len(text.split()) for text in r], "words")
    letters = UserReward(lambda p, r, o: [1000.0 * len(text.split()) for text in r], "thousands")
    judge = RewardJudge([words, letters], [1.0, -1.0], tokenizer)
    longer = [text + " Yes." for text in TEXTS]
    assert [c.preference for c in judge.compare(PROMPTS, said(TEXTS), said(longer))] == [1.5, 1.5]


def test_a_function_may_give_tensors_with_a_graph(emitted: Emitted) -> None:
    weight = torch.ones(1, requires_grad=True)
    paid = UserReward(lambda p, r, o: [weight * len(text) for text in r], "mine:f").score(emitted, 8)
    assert [float(p[-1].detach()) for p in paid] == [float(len(text)) for text in TEXTS]
    assert not any(p.requires_grad for p in paid)


def test_a_callable_object_is_known_by_the_file_it_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_partial.py").write_text(
        "from functools import partial\nbrief = partial(lambda n, p, r, o: [n] * len(r), 2)\n"
    )
    assert reward_functions.lineage("my_partial:brief")["sha256"]


def test_another_chat_template_is_another_reading(tokenizer: Tokenizer, policy: Any, tmp_path: Path) -> None:
    """A reward model reads the prompt as it was trained to, though it cuts words as the policy does."""
    for folder, template in (
        ("same", tokenizer.hf_tokenizer.chat_template),
        ("other", "{{ messages[0]['content'] }}!"),
    ):
        model_of(tokenizer, "token").model.save_pretrained(tmp_path / folder)
        tokenizer.save(tmp_path / folder)
        (tmp_path / folder / "chat_template.jinja").write_text(template)
    policy.save_pretrained(tmp_path / "policy")
    sources = [str(tmp_path / name) for name in ("same", "other")]
    networks = Networks(str(tmp_path / "policy"), PpoOptions(), torch.device("cpu"), tokenizer)
    found = rewards.load(sources, tokenizer, networks)
    assert [p.foreign for p in found if isinstance(p, ModelReward)] == [False, True]


def test_a_prompt_that_does_not_fit_a_models_places_loses_its_beginning(tokenizer: Tokenizer) -> None:
    """As many as BERT and its like have learnt a vector for."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForSequenceClassification(
        BertConfig(vocab_size=tokenizer.size, max_position_embeddings=24, num_labels=1, **sizes)
    ).eval()
    model = RewardModel(bert, tokenizer, "sequence")
    prompt, response = list(range(5, 35)), [7, 8, 9, tokenizer.eos_id]
    assert model.rate([(prompt, response)]).sums == model.rate([(prompt[-20:], response)]).sums
    with pytest.raises(InputError, match="a response has 30 tokens, but the reward model reads at most 24"):
        model.rate([([5], prompt)])


def test_a_classifier_without_its_head_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Its head would be made up, and pay noise."""
    from safetensors.torch import load_file, save_file

    model_of(tokenizer, "sequence").model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["v_head.weight"] = weights.pop("score.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"has no weights 'score\.weight'"):
        RewardModel.load(tmp_path)


def test_a_damaged_model_is_an_error_of_the_input(policy: Any, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot load a model"):
        loading.load_policy(tmp_path)


@given(st.lists(st.integers(5, 499), min_size=1, max_size=60))
def test_places_read_off_a_few_tokens_at_a_time_are_those_of_the_whole(tokenizer: Tokenizer, ids: list[int]) -> None:
    heads = [tokenizer.hf_tokenizer.decode(ids[: n + 1], skip_special_tokens=True) for n in range(len(ids))]
    whole = tokenizer.decode(ids)
    ends, so_far = [], 0
    for head in heads:
        so_far = max(so_far, min(len(head.rstrip("\ufffd")), len(whole)))
        ends.append(so_far)
    assert [end for _, end in tokenizer.decoder.places(ids, len(whole))] == ends
