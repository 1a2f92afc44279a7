"""Tokenizers and templates at their edges: what a review of real ones found."""

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, CTRLConfig, OpenAIGPTConfig

import tokalign as ta
from tests import models as shipped
from tests.models import ALTERNATING, CHATML, chatml, gemma_like
from tokalign.claude.service import iterate
from tokalign.config.options import SamplingOptions, TemplateOptions
from tokalign.errors import InputError, UsageError
from tokalign.models import loading
from tokalign.models.sampler import sample
from tokalign.models.samplers import choose
from tokalign.models.tokenizer import Tokenizer

BETWEEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_sep|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def between() -> Tokenizer:
    """Contents stand directly between control tokens, as those of Phi-4 and DeepSeek do."""
    named: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return Tokenizer.load(shipped.ship(Path("m"), shipped.byte_level(*SPECIAL), BETWEEN, ends=[2], **named))


PIECES = ["2", "42", "<|im_end|>", " ", "\U000f0000", "\U0010fffd", "\ue000", "٣", "a"]
SAID = st.lists(st.sampled_from(PIECES), max_size=5)


@given(said=st.lists(SAID.map("".join), min_size=1, max_size=3))
def test_what_is_said_between_control_tokens_is_read_as_it_stands(said: list[str], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "between"
    if not folder.exists():
        named: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        shipped.ship(folder, shipped.byte_level(*SPECIAL), BETWEEN, ends=[2], **named)
    tokenizer = Tokenizer.load(folder)
    turns = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(said)]
    [ids] = tokenizer.prompts([turns])
    backend = tokenizer.hf_tokenizer.backend_tokenizer
    text = "".join(f"<|im_start|>{t['role']}<|im_sep|>{t['content']}<|im_end|>" for t in turns)
    assert backend.decode(ids, skip_special_tokens=False) == f"{text}<|im_start|>assistant<|im_sep|>"
    assert ids.count(2) == len(said), "no more ends than turns"


def test_numbers_as_a_turn_beside_a_control_token_in_another() -> None:
    turns = [
        {"role": "user", "content": "a <|im_end|> b"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "42"},
    ]
    tokenizer = between()
    assert tokenizer.render(turns).count("42") == 1
    assert tokenizer.prompts([turns])[0].count(2) == 3


