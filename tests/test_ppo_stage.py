"""``train-ppo`` through the real command line: several payers, adapters on one base, early stops, what is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import soak
from tests.test_pipeline import lines, run, stats, tokalign

pytestmark = pytest.mark.slow

QUICK = "--batch-size 4 --max-new-tokens 12 --lr 1e-3 --value-lr 1e-3"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ppo")
    soak.prepare(folder)
    (folder / "mine.py").write_text(
        "def brief(prompts, responses, offsets):\n    return [-len(r) for r in responses]\n"
    )
    return folder


def test_a_function_and_a_model_pay_together(there: Path) -> None:
    where = "train-ppo prompts --policy policy --reward-model rm --reward-model mine:brief --reward-weight 1"
    made = tokalign(there, f"{where} --reward-weight 0.5 {QUICK} --steps 2 --out both")
    assert [i["name"] for i in made["inputs"]] == ["prompts", "policy", "reward_model", "reward_model_2"]
    assert (made["config"]["reward_model"], made["config"]["reward_weight"]) == (["rm", "mine:brief"], [1.0, 0.5])
    logged = lines(there / "both" / "metrics.jsonl")
    for step in logged:
        assert step["reward"] == pytest.approx(step["reward/rm"] + 0.5 * step["reward/mine:brief"], abs=1e-3)
    changed = run(there, f"{where} --reward-weight 0.7 {QUICK} --steps 2 --out both")
    assert changed.returncode == 2
    assert "reward-weight" in changed.stderr
    assert run(there, f"{where} {QUICK} --steps 2 --out other").returncode == 2


def test_a_reward_model_of_another_tokenizer_pays(there: Path) -> None:
    tokalign(there, "train-sft sft --model tiny --vocab 400 --steps 2 --batch-size 8 --out small")
    tokalign(there, f"train-ppo prompts --policy small --reward-model rm {QUICK} --steps 2 --out crossed")
    assert all(abs(step["token_reward"]) <= 12 for step in lines(there / "crossed" / "metrics.jsonl"))


def test_segments_and_a_shared_value_head_and_generate_work_together(there: Path) -> None:
    options = "--granularity segment --value-model shared --sampler generate --kl-estimator k3 --kl-target 1"
    tokalign(there, f"train-ppo prompts --policy policy --reward-model rm {QUICK} {options} --steps 2 --out odd")
    assert stats(there / "odd")["reused_sampler_logprobs"] is False
    assert lines(there / "odd" / "metrics.jsonl")[1]["kl_coef"] == pytest.approx(0.2 * 0.8)


def test_adapters_of_policy_value_and_reward_share_one_base(there: Path) -> None:
    """A reward model trained as adapters pays the same, on the policy's base or merged and alone."""
    tokalign(there, "train-rm labels --model policy --level token --lora --lr 1e-2 --steps 8 --out rm-lora")
    shutil_copy(there / "rm-lora", there / "rm-merged")
    arm = f"train-ppo prompts --policy policy {QUICK} --steps 2 --lora"
    tokalign(there, f"{arm} --reward-model rm-lora --out shared-base")
    tokalign(there, f"{arm} --reward-model rm-merged --out own-base")
    ours, theirs = (lines(there / name / "metrics.jsonl") for name in ("shared-base", "own-base"))
    for a, b in zip(ours, theirs, strict=True):
        assert a["reward"] == pytest.approx(b["reward"], abs=1e-3)
        assert a["kl"] == pytest.approx(b["kl"], abs=1e-3)
    assert ours[0]["reward"] != 0
    made = tokalign(there, "generate prompts --policy shared-base --limit 2 --max-new-tokens 8 --out answers")
    assert made["rows"]["out"] == 2
    assert (there / "shared-base" / "adapter" / "adapter_config.json").is_file()


