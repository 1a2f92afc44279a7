"""Folders that peft writes, adapters without their base model, as models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests import models as shipped
from tests.forked import run
from tokalign.data import dataset
from tokalign.errors import InputError
from tokalign.models import loading
from tokalign.models.tokenizer import Tokenizer

LAYERS = ["q_proj", "v_proj", "down_proj"]
KINDS: dict[str, Any] = {
    "LoRA": LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS, task_type="CAUSAL_LM"),
    "rank-stabilised": LoraConfig(r=4, use_rslora=True, target_modules=LAYERS, rank_pattern={"v_proj": 2}),
    "DoRA": LoraConfig(r=4, use_dora=True, target_modules=LAYERS),
    "embeddings": LoraConfig(r=4, target_modules=[*LAYERS, "embed_tokens"]),
    "IA3": IA3Config(target_modules=["v_proj"], feedforward_modules=[]),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shipped.chatml(tmp_path / "base")
    return tmp_path / "cache" / "tokalign" / "merged"


def adapted(config: Any, auto: Any = AutoModelForCausalLM, **kwargs: Any) -> Any:
    """Random adapters on the base model, saved in the folder ``adapters``."""
    torch.manual_seed(1)
    model = get_peft_model(auto.from_pretrained("base", **kwargs), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained("adapters")
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_model_that_peft_computes(kind: str) -> None:
    model, ids = adapted(KINDS[kind]), torch.arange(12)[None]
    with torch.no_grad():
        theirs, base = model(ids).logits, AutoModelForCausalLM.from_pretrained("base")(ids).logits
        assert torch.allclose(loading.load_policy("adapters")(ids).logits, theirs, atol=1e-4)
    assert not torch.allclose(base, theirs, atol=1e-2)


def test_in_half_precision_the_adapters_stay_apart() -> None:
    adapted(KINDS["LoRA"])
    ids = torch.arange(12)[None]
    base = AutoModelForCausalLM.from_pretrained("base", dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, "adapters")
    with torch.no_grad():
        ours = loading.load_policy("adapters", "bfloat16", to_use=True)
        assert torch.allclose(ours(ids).logits, model.to(torch.bfloat16)(ids).logits, atol=0.02)
    assert any("lora_A" in name for name, _ in ours.named_parameters())


def test_its_own_tokenizer_comes_before_the_base_models() -> None:
    adapted(KINDS["LoRA"])
    assert Tokenizer.load("adapters").hf_tokenizer.chat_template == shipped.CHATML
    own = AutoTokenizer.from_pretrained("base")
    own.chat_template = shipped.CHATML.replace("assistant", "bot")
    own.save_pretrained("adapters")
    assert Tokenizer.load("adapters").hf_tokenizer.chat_template == own.chat_template


def test_another_base_model_is_another_model() -> None:
    adapted(KINDS["LoRA"])
    before, ids = dataset.model_lineage("adapters")["sha256"], torch.arange(12)[None]
    with torch.no_grad():
        first = loading.load_policy("adapters")(ids).logits
        model = AutoModelForCausalLM.from_pretrained("base")
        model.model.embed_tokens.weight.mul_(2)
        model.save_pretrained("changed")
        AutoTokenizer.from_pretrained("base").save_pretrained("changed")
        _set("base_model_name_or_path", "changed")
        assert not torch.allclose(loading.load_policy("adapters")(ids).logits, first)
    assert dataset.model_lineage("adapters")["sha256"] != before


@pytest.mark.slow
def test_commands_take_it(tmp_path: Path) -> None:
    """A policy that is sampled and judged, and a reward model of one output with its trained head."""
    adapted(KINDS["LoRA"])
    Path("adapters").rename("policy")
    reward = adapted(
        LoraConfig(r=4, target_modules=LAYERS, task_type="SEQ_CLS"), AutoModelForSequenceClassification, num_labels=1
    )
    Path("adapters").rename("reward")
    Path("prompts.txt").write_text("Hello.\nHow are you?\n")
    judge = ("--judge", "reward", "--reward-model", "reward", "--max-new-tokens", "4", "--device", "cpu")
    sides = ("--reference", "base", "--candidate", "tuned=policy")
    done = run(tmp_path, "eval-winrate", "--prompts", "prompts.txt", *sides, *judge, "--out", "won")
    assert done.returncode == 0, done.stderr
    assert "merged with its base model" in done.stderr

    rows = [json.loads(line) for line in Path("won/responses/tuned/data.jsonl").read_text().splitlines()]
    done = run(tmp_path, "score", "won/responses/tuned", "--reward-model", "reward", "--device", "cpu", "--out", "s")
    assert done.returncode == 0, done.stderr
    scored = {(r := json.loads(line))["prompt"]: r for line in Path("s/data.jsonl").read_text().splitlines()}
    tokenizer = Tokenizer.load("base")
    for row in rows:
        ids = tokenizer.responses([row["response"]])[0].ids[: None if row["finished"] else -1]
        text = tokenizer.prompts([row["prompt"]])[0] + ids
        with torch.no_grad():
            theirs = float(reward(torch.tensor([text])).logits[0, 0])
        assert scored[row["prompt"]]["score_sum"] == pytest.approx(theirs, abs=1e-4)


def _set(field: str, value: Any) -> None:
    file = Path("adapters/adapter_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "junk": (lambda: Path("adapters/adapter_config.json").write_text("{"), "adapter_config.json"),
    "no base": (lambda: _set("base_model_name_or_path", None), "name no base model"),
    "lost base": (lambda: _set("base_model_name_or_path", "runs/old/sft"), "no base model at 'runs/old/sft'"),
    "pickle": (lambda: Path("adapters/adapter_model.safetensors").rename("adapters/adapter_model.bin"), "safetensors"),
    "cut": (lambda: Path("adapters/adapter_model.safetensors").write_bytes(b"\0" * 20), "safetensors"),
    "other layers": (lambda: _set("target_modules", ["nowhere"]), "cannot merge"),
    "other rank": (lambda: _set("r", 7), "cannot merge"),
}


@pytest.mark.parametrize("damage", BAD)
def test_a_damaged_one_is_refused_and_leaves_nothing(cache: Path, tmp_path: Path, damage: str) -> None:
    adapted(KINDS["LoRA"])
    change, said = BAD[damage]
    change()
    done = run(tmp_path, "generate", "--prompt", "Hi", "--policy", "adapters", "--out", "g")
    assert done.returncode == 5, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("g").exists()
    assert not [p for p in cache.glob("*") if p.is_dir()]


def test_adapters_of_a_reward_model_without_a_task_are_refused() -> None:
    adapted(
        LoraConfig(r=4, target_modules=LAYERS, task_type="SEQ_CLS"), AutoModelForSequenceClassification, num_labels=1
    )
    _set("task_type", None)
    with pytest.raises(InputError, match="task_type"):
        loading.load_policy("adapters")


def test_adapters_that_cannot_be_merged_are_refused() -> None:
    adapted(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(InputError, match="cannot merge"):
        loading.load_policy("adapters")
