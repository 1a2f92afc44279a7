"""Tiny models as hubs ship them: tokenizers, chat templates and ends in the style of well-known families."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

TEXTS = ["Name a bird. A bird is a robin. A trout is a fish. Hello, user and assistant. system think stop it now."] * 4

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
THINKING = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{{- m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- else %}{{- '<think>\n' }}{%- endif %}{%- endif %}"
)
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = "{{- 'Today is ' + strftime_now('%d %b %Y') + '.\n' }}" + CHATML
SILENT = "{% for m in messages %}{% if m['role'] == 'user' %}[{{ m['content'] }}]{% endif %}{% endfor %}"


def byte_level(*special: str, vocab: int = 340) -> Tokenizer:
    """A byte-level BPE in which ``special`` have the first ids."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def byte_fallback() -> Tokenizer:
    """As SentencePiece models are: what is not known is spelt by bytes."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    return made


def llama(**shape: Any) -> Callable[[int], PreTrainedConfig]:
    """Configurations of a small Llama by the size of its vocabulary."""
    tiny = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return lambda n: LlamaConfig(vocab_size=n, max_position_embeddings=512, **{**tiny, **shape})


def gpt2(n: int) -> PreTrainedConfig:
    """A model that has learnt a vector for each of 48 places."""
    return GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=2, n_positions=48)


def mamba(n: int) -> PreTrainedConfig:
    """A model that keeps no keys and values."""
    return MambaConfig(vocab_size=n, hidden_size=32, num_hidden_layers=2, state_size=4)


def ship(
    folder: Path,
    tokenizer: Tokenizer,
    template: Any = None,
    config: Callable[[int], PreTrainedConfig] | None = None,
    ends: list[int] | None = None,
    *,
    plain: tuple[str, ...] = (),
    room: int = 0,
    **named: str,
) -> Path:
    """Write a model's folder.

    ``named``: special tokens by name. ``plain``: tokens that stand in ``added_tokens_decoder`` without being flagged
    as special. ``room``: embeddings more than tokens. ``ends``: of the generation config.
    """
    folder.mkdir(parents=True)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    wrapped.chat_template = template
    wrapped.save_pretrained(str(folder))
    if plain:
        file = folder / "tokenizer.json"
        whole = json.loads(file.read_text())
        for token in whole["added_tokens"]:
            token["special"] = token["special"] and token["content"] not in plain
        file.write_text(json.dumps(whole))
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text())
        for token in settings.get("added_tokens_decoder", {}).values():
            token["special"] = token["special"] and token["content"] not in plain
        file.write_text(json.dumps(settings))
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config((config or llama())(len(wrapped) + room))
    made.save_pretrained(str(folder))
    if ends is not None:
        GenerationConfig(eos_token_id=ends, pad_token_id=0).save_pretrained(str(folder))
    return folder


def gemma_like(folder: Path) -> Path:
    """``<end_of_turn>`` ends a turn, stands among the added tokens, has no name and is not flagged as special."""
    tokenizer = byte_level("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    return ship(
        folder, tokenizer, ALTERNATING, ends=[1, 4], plain=("<start_of_turn>", "<end_of_turn>"),
        eos_token="<eos>", bos_token="<bos>", pad_token="<pad>",
    )  # fmt: skip


def chatml(folder: Path, template: Any = CHATML, config: Any = None, **more: Any) -> Path:
    """As Qwen: a template by turns, ended by the EOS token."""
    tokenizer = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    plain = ("<think>", "</think>")
    return ship(
        folder, tokenizer, template, config, [2, 0], plain=plain, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        **more,
    )  # fmt: skip


def add_token(folder: Path, name: str, at: int, special: bool = True) -> None:
    """Give the tokenizer of a folder one more token, whatever the model has room for."""
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text())
    token = AddedToken(name, special=special)
    whole["added_tokens"].append(
        {"id": at, "content": name, "special": special}
        | {key: getattr(token, key) for key in ("single_word", "lstrip", "rstrip", "normalized")}
    )
    whole["model"]["vocab"][name] = at
    file.write_text(json.dumps(whole))
