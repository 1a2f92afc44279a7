"""Models in GGUF files: dequantised once, and then as any other."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests import models as shipped
from tests.conftest import ROOT
from tests.forked import run
from tokalign.errors import InputError
from tokalign.models import converted, loading
from tokalign.models.tokenizer import Tokenizer

HEADS, WIDTH, LAYERS = 4, 32, 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "tokalign" / "gguf"


def folders(cache: Path) -> list[Path]:
    """Models and what is left of others; a lock is neither."""
    return [p for p in cache.glob("*") if p.is_dir()] + [p for p in cache.glob(".*") if p.is_dir()]


def rotated(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows of queries and keys in the order in which llama.cpp keeps them."""
    return weight.reshape(HEADS, 2, WIDTH // HEADS // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def written(path: Path, leave_out: str = "-", parts: int = 1, blocks: int = LAYERS) -> LlamaForCausalLM:
    """A small Llama with a byte-level tokenizer, written to a GGUF file as llama.cpp's converter does.

    Tensors whose name begins with ``leave_out`` are left out.
    """
    from gguf import GGUFWriter, TokenType

    backend = shipped.byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    spec = json.loads(backend.to_str())
    vocab = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, tie_word_embeddings=True, rms_norm_eps=1e-5,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    torch.nn.init.normal_(model.model.embed_tokens.weight)
    out = GGUFWriter(str(path), "llama")
    out.add_context_length(256)
    out.add_embedding_length(WIDTH)
    out.add_block_count(blocks)
    if parts > 1:
        out.add_uint16("split.count", parts)
    out.add_feed_forward_length(64)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_vocab_size(len(vocab))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list([token for token, _ in vocab])
    out.add_token_types([TokenType.CONTROL if token.startswith("<|") else TokenType.NORMAL for token, _ in vocab])
    out.add_token_merges([" ".join(merge) for merge in spec["model"]["merges"]])
    ids = dict(vocab)
    out.add_bos_token_id(ids["<|im_start|>"])
    out.add_eos_token_id(ids["<|im_end|>"])
    out.add_chat_template(TEMPLATE)
    for name, weight in model.state_dict().items():
        place = name.removeprefix("model.").removesuffix(".weight").split(".")
        array = weight.numpy()
        if place[0] == "layers":
            inner = ".".join(place[2:])
            array = rotated(array) if inner in ("self_attn.q_proj", "self_attn.k_proj") else array
            inner = f"blk.{place[1]}.{NAMES[inner]}.weight"
            if not inner.startswith(leave_out):
                out.add_tensor(inner, array)
        elif place != ["lm_head"]:
            out.add_tensor({"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[place[0]], array)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return model


@torch.no_grad()
def test_a_file_is_the_model_and_the_tokenizer_that_were_written_to_it(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = written(Path("m.gguf"))
    loaded, ids = loading.load_policy("m.gguf"), torch.arange(12)[None]
    assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)
    assert "dequantised to float32" in capsys.readouterr().err
    tokenizer = Tokenizer.load("m.gguf")
    text = "Grüße, a plain sentence <|im_end|> with a mark."
    (response,) = tokenizer.responses([text])
    assert tokenizer.decode(response.ids) == text
    assert tokenizer.render("Hi") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert len(folders(cache)) == 1, "converted once, and nothing else is left"
    assert not capsys.readouterr().err


def test_a_name_is_not_needed_and_another_file_is_another_model(cache: Path) -> None:
    written(Path("m.gguf")).save_pretrained("plain")
    Path("m.gguf").rename("blob")
    first = converted.folder_of("blob")
    with Path("blob").open("ab") as f:
        f.write(b"\0" * 32)
    assert converted.folder_of("blob") != first
    assert converted.folder_of("plain") == "plain"
    assert converted.folder_of("owner/name") == "owner/name"
    assert len(folders(cache)) == 2


@pytest.mark.parametrize("damage", ["junk", "cut", "absent", "layer missing", "one of two", "a million layers"])
def test_what_is_no_gguf_is_refused_and_leaves_nothing(cache: Path, tmp_path: Path, damage: str) -> None:
    if damage == "cut":
        written(Path("m.gguf"))
        Path("m.gguf").write_bytes(Path("m.gguf").read_bytes()[:3000])
    if damage == "layer missing":
        written(Path("m.gguf"), leave_out="blk.1.")
    if damage == "one of two":
        written(Path("m.gguf"), parts=2)
    if damage == "a million layers":
        written(Path("m.gguf"), blocks=1_000_000)
    if damage == "junk":
        Path("m.gguf").write_bytes(b"not a model at all")
    done = run(tmp_path, "generate", "--prompt", "Hi", "--policy", "m.gguf", "--out", "g")
    assert done.returncode == 5
    assert "m.gguf" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("g").exists()
    assert not folders(cache)


def test_what_lies_beside_the_file_is_not_read(cache: Path) -> None:
    model = written(Path("m.gguf"))
    Path("adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/nowhere"}))
    Path("config.json").write_text("{}")
    (cache / "rest").mkdir(parents=True)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.allclose(loading.load_policy("m.gguf")(ids).logits, model(ids).logits, atol=1e-5)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    written(Path("m.gguf"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match="needs the package gguf"):
        converted.folder_of("m.gguf")


@pytest.mark.slow
def test_what_is_trained_from_it_is_a_model_folder(tmp_path: Path) -> None:
    written(Path("m.gguf"))
    data = str(ROOT / "data" / "sft")
    small = ("--limit", "8", "--steps", "1", "--batch-size", "4", "--max-length", "256", "--device", "cpu")
    done = run(tmp_path, "train-sft", data, "--model", "m.gguf", *small, "--out", "sft")
    assert done.returncode == 0, done.stderr
    inputs = {i["name"]: i for i in json.loads(Path("sft/manifest.json").read_text())["inputs"]}
    assert inputs["model"]["path"].endswith("m.gguf")
    assert "quantization_config" not in json.loads(Path("sft/config.json").read_text())
    assert AutoModelForCausalLM.from_pretrained("sft").dtype == torch.float32
    label = run(tmp_path, "diff", str(ROOT / "data" / "edits"), "--tokenizer", "m.gguf", "--limit", "8", "--out", "l")
    assert label.returncode == 0, label.stderr
    trained = run(tmp_path, "train-rm", "l", "--model", "m.gguf", "--level", "token", *small[2:], "--out", "rm")
    assert trained.returncode == 0, trained.stderr