def shutil_copy(source: Path, target: Path) -> None:
    """The merged weights alone, without what tells of adapters."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.name != "manifest.json":
            (target / path.name).write_bytes(path.read_bytes())


def test_a_run_stops_when_drift_is_over_its_bound_and_says_why(there: Path) -> None:
    work = f"train-ppo prompts --policy policy --reward-model rm {QUICK} --kl-coef 0 --steps 30 --out far"
    done = run(there, f"{work} --lr 3e-2 --stop-kl 0.5")
    assert done.returncode == 0, done.stderr
    assert "stopped after step" in done.stderr
    found = stats(there / "far")
    assert found["steps"] < 30
    assert "is over 0.5" in found["stopped"]
    assert lines(there / "far" / "metrics.jsonl")[-1]["kl"] > 0.5


def test_a_run_stops_when_the_win_rate_no_longer_rises_and_keeps_the_best(there: Path) -> None:
    work = f"train-ppo prompts --policy policy --reward-model rm {QUICK} --eval-prompts heldout --eval-every 1"
    tokalign(there, f"{work} --patience 2 --steps 30 --out patient")
    found = stats(there / "patient")
    rates = [step["win_rate"] for step in lines(there / "patient" / "metrics.jsonl")]
    assert len(rates) == found["steps"] < 30
    assert max(rates) == found["best_win_rate"] == rates[found["best_step"] - 1]
    assert found["steps"] == found["best_step"] + 2
    assert (
        run(there, f"train-ppo prompts --policy policy --reward-model rm {QUICK} --patience 2 --out x").returncode == 2
    )


def test_what_looks_like_hacking_is_said_aloud(there: Path) -> None:
    (there / "long.py").write_text("def long(prompts, responses, offsets):\n    return [len(o) for o in offsets]\n")
    options = "--kl-coef 0 --missing-eos-penalty 0 --length-guard 0 --max-new-tokens 40 --lr 2e-2 --batch-size 16"
    work = (
        f"train-ppo prompts --policy policy --reward-model long:long --granularity sequence --value-lr 1e-2 {options}"
    )
    done = run(there, f"{work} --steps 9 --out hacked")
    assert done.returncode == 0, done.stderr
    warned = stats(there / "hacked")["warnings"]
    assert warned
    for sign in warned.values():
        assert sign in done.stderr


def test_samples_are_kept_with_their_rewards_and_shown(there: Path) -> None:
    work = f"train-ppo prompts --policy policy --reward-model rm {QUICK} --steps 3 --sample-every 2 --out kept"
    tokalign(there, work)
    assert [p.name for p in sorted((there / "kept" / "samples").iterdir())] == ["step-00002.jsonl", "step-00003.jsonl"]
    rows = lines(there / "kept" / "samples" / "step-00003.jsonl")
    assert len(rows) == 4
    for row in rows:
        assert len(row["tokens"]) == len(row["offsets"]) == len(row["reward"])
        assert row["score_sum"] == pytest.approx(sum(row["reward"]), abs=1e-4)
    shown = run(there, "show kept")
    assert "step-00003-0" in shown.stdout
    assert "reward" in shown.stdout


def test_resumed_runs_with_adapters_end_as_others(there: Path, tmp_path: Path) -> None:
    work = f"train-ppo prompts --policy policy --reward-model rm {QUICK} --lora --save-every 1"
    tokalign(there, f"{work} --steps 4 --out {tmp_path / 'whole'}")
    for steps in (2, 4):
        tokalign(there, f"{work} --steps {steps} --out {tmp_path / 'cut'}")
    from safetensors.torch import load_file

    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_run_that_stops_before_its_first_evaluation_is_evaluated_and_kept(there: Path) -> None:
    work = f"train-ppo prompts --policy policy --reward-model rm {QUICK} --eval-prompts heldout --lr 3e-2 --kl-coef 0"
    tokalign(there, f"{work} --stop-kl 0.5 --steps 30 --eval-every 30 --out early")
    found = stats(there / "early")
    assert found["best_step"] == found["steps"] < 30
    assert found["best_win_rate"] is not None
    # Asked for more, it goes on, and stops again where it has to.
    tokalign(there, f"{work} --stop-kl 0.5 --steps 40 --eval-every 30 --out early")
    assert stats(there / "early")["steps"] > found["steps"]


def test_time_that_is_over_ends_the_run_and_more_time_continues_it(there: Path, tmp_path: Path) -> None:
    work = f"train-ppo prompts --policy policy --reward-model rm {QUICK} --steps 3"
    tokalign(there, f"{work} --out {tmp_path / 'whole'}")
    cut = f"{work} --out {tmp_path / 'cut'} --max-minutes"
    tokalign(there, f"{cut} 1e-6 --eval-prompts heldout")
    found = stats(tmp_path / "cut")
    assert (found["steps"], found["stopped"], found["best_step"]) == (1, "--max-minutes 1e-06", 1)
    assert found["best_win_rate"] is not None, "the model that is kept was evaluated"
    tokalign(there, f"{cut} 1e-6 --fresh")
    tokalign(there, f"{cut} 1e-6")
    assert stats(tmp_path / "cut")["steps"] == 1, "no time is left"
    for minutes in (2e-6, 0):
        tokalign(there, f"{cut} {minutes}")
        assert stats(tmp_path / "cut")["steps"] == (1 if minutes else 3)
    assert stats(tmp_path / "cut")["stopped"] == ""
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    less = run(there, f"{cut} 5")
    assert less.returncode == 2
    assert "--max-minutes 0.0 → 5.0" in less.stderr


def test_what_goes_wrong_in_the_middle_leaves_what_was_done(there: Path) -> None:
    wrong = "def f(prompts, responses, offsets):\n    return [{}] * len(responses)\n"
    (there / "turns.py").write_text(wrong.format("float(open('n').read())"))
    (there / "n").write_text("1")
    work = f"train-ppo prompts --policy policy --reward-model turns:f {QUICK} --granularity sequence --save-every 1"
    tokalign(there, f"{work} --steps 2 --out mended")
    (there / "n").write_text("nan")
    failed = run(there, f"{work} --steps 4 --out mended")
    assert failed.returncode == 5
    assert "returned nan for response 0" in failed.stderr
    assert list((there / "mended" / "checkpoints").glob("checkpoint-*"))
    fresh = run(there, f"{work} --steps 4 --out new")
    assert fresh.returncode == 5
    assert not (there / "new").exists(), "of a run that did nothing nothing stays"
    (there / "n").write_text("2")
    tokalign(there, f"{work} --steps 4 --out mended")
    assert [row["step"] for row in lines(there / "mended" / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "said"),
    [("--temperature 0", "--temperature is 0"), ("--kl-coef 0 --kl-target 3", "--kl-target is 3"),
     ("--minibatches 9 --batch-size 4", "--minibatches is 9"), ("--dtype float16", "--dtype is float16"),
     ("--reward-weight 1 --reward-weight 2", "2 --reward-weight for 1")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(there: Path, options: str, said: str) -> None:
    done = run(there, f"train-ppo prompts --policy policy --reward-model rm --out refused {options}")
    assert done.returncode == 2
    assert said in done.stderr
    assert not (there / "refused").exists()


def test_a_function_judges_and_its_samples_are_kept(there: Path) -> None:
    (there / "looking.py").write_text("def brief(prompts, responses):\n    return [-len(r) for r in responses]\n")
    work = f"train-ppo prompts --policy policy --reward-model rm {QUICK} --eval-prompts heldout"
    tokalign(there, f"{work} --eval-judge looking:brief --steps 2 --eval-every 1 --look-samples 3 --out looked")
    assert [i["name"] for i in stats_inputs(there / "looked")][-1] == "eval_judge"
    for step in (1, 2):
        rows = lines(there / "looked" / "looks" / f"step-{step:05d}.jsonl")
        assert len(rows) == 3
        for row in rows:
            a, b = len(row["reference"]), len(row["response"])
            assert row["preference"] == (1.5 if a == b else 2 if b < a else 1)
    refused = run(there, f"{work} --eval-judge looking --steps 2 --out other")
    assert refused.returncode == 2
    assert "give playground, reward or MODULE:NAME" in refused.stderr


def stats_inputs(folder: Path) -> list[dict[str, Any]]:
    inputs: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())["inputs"]
    return inputs
