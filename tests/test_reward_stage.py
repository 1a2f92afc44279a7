"""Reward models on any backbone: trained, saved as others load them, measured, and read on any tokenizer."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
)

from tests.conftest import ROOT
from tests.test_diff_stage import CODECS
from tests.texts import TEXT
from tokalign.artifacts.schemas import TokenLabels
from tokalign.config.stages import ScoreConfig, TrainRmConfig
from tokalign.core.diff import AlignOptions, words
from tokalign.errors import InputError
from tokalign.models import reward_metrics
from tokalign.models.batch import room
from tokalign.models.heads import Headed
from tokalign.models.loading import new_token_model
from tokalign.models.reward import RewardModel
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer
from tokalign.stages import reward, score

pytestmark = pytest.mark.slow
LABELS = str(ROOT / "data" / "labels")


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.load(Path(LABELS) / "tokenizer")


def small(tokenizer: Tokenizer, name: str) -> Any:
    """A config of an architecture, sized for tests."""
    size: dict[str, Any] = {"vocab_size": len(tokenizer.hf_tokenizer), "hidden_size": 32, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 2, "pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.eos_id}
    return {
        "llama": lambda: LlamaConfig(**size, intermediate_size=64),
        "opt": lambda: OPTConfig(**size, ffn_dim=64, word_embed_proj_dim=16, max_position_embeddings=512),
        "gemma3": lambda: Gemma3TextConfig(**size, intermediate_size=64, num_key_value_heads=1, head_dim=16),
        "bert": lambda: BertConfig(**size, intermediate_size=64),
    }[name]()


def backbone(folder: Path, tokenizer: Tokenizer, name: str) -> str:
    torch.manual_seed(0)
    AutoModel.from_config(small(tokenizer, name)).save_pretrained(folder)
    tokenizer.save(folder)
    return str(folder)


def train(out: Path, **options: Any) -> dict[str, Any]:
    shape: dict[str, Any] = {"model": "tiny", "level": "token", "limit": 60, "steps": 3, "batch_size": 8, "lr": 1e-3}
    made = reward.run(TrainRmConfig(labels=LABELS, out=out, quiet=True, device="cpu", **{**shape, **options}))
    return dict(made.stats)


def labels(n: int) -> list[TokenLabels]:
    from tokalign.artifacts.manifest import open_artifact
    from tokalign.artifacts.token_labels import read_labels

    return read_labels(open_artifact(Path(LABELS)), n)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("name", ["llama", "opt", "gemma3", "bert"])
def test_any_backbone_is_trained_saved_and_read_again(tmp_path: Path, ours: Tokenizer, name: str, level: str) -> None:
    model = backbone(tmp_path / "base", ours, name)
    stats = train(tmp_path / "rm", model=model, level=level, max_length=256)
    assert stats["edited_over_original"]["pairs"] > 0
    loaded = RewardModel.load(tmp_path / "rm")
    assert loaded.level == level
    rows = labels(4)
    ratings = loaded.rate([(r.prompt_ids, r.edited_ids) for r in rows])
    assert [len(r) for r in ratings.rewards] == [len(r.edited_ids) for r in rows]
    told = rewards_by_the_card(tmp_path / "rm", rows[0].prompt[0]["content"], rows[0].edited)
    assert told == pytest.approx(ratings.rewards[0].tolist() if level == "token" else [ratings.sums[0]], abs=1e-5)
    # As others load it: by its Auto class, or base and head where there is none.
    ids = torch.tensor([rows[0].prompt_ids + rows[0].edited_ids])
    if isinstance(loaded.model, Headed):
        base = AutoModel.from_pretrained(tmp_path / "rm")
        head = load_file(tmp_path / "rm" / "model.safetensors")["score.weight"]
        logits = base(input_ids=ids).last_hidden_state @ head.T
        assert torch.allclose(logits, loaded.model(input_ids=ids).logits, atol=1e-5)
        assert "Headed.from_pretrained" in (tmp_path / "rm" / "README.md").read_text()
    else:
        auto = AutoModelForTokenClassification if level == "token" else AutoModelForSequenceClassification
        assert auto.__name__ in (tmp_path / "rm" / "README.md").read_text()
        theirs = auto.from_pretrained(tmp_path / "rm").eval()
        assert torch.allclose(theirs(input_ids=ids).logits, loaded.model(input_ids=ids).logits, atol=1e-5)


def rewards_by_the_card(folder: Path, prompt: str, response: str) -> list[float]:
    """What the lines of a model card make of a text."""
    transformers, tokalign = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"THIS": str(folder), "PROMPT": prompt, "RESPONSE": response}
    exec(transformers, names)
    exec(tokalign, names)
    found = [float(r) for r in (names["rewards"] if "rewards" in names else names["score"].reshape(-1))]
    tokens = [t.reward for t in names["scored"].tokens]
    assert found == pytest.approx(tokens if "rewards" in names else tokens[-1:], abs=1e-5)
    return found


def test_a_base_alone_and_a_language_model_give_the_same_body(tmp_path: Path, ours: Tokenizer) -> None:
    torch.manual_seed(0)
    whole = LlamaForCausalLM(small(ours, "llama"))
    whole.save_pretrained(tmp_path / "whole")
    whole.model.save_pretrained(tmp_path / "base")
    one, two = (new_token_model(tmp_path / name).model.state_dict() for name in ("whole", "base"))
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_adapters_are_kept_and_merged(tmp_path: Path, ours: Tokenizer, level: str) -> None:
    model = backbone(tmp_path / "base", ours, "llama")
    train(tmp_path / "rm", model=model, level=level, lora=True, lora_rank=4, lr=1e-2, patience=2)
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("base", "rm"))
    layer = "layers.0.mlp.up_proj.weight"
    change = after[f"model.{layer}"] - before[layer]
    assert 0 < torch.linalg.matrix_rank(change, rtol=1e-3) <= 4, "a change of the adapters' rank"
    assert torch.equal(after["model.embed_tokens.weight"], before["embed_tokens.weight"]), "the rest is as it was"
    adapter = load_file(tmp_path / "rm" / "adapter" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.model.layers.0.mlp.up_proj.lora_{x}.weight"] for x in "AB")
    assert torch.allclose(change, 32 / 4 * b @ a, atol=1e-5)
    assert RewardModel.load(tmp_path / "rm").level == level


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("where", ["in the middle", "after the last step"])
def test_a_run_that_was_cut_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, lora: bool
) -> None:
    options: dict[str, Any] = {"lora": lora, "steps": 6, "save_every": 2, "lr": 1e-2, "patience": 5, "eval_every": 2}
    train(tmp_path / "whole", **options)

    class CutError(Exception):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise CutError

    with monkeypatch.context() as patch:
        if where == "in the middle":
            looks = iter([{"accuracy": 0.5, "loss": 1.0}])
            patch.setattr(reward_metrics, "quick", lambda *_, **__: next(looks))  # the second look finds nothing
        else:
            patch.setattr(reward_metrics, "evaluate", die)
        with pytest.raises((CutError, StopIteration, RuntimeError)):
            train(tmp_path / "cut", **options)
    if where == "in the middle":  # what that look said was made up
        for name in ("best.json", "best.safetensors"):
            (tmp_path / "cut" / "checkpoints" / name).unlink()
    assert not (tmp_path / "cut" / "manifest.json").exists()
    assert train(tmp_path / "cut", **options)["steps"] == 6
    one, two = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "cut"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_time_that_is_over_ends_the_run_and_more_time_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"steps": 6, "lr": 1e-2}
    assert "stopped" not in train(tmp_path / "whole", **options)
    for minutes, steps in ((1e-6, 1), (2e-6, 1), (0.0, 6)):
        stats = train(tmp_path / "cut", **options, max_minutes=minutes)
        assert stats["steps"] == steps
        assert stats.get("stopped") == (f"--max-minutes {minutes:g}" if minutes else None)
    one, two = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "cut"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(reward_metrics, "evaluate", None)
        train(tmp_path / "interrupted", **options)
    assert train(tmp_path / "interrupted", **options, max_minutes=1e-6)["steps"] == 6, "it had finished its steps"
    early = train(tmp_path / "early", **options, max_minutes=1e-6, patience=3)
    assert early["best_step"] == early["steps"] == 1, "there is a best model even before the first evaluation"


def test_the_best_weights_are_kept_when_accuracy_stops_rising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([(0.5, 1.0), (0.9, 1.0), (0.9, 0.5), (0.9, 0.6), (0.4, 0.1), (1.0, 0.0)])
    seen: list[float] = []

    def quick(model: RewardModel, *_: Any, **__: Any) -> dict[str, float]:
        seen.append(float(model.model.score.weight.detach().sum()))
        accuracy, loss = next(script)
        return {"accuracy": accuracy, "loss": loss}

    monkeypatch.setattr(reward_metrics, "quick", quick)
    stats = train(tmp_path / "rm", steps=40, eval_every=2, patience=2)
    assert (stats["steps"], stats["best_step"]) == (10, 6), (
        "equal accuracy, lower loss; then two looks without a better"
    )
    kept = float(RewardModel.load(tmp_path / "rm").model.score.weight.detach().sum())
    assert kept == pytest.approx(seen[2])
    assert kept != pytest.approx(seen[4])
    log = [json.loads(line) for line in (tmp_path / "rm" / "metrics.jsonl").read_text().splitlines()]
    assert [row["heldout_accuracy"] for row in log if "heldout_accuracy" in row] == [0.5, 0.9, 0.9, 0.9, 0.4]


def test_a_soft_neutral_is_never_called_neutral(tmp_path: Path) -> None:
    stats = train(tmp_path / "rm", neutral="soft", steps=12, lr=3e-3)
    assert stats["classes"]["neutral"]["recall"] < 0.05


def test_half_precision_gives_a_half_precision_model(tmp_path: Path) -> None:
    train(tmp_path / "rm", dtype="bfloat16")
    assert {t.dtype for t in load_file(tmp_path / "rm" / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(tmp_path / "rm").dtype == torch.bfloat16
    with pytest.raises(InputError, match="float16 training requires a GPU"):
        train(tmp_path / "half", dtype="float16")


def test_checkpointed_activations_change_nothing(tmp_path: Path) -> None:
    train(tmp_path / "a"), train(tmp_path / "b", gradient_checkpointing=True)
    one, two = (load_file(tmp_path / f / "model.safetensors") for f in "ab")
    assert all(torch.allclose(one[k], two[k], atol=1e-6) for k in one)


def test_a_prompt_that_is_too_long_can_be_cut(tmp_path: Path) -> None:
    whole, cut = (
        reward.run(
            TrainRmConfig(
                labels=LABELS, out=tmp_path / str(on), quiet=True, device="cpu", model="tiny", level="token",
                limit=60, steps=1, max_length=100, cut_prompts=on,
            )
        )
        for on in (False, True)
    )  # fmt: skip
    assert whole is not None
    assert cut is not None
    fits = sum(max(len(r.original_ids), len(r.edited_ids)) < 100 for r in labels(60))
    assert whole.rows["out"] < cut.rows["out"] <= fits
    assert whole.rows["reasons"]["over --max-length"] == 60 - whole.rows["out"]


# Metrics.


class Knowing:
    """Stands for a model that has learnt the labels by heart, but for some kinds of flaw."""

    def __init__(self, tokenizer: Tokenizer, rows: list[TokenLabels], blind: str = "") -> None:
        self.tokenizer = tokenizer
        self.labels: dict[tuple[int, ...], list[int]] = {}
        for r in rows:
            for ids, marks, spans in (
                (r.original_ids, r.original_labels, r.original_spans),
                (r.edited_ids, r.edited_labels, r.edited_spans),
            ):
                kinds = [r.categories[s - 1] if 0 < s <= len(r.categories) else "" for s in spans]
                self.labels[tuple(ids)] = [0 if k == blind else z for z, k in zip(marks, kinds, strict=True)]

    def rate(self, pairs: Any) -> Any:
        from tokalign.models.reward import Ratings

        marks = [self.labels.get(tuple(ids), [0] * len(ids)) for _, ids in pairs]
        probs = [torch.nn.functional.one_hot(torch.tensor(m) + 1, 3).float() * 0.9 + 0.1 / 3 for m in marks]
        return Ratings([p[:, 2] - p[:, 0] for p in probs], probs)


def test_a_text_with_an_edit_undone_that_is_too_long_is_left_out(ours: Tokenizer) -> None:
    rows = [r for r in labels(60) if r.categories]
    seen: list[int] = []

    class Watching(Knowing):
        def rate(self, pairs: Any) -> Any:
            seen.extend(len(p) + len(r) for p, r in pairs)
            return super().rate(pairs)

    model: Any = Watching(ours, rows)
    most = max(len(r.prompt_ids) + max(len(r.original_ids), len(r.edited_ids)) for r in rows)
    whole = reward_metrics.evaluate(model, rows, AlignOptions())["flips"]["edits"]
    fitting = reward_metrics.evaluate(model, rows, AlignOptions(), partial(room, most=60, cut=False))["flips"]["edits"]
    assert 0 < fitting < whole
    seen.clear()
    assert (
        reward_metrics.evaluate(model, rows, AlignOptions(), partial(room, most=most, cut=True))["flips"]["edits"]
        == whole
    )
    assert max(seen) <= most


def test_metrics_say_where_a_model_is_blind(ours: Tokenizer) -> None:
    rows = [r for r in labels(200) if len(r.categories) == max(r.original_spans + r.edited_spans)]
    models: list[Any] = [Knowing(ours, rows, kind) for kind in ("", "fact")]
    all_seeing, blind = (reward_metrics.evaluate(model, rows, AlignOptions()) for model in models)
    assert all_seeing["edited_over_original"]["mean"] == 1.0
    assert all_seeing["auroc"]["bad"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    assert all(side["recall"] in (1.0, None) for kind in all_seeing["recall"].values() for side in kind.values())
    assert blind["recall"]["fact"]["bad"]["recall"] == blind["recall"]["fact"]["good"]["recall"] == 0
    assert blind["recall"]["safety"] == all_seeing["recall"]["safety"]
    assert blind["auroc"]["bad"]["value"] < 1
    assert blind["classes"]["bad"]["recall"] < 1
    assert all_seeing["calibration"]["ece"] == pytest.approx(1 - (0.9 + 0.1 / 3), abs=1e-6)


# Words, from ids alone.


@given(st.sampled_from(list(CODECS)), TEXT)
def test_words_begin_where_the_text_is_cut(name: str, text: str) -> None:
    tokenizer = CODECS[name]
    if name == "word_piece":
        text = text.lower().encode("ascii", "ignore").decode()
    [encoded] = tokenizer.responses([text])
    starts = tokenizer.word_starts(np.array([encoded.ids]))[0]
    cuts = set(np.cumsum([0, *map(len, words(text))]).tolist())
    for (_, end), (start, _), begins in zip(encoded.offsets[:-2], encoded.offsets[1:-1], starts[1:-1], strict=True):
        if name == "byte_level" and end == start and text[end - 1].isascii() and text[start].isascii():
            apart = text[start].isspace() or text[start - 1].isspace()
            assert begins == (start in cuts or apart), (text, start)
    assert starts[0]
    assert starts[-1], "EOS"


def test_a_word_of_many_tokens_weighs_what_one_of_few_does(tmp_path: Path, ours: Tokenizer) -> None:
    train(tmp_path / "rm", steps=20)
    row = labels(1)[0]
    plain, shared = (
        RewardModel.load(tmp_path / "rm", normalise=options).rate([(row.prompt_ids, row.edited_ids)]).rewards[0]
        for options in ("none", "word")
    )
    starts = ours.word_starts(np.array([row.edited_ids]))[0]
    groups = np.cumsum(starts) - 1
    sums = np.bincount(groups, shared.numpy())
    means = np.bincount(groups, plain.numpy()) / np.bincount(groups)
    assert len(means) < len(plain)
    assert sums == pytest.approx(means, abs=1e-6)


# Rewards on another tokenizer.


def scored(folder: Path, rm: Path, **options: Any) -> list[dict[str, Any]]:
    score.run(
        ScoreConfig(responses=str(ROOT / "data" / "responses-plain"), reward_model=str(rm), out=folder, limit=12,
                    quiet=True, device="cpu", **options)
    )  # fmt: skip
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_rewards_are_carried_over_to_another_tokenizer(tmp_path: Path, ours: Tokenizer, level: str) -> None:
    train(tmp_path / "rm", level=level, steps=20)
    other = train_tiny(["The sea shines.", "To clean the oven, open a window and wear gloves."] * 5, 300)
    other.save(tmp_path / "other")
    ours.save(tmp_path / "same")
    own = scored(tmp_path / "own", tmp_path / "rm")
    same = scored(tmp_path / "s", tmp_path / "rm", tokenizer=str(tmp_path / "same"))
    there = scored(tmp_path / "o", tmp_path / "rm", tokenizer=str(tmp_path / "other"))
    for a, b, c in zip(own, same, there, strict=True):
        assert b["reward"] == pytest.approx(a["reward"], abs=1e-6), "equal tokenizers change nothing"
        assert (b["tokens"], b["offsets"]) == (a["tokens"], a["offsets"])
        assert sum(c["reward"]) == pytest.approx(sum(a["reward"]), abs=1e-4), "the total stays"
        assert len(c["tokens"]) == len(c["reward"]) == len(c["offsets"]) != len(a["tokens"])
        assert (c["score_sum"], c["score_mean"], c["p_bad"]) == (a["score_sum"], a["score_mean"], None)


def test_a_single_score_from_elsewhere_can_be_used(tmp_path: Path, ours: Tokenizer) -> None:
    torch.manual_seed(1)
    config = small(ours, "llama")
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "rm")
    ours.save(tmp_path / "rm")
    rows = scored(tmp_path / "scores", tmp_path / "rm")
    assert all(row["reward"][-1] == pytest.approx(row["score_sum"], abs=1e-5) for row in rows)
    assert all(not any(row["reward"][:-1]) for row in rows)
    BertModel(small(ours, "bert")).save_pretrained(tmp_path / "bare")
    ours.save(tmp_path / "bare")
    with pytest.raises(InputError, match="but a reward model needs"):
        RewardModel.load(tmp_path / "bare")
