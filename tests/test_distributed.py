"""Two processes train what one does with accumulation, and only the first of them writes and tells."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import forked
from tests.conftest import ROOT


def logged(folder: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


def one_process(*command: str) -> None:
    done = forked.run(ROOT, *command, "--quiet")
    assert done.returncode == 0, done.stderr


def together(*command: str, **more: str) -> list[subprocess.CompletedProcess[str]]:
    """Run two processes as ``torchrun --nproc-per-node 2`` does."""
    env = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}
    return forked.together(ROOT, 2, *command, **env)


def two_processes(*command: str, **more: str) -> str:
    """What both said, of a run that must succeed."""
    both = together(*command, **more)
    said = "".join(done.stderr for done in both)
    assert [done.returncode for done in both] == [0, 0], said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_two_processes_follow_the_loss_of_one_that_accumulates(tmp_path: Path, level: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    work = ["train-rm", "data/labels", "--model", "tiny", "--level", level, "--limit", "80", "--steps", "6"]
    work += ["--batch-size", "8", "--lr", "1e-3", "--device", "cpu", "--patience", "9", "--eval-every", "3"]
    one_process(*work, "--microbatch", "4", "--out", str(one))
    assert two_processes(*work, "--out", str(two)).count("reward-model/1 →") == 1, "one tells"
    assert len(logged(two)) == 6
    for ours, theirs in zip(logged(two), logged(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (two, one))
    assert max((weights[k] - expected[k]).abs().max().item() for k in expected) < 1e-4
    two_processes(*work, "--out", str(two))


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_them_all(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("not yours")
    work = ["train-rm", "data/labels", "--model", "tiny", "--level", "token", "--steps", "1", "--device", "cpu"]
    done = together(*work, "--out", str(tmp_path / "out"))
    assert all(one.returncode != 0 for one in done)
    assert "is not empty and not an artifact" in "".join(one.stderr for one in done)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    common = ["--steps", "2", "--lr", "1e-3", "--device", "cpu"]
    policy, labels = str(folder / "policy"), str(folder / "labels")
    one_process("train-sft", "data/sft", "--model", "tiny", *common, "--out", policy)
    one_process("diff", "data/edits", "--tokenizer", policy, "--out", labels)
    one_process("train-rm", labels, "--level", "token", "--model", policy, *common, "--out", str(folder / "rm"))
    few = (ROOT / "data" / "prompts" / "data.jsonl").read_text().splitlines(keepends=True)[:5]
    (folder / "few.jsonl").write_text("".join(few))
    return folder


def ppo_logged(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "tokens_per")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(("value_model", "sharded"), [("separate", False), ("shared", False), ("separate", True)])
def test_two_processes_make_the_ppo_steps_of_one(models: Path, tmp_path: Path, value_model: str, sharded: bool) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    work = ["train-ppo", "data/prompts", "--policy", str(models / "policy"), "--reward-model", str(models / "rm")]
    work += ["--batch-size", "6", "--minibatches", "2", "--microbatch", "2", "--max-new-tokens", "12", "--lr", "1e-3"]
    work += ["--value-lr", "1e-3", "--value-model", value_model, "--device", "cpu", "--save-every", "2", "--seed", "3"]
    work += ["--eval-prompts", str(models / "few.jsonl"), "--eval-every", "2"]
    one_process(*work, "--steps", "3", "--out", str(one))
    if sharded:
        for steps in ("2", "3"):  # the third step goes on from what the processes saved
            two_processes(*work, "--steps", steps, "--out", str(two), ACCELERATE_USE_FSDP="true")
    else:
        two_processes(*work, "--steps", "3", "--out", str(two))
    assert len(ppo_logged(two)) == 3
    for ours, theirs in zip(ppo_logged(two), ppo_logged(one), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-4)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (two, one))
    before = load_file(models / "policy" / "model.safetensors")
    assert max((expected[k] - before[k]).abs().max().item() for k in expected) > 1e-3
    assert max((weights[k] - expected[k]).abs().max().item() for k in expected) < 2e-4
