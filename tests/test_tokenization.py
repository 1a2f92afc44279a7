"""Tokenization is the rollout's: prompts and responses apart, EOS last, offsets that mean characters."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from tokalign.errors import InputError
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer, same_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def test_response_ends_with_eos_at_the_end_of_the_text(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.responses(["The sea shines."])
    assert encoded.ids[-1] == tokenizer.eos_id
    assert encoded.offsets[-1] == (15, 15)
    assert len(encoded.ids) == len(encoded.offsets)


@given(text=TEXT)
def test_tiny_tokenizer_loses_nothing(tokenizer: Tokenizer, text: str) -> None:
    [encoded] = tokenizer.responses([text])
    assert tokenizer.decode(encoded.ids) == text


@given(text=TEXT)
def test_offsets_cover_every_character(tokenizer: Tokenizer, text: str) -> None:
    [encoded] = tokenizer.responses([text])
    covered = {i for start, end in encoded.offsets for i in range(start, end)}
    assert covered == set(range(len(text)))


def test_special_token_in_a_response_stays_text(tokenizer: Tokenizer) -> None:
    [encoded] = tokenizer.responses(["stop<|end|>go"])
    assert encoded.ids.count(tokenizer.eos_id) == 1
    assert tokenizer.decode(encoded.ids) == "stop<|end|>go"


def test_prompt_goes_through_the_chat_template(tokenizer: Tokenizer) -> None:
    assert tokenizer.render("Hi") == "<|user|>Hi<|assistant|>"
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "So"},
    ]
    assert tokenizer.render(turns) == "<|user|>Hi<|assistant|>Yes?<|user|>So<|assistant|>"
    [ids] = tokenizer.prompts(["Hi"])
    assert tokenizer.pieces(ids)[0] == "<|user|>"


def test_prompt_without_a_chat_template_uses_the_plain_one(tokenizer: Tokenizer) -> None:
    plain = train_tiny(["a b c"], 300)
    plain.hf_tokenizer.chat_template = None
    assert plain.render("Hi") == "User: Hi\n\nAssistant:\n"
    [ids] = plain.prompts(["Hi"])
    assert plain.hf_tokenizer.decode(ids) == "User: Hi\n\nAssistant:\n"


def test_training_is_deterministic() -> None:
    texts = ["the sea and the night", "a map of the city"]
    assert same_tokenizer(train_tiny(texts, 320), train_tiny(texts, 320))
    assert not same_tokenizer(train_tiny(texts, 320), train_tiny(["other words entirely"], 320))


def test_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert same_tokenizer(tokenizer, loaded)
    assert loaded.render("Hi") == tokenizer.render("Hi")


def test_tokenizer_without_eos_is_refused() -> None:
    raw = Backend(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match="no EOS token"):
        Tokenizer(PreTrainedTokenizerFast(tokenizer_object=raw), "words")


def test_missing_tokenizer_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError) as e:
        Tokenizer.load(tmp_path / "nowhere")
    assert "hub id" in e.value.remedy


def test_nothing_in_nothing_out(tokenizer: Any) -> None:
    assert tokenizer.prompts([]) == []
    assert tokenizer.responses([]) == []


def test_a_tokenizer_that_cuts_and_pads_by_itself_does_neither_here(tokenizer: Tokenizer) -> None:
    texts = ["The sea is deep and wide and old.", "Yes."]
    whole = tokenizer.responses(texts)
    cutting = Tokenizer(copy.deepcopy(tokenizer.hf_tokenizer), "cutting")
    cutting.hf_tokenizer.backend_tokenizer.enable_truncation(2)
    cutting.hf_tokenizer.backend_tokenizer.enable_padding(length=64)
    assert cutting.responses(texts) == whole
    assert len(whole[0].ids) > 3


def test_what_closes_an_answer_ends_it_if_the_model_says_so(tmp_path: Path) -> None:
    """As instruction models of Gemma and Phi: EOS ends documents, another token ends a turn."""
    tokenizer = train_tiny(["a b c"], 300)
    tokenizer.hf_tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.hf_tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}<turn>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    tokenizer.hf_tokenizer.save_pretrained(tmp_path)
    document, turn = tokenizer.hf_tokenizer.convert_tokens_to_ids(["<|end|>", "<turn>"])
    assert Tokenizer.load(tmp_path).eos_id == document, "no model says that it ends there"
    GenerationConfig(eos_token_id=[document, turn]).save_pretrained(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eos_id, loaded.ends) == (turn, sorted([document, turn]))
    assert loaded.responses(["a"])[0].ids[-1] == turn
    loaded.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").eos_id == turn, "a reward model made with it, which has no such list"


def test_a_prompt_that_the_template_refuses_is_bad_input() -> None:
    tokenizer = train_tiny(["a b c"], 300)
    tokenizer.hf_tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(InputError, match=r"no system turns.*be brief"):
        tokenizer.render([{"role": "system", "content": "be brief"}])