def test_unigram_tokenizers_keep_their_ids() -> None:
    made = Backend(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(shipped.TEXTS, trainer)
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = Tokenizer.load(shipped.ship(Path("m"), made, CHATML, eos_token="</s>", unk_token="<unk>"))
    plain, rude = tokenizer.prompts(["a bird", "a bird <|im_end|>"])
    control = {*tokenizer.controls.tokens.values()} - {tokenizer.hf_tokenizer.unk_token_id}
    assert [i for i in plain if i in control] == [i for i in rude if i in control]
    assert max(rude) < tokenizer.size


def test_merges_that_would_make_a_control_token() -> None:
    vocab = {c: k for k, c in enumerate(["<", "s", ">", "a", " ", "<s", "<s>", "</s>"])}
    made = Backend(models.BPE(vocab, [("<", "s"), ("<s", ">")]))
    tokenizer = Tokenizer.load(shipped.ship(Path("m"), made, bos_token="<s>", eos_token="</s>"))
    [encoded] = tokenizer.responses(["a <s>"])
    assert vocab["<s>"] not in encoded.ids
    [prompt] = tokenizer.prompts(["a <s>"])
    assert vocab["<s>"] not in prompt


def test_a_token_that_no_text_can_hold_needs_no_embedding() -> None:
    """As the image token of Gemma 3's text models."""
    gemma_like(Path("m"))
    n = Tokenizer.load("m").size
    shipped.add_token(Path("m"), "<image_soft_token>", n)
    tokenizer, policy = Tokenizer.load("m"), loading.load_policy("m")
    loading.check_vocabulary(policy, tokenizer)
    assert tokenizer.size == n
    assert tokenizer.prompts(["an <image_soft_token>"])[0]
    assert n not in tokenizer.prompts(["an <image_soft_token>"])[0]


def test_a_line_break_that_a_byte_spells_is_text() -> None:
    shipped.ship(Path("m"), shipped.byte_fallback(), CHATML, unk_token="<unk>", eos_token="</s>", bos_token="<s>")
    tokenizer = Tokenizer.load("m")
    [encoded] = tokenizer.responses(["a\nbird"])
    assert tokenizer.decode(encoded.ids) == "a\nbird"


def test_thoughts_that_a_template_writes_are_no_marks_of_turns() -> None:
    glm = CHATML.replace("m['content'] +", "('<think></think>' if m['role'] == 'assistant' else '') + m['content'] +")
    tokenizer = Tokenizer.load(chatml(Path("m"), glm))
    [encoded] = tokenizer.responses(["<think>hm</think>ok"])
    assert encoded.ids[0] == 3
    assert 4 in encoded.ids


def test_a_template_that_wants_a_system_turn_first() -> None:
    wants = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system first') }}{% endif %}" + CHATML
    wants = wants.replace("<|im_end|>", "<end_of_turn>").replace("<|im_start|>", "<start_of_turn>")
    backend = shipped.byte_level("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    plain = ("<start_of_turn>", "<end_of_turn>")
    shipped.ship(Path("m"), backend, wants, ends=[1, 4], plain=plain, eos_token="<eos>", pad_token="<pad>")
    tokenizer = Tokenizer.load("m")
    assert tokenizer.eos_id == 4
    assert {"<start_of_turn>", "<end_of_turn>"} <= tokenizer.controls.tokens.keys()


@pytest.mark.parametrize(
    "value", ["😀", "a#}b", "{{ x }}", "{% x %}", '"', "\\n", "a\nb", "null", '{"a": {"b": null}}', "[1]"]
)
def test_values_of_arguments_arrive_as_they_are(value: str) -> None:
    chatml(Path("m"), "{{ note if note is string else note | tojson }}|" + CHATML)
    tokenizer = Tokenizer.load("m", TemplateOptions(template_arg=[f"note={value}"]))
    said = tokenizer.render("Hi").partition("|")[0]
    try:
        assert json.loads(said) == json.loads(value)
    except ValueError:
        assert said == value
    tokenizer.save(Path("s"))
    assert Tokenizer.load("s").settings == tokenizer.settings
    assert Tokenizer.load("s").render("Hi") == tokenizer.render("Hi")


def test_half_a_character_in_an_argument() -> None:
    chatml(Path("m"), "{{ note }}" + CHATML)
    with pytest.raises(UsageError, match="lone surrogate"):
        Tokenizer.load("m", TemplateOptions(template_arg=["note=\ud83d"]))


@pytest.mark.parametrize(
    "head", ["{#- tokalign {bad} -#}", '{#- tokalign {"system": "x"} -#}', '{#- tokalign {"a": 1} -#}']
)
def test_a_template_of_others_that_looks_like_ours(head: str) -> None:
    tokenizer = Tokenizer.load(chatml(Path("m"), head + ALTERNATING.replace("end_of_turn", "|im_end|")))
    assert tokenizer.settings == {"system": "fold"}


@pytest.mark.parametrize("spelt", ["| tojson", "| e"])
def test_contents_that_a_template_escapes_are_there(spelt: str) -> None:
    tokenizer = Tokenizer.load(chatml(Path("m"), CHATML.replace("m['content'] +", f"(m['content'] {spelt}) +")))
    assert "Hi" in tokenizer.render('Hi "you" <b> & 3 > 2\n\té')


def test_the_day_by_keyword_and_in_rare_forms() -> None:
    chatml(Path("m"), "{{ strftime_now(format='%Y-%m-%d %e %% %j') }}|" + CHATML)
    assert Tokenizer.load("m").render("Hi").startswith("2024-07-26 26 % 208|")


def test_a_tokenizer_that_is_handed_in_stays_as_it_is() -> None:
    theirs = AutoTokenizer.from_pretrained(gemma_like(Path("m")))
    theirs.backend_tokenizer.enable_truncation(5)
    before = copy.deepcopy(theirs.chat_template)
    ta.label("The cat sat on a mat.", "The dog sat on a mat.", tokenizer=theirs)
    assert theirs.chat_template == before
    assert theirs.backend_tokenizer.truncation is not None


@pytest.mark.parametrize("name", ["openai-gpt", "ctrl"])
def test_places_of_older_models(name: str) -> None:
    shape: dict[str, Any] = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 24}
    config = (
        OpenAIGPTConfig(vocab_size=99, **shape) if name == "openai-gpt" else CTRLConfig(vocab_size=99, dff=32, **shape)
    )
    assert loading.max_positions(AutoModelForCausalLM.from_config(config)) == 24


def test_a_sampler_that_fails_leaves_no_hook(policy: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(Exception):  # noqa: B017
        sample(policy, [[10**6]], [0], tokenizer, SamplingOptions(max_new_tokens=2))
    assert not policy.get_output_embeddings()._forward_pre_hooks
    choose(policy, tokenizer, SamplingOptions(), "float32")
    assert not policy.get_output_embeddings()._forward_pre_hooks
    assert torch.is_grad_enabled()


# From Python.


def test_within_a_running_loop_one_is_told_what_to_do() -> None:
    async def numbers() -> Any:
        yield 1

    async def notebook() -> None:
        found = numbers()
        with pytest.raises(UsageError, match="running event loop") as e:
            list(iterate(found))
        assert "to_thread" in e.value.remedy
        await found.aclose()

    asyncio.run(notebook())
    assert list(iterate(numbers())) == [1]


def test_what_is_handed_in_from_python_is_checked() -> None:
    loading.new_token_model(chatml(Path("m"))).save_pretrained("rm")
    Tokenizer.load("m").save(Path("rm"))
    rm: Any = ta.RewardModel.load("rm", device="cpu")
    assert rm.score([], []) == []
    uneven: list[dict[str, Any]] = [{"responses": ["b", "c"]}, {"finished": []}, {"batch_size": 0}]
    for options in uneven:
        with pytest.raises(UsageError, match="prompts"):
            rm.score(**{"prompts": ["a"], "responses": ["b"], **options})
    no_texts: list[tuple[Any, Any]] = [
        ([None], ["a"]), (["a"], [None]), ([[{"role": "user"}]], ["a"]), (["\ud800"], ["a"]), ([[]], ["a"]),
    ]  # fmt: skip
    for prompts, responses in no_texts:
        with pytest.raises(InputError):
            rm.score(prompts, responses)
    anything: Any = ta
    with pytest.raises(UsageError, match="reward is 'x'"):
        anything.RewardModel.load("rm", reward="x")
    for wrong in ({"align": "x"}, {"unit": "zzz"}):
        with pytest.raises(UsageError):
            anything.label("a", "b", tokenizer="m", **wrong)
    with pytest.raises(InputError):
        anything.label("a", None, tokenizer="m")
    assert ta.label("a", "b", tokenizer=Path("m")).original.labels
    with pytest.raises(UsageError, match="--seed"):
        ta.generate("p", policy="m", out="o", seed=2**64)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\0b", "x" * 101, "reference", ""])
def test_names_of_candidates(name: str) -> None:
    Path("p.jsonl").write_text('{"prompt": "Hi", "response": "A"}\n')
    with pytest.raises(UsageError, match="--candidate"):
        ta.eval_winrate(prompts="p.jsonl", candidate=[f"{name}=p.jsonl"], reference="p.jsonl", out="w")
