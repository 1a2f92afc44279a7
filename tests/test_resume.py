"""A run that was cut goes on where it was, and ends as if nothing had happened."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import samples, soak
from tests.manifests import change
from tokalign.artifacts import checkpoints, resumable
from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.resumable import RowFile, group
from tokalign.artifacts.workspace import PROGRESS, Workspace
from tokalign.config import stages
from tokalign.errors import ConflictError, InputError, StoppedError
from tokalign.models.loading import load_policy
from tokalign.runtime import signals
from tokalign.runtime.disk import sealed, unseal
from tokalign.stages import edit, ppo, sft


class CutError(Exception):
    """Stands for a kill: nothing is cleaned up after it."""


def write(folder: Path, n: int, size: int, cut: int | None = None, shard: int = 0) -> RowFile:
    """Double the numbers below ``n``; die while the chunk that holds ``cut`` is worked on, half of it written."""
    with RowFile(Workspace.at(folder), "data.jsonl", b"head\n", b"tail\n", shard) as file:
        for part in file.left(range(n), size):
            file.append_json({"x": 2 * i} for i in part[: len(part) // 2])
            if cut in part:
                file._file.flush()
                raise CutError
            file.append_json({"x": 2 * i} for i in part[len(part) // 2 :])
            file.count({"sum": sum(part), "odd/yes": sum(i % 2 for i in part)})
            file.count_most("largest", {str(i): i for i in part if i % 5}, 3)
    return file


@pytest.mark.slow
@settings(max_examples=25)
@given(st.integers(0, 40), st.integers(1, 9), st.lists(st.integers(0, 40), max_size=4), st.sampled_from([0, 1, 8]))
def test_rows_are_the_same_wherever_a_run_was_cut(
    tmp_path_factory: pytest.TempPathFactory, n: int, size: int, cuts: list[int], shard: int
) -> None:
    whole, cut = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cut")
    resumable.EVERY, before = 0.0, resumable.EVERY
    try:
        expected = write(whole, n, size)
        for at in cuts:
            try:
                write(cut, n, size, at, shard)
            except CutError:
                assert not list(cut.glob("data*.jsonl"))
        got = write(cut, n, size, shard=shard)
    finally:
        resumable.EVERY = before
    rows = [f'{{"x": {2 * i}}}\n' for i in range(n)]
    assert (whole / "data.jsonl").read_text() == "".join(["head\n", *rows, "tail\n"])
    found = []
    for name, size in got.files.items():
        head, *inner, tail = (cut / name).read_text().splitlines(keepends=True)
        assert (head, tail, len(inner)) == ("head\n", "tail\n", size)
        found += inner
    assert found == rows
    assert sorted(p.name for p in cut.glob("data*")) == sorted(got.files)
    largest = [i for i in reversed(range(n)) if i % 5][:3]
    assert group(got.tally, "largest") == {str(i): i for i in largest}
    assert (got.taken, got.written, got.tally) == (n, n, expected.tally)
    assert group(got.tally, "odd") == ({"yes": n // 2} if n else {})


def cut_at(folder: Path, row: int) -> None:
    with pytest.raises(CutError):
        write(folder, 20, 5, row)


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "EVERY", 0.0)
    cut_at(tmp_path, 12)
    with RowFile(Workspace.at(tmp_path), "data.jsonl", b"head\n") as file:
        assert next(iter(file.left(range(20), 5))) == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("damage", ["part gone", "part short", "state cut", "state changed", "state of another file"])
def test_a_state_that_is_damaged_is_told_and_nothing_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(resumable, "EVERY", 0.0)
    cut_at(tmp_path, 12)
    part, state = tmp_path / ".00000.data.jsonl.part", tmp_path / PROGRESS
    if damage == "part gone":
        part.unlink()
    elif damage == "part short":
        part.write_bytes(part.read_bytes()[:20])
    elif damage == "state cut":
        state.write_text(state.read_text()[:20])
    elif damage == "state changed":
        state.write_text(state.read_text().replace('"taken": 10', '"taken": 11'))
    else:
        state.write_text(sealed({**unseal(state.read_bytes())[0], "file": "data.arrow"}))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(InputError, match=re.escape(str(state))) as caught:
        write(tmp_path, 20, 5)
    assert "--fresh" in caught.value.remedy
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_without_a_state_a_run_begins_anew(tmp_path: Path) -> None:
    cut_at(tmp_path, 2)
    (tmp_path / PROGRESS).unlink(missing_ok=True)
    assert write(tmp_path, 20, 5).taken == 20


def test_killed_between_the_last_row_and_the_manifest_nothing_is_done_again(tmp_path: Path) -> None:
    write(tmp_path, 20, 5)
    before = (tmp_path / "data.jsonl").read_bytes()
    with RowFile(Workspace.at(tmp_path), "data.jsonl", b"head\n", b"tail\n") as file:
        assert list(file.left(range(20), 5)) == []
    assert (tmp_path / "data.jsonl").read_bytes() == before


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Ask for the end, as SIGTERM does."""
    yield lambda: monkeypatch.setattr(signals._State, "received", 15)
    monkeypatch.setattr(signals._State, "received", 0)


def test_when_asked_to_end_the_rows_at_hand_are_finished_and_saved(tmp_path: Path, ask: Callable[[], None]) -> None:
    with pytest.raises(StoppedError) as caught, RowFile(Workspace.at(tmp_path), "data.jsonl") as file:
        for part in file.left(range(20), 5):
            ask()
            file.append_json({"x": i} for i in part)
    assert caught.value.exit_code == 143
    assert json.loads((tmp_path / PROGRESS).read_text())["taken"] == 5


def checkpoint(space: Workspace, step: int) -> Path:
    made = space.folder / space.scratch
    (made / "deep").mkdir(parents=True)
    (made / "state.pt").write_text(f"weights {step}")
    (made / "deep" / "rng").write_text("dice")
    checkpoints.keep(space, made, step)
    space.sweep()
    return space.folder / "checkpoints" / f"checkpoint-{step}"


def names(space: Workspace) -> list[str]:
    return sorted(p.name for p in (space.folder / "checkpoints").iterdir())


def test_the_newest_whole_checkpoint_is_taken_by_step_and_two_are_kept(tmp_path: Path) -> None:
    said: list[str] = []
    space = Workspace.at(tmp_path)
    assert checkpoints.newest(space, said.append) is None
    for step in (8, 9, 10):
        checkpoint(space, step)
    assert names(space) == ["checkpoint-10", "checkpoint-9"]
    (tmp_path / "checkpoints" / "checkpoint-old").mkdir()  # of the user's
    (tmp_path / "checkpoints" / "checkpoint-11").mkdir()
    space = Workspace.at(tmp_path)
    found = checkpoints.newest(space, said.append)
    assert found == tmp_path / "checkpoints" / "checkpoint-10"
    assert checkpoints.step_of(found) == 10
    assert said == ["resuming after step 10"]
    checkpoints.keep_last(space)
    assert names(space) == ["checkpoint-10", "checkpoint-11", "checkpoint-old"]


@pytest.mark.parametrize("damage", ["never sealed", "truncated", "changed", "file gone", "seal cut", "seal changed"])
def test_a_newest_checkpoint_that_is_not_whole_is_passed_over_aloud(tmp_path: Path, damage: str) -> None:
    space = Workspace.at(tmp_path)
    checkpoint(space, 9)
    newest = checkpoint(space, 10)
    seal = newest / checkpoints.SEAL
    if damage == "never sealed":
        seal.unlink()
    elif damage == "truncated":
        (newest / "state.pt").write_text("weigh")
    elif damage == "changed":
        (newest / "state.pt").write_text("weights 11")
    elif damage == "file gone":
        (newest / "deep" / "rng").unlink()
    elif damage == "seal cut":
        seal.write_text("{")
    elif damage == "seal changed":
        seal.write_text(seal.read_text().replace("state.pt", "deep/rng"))
    (newest / "deep" / "notes.txt").write_text("mine")
    said: list[str] = []
    assert checkpoints.newest(space, said.append) == tmp_path / "checkpoints" / "checkpoint-9"
    assert said[0].startswith("deleting checkpoint-10: incomplete or damaged")
    left = [p.relative_to(newest).as_posix() for p in newest.rglob("*") if p.is_file()]
    assert left == ["deep/notes.txt"], "what the run was going to write over is gone, and nothing else"


def train_sft(out: Path, steps: int = 6, **options: Any) -> Manifest:
    shape: dict[str, Any] = {"vocab": 500, "batch_size": 8, "optimizer": "muon", "lr": 1e-3, "save_every": 2}
    data = str(samples.DATA / "sft")
    made = sft.run(
        stages.TrainSftConfig(
            data=data, limit=20, model="tiny", steps=steps, out=out, quiet=True, **{**shape, **options}
        )
    )
    return made.manifest


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_policy(folder).state_dict()
    return found


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [0, 2])
def test_supervised_training_goes_on_from_a_truncated_checkpoint_by_the_one_before(
    tmp_path: Path,
    ask: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    microbatch: int,
) -> None:
    """Six steps over three batches an epoch: the cut, after step 4, is within the second epoch."""
    train_sft(tmp_path / "whole", microbatch=microbatch)
    keep = checkpoints.keep

    def keep_and_ask(space: Workspace, made: Path, step: int) -> None:
        keep(space, made, step)
        if step == 4:
            ask()

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "keep", keep_and_ask)
        with pytest.raises(StoppedError):
            train_sft(tmp_path / "cut", microbatch=microbatch)
        patched.setattr(signals._State, "received", 0)
    newest, *_ = sorted((tmp_path / "cut" / "checkpoints").iterdir(), reverse=True)
    optimizer = newest / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    monkeypatch.setattr(signals._State, "received", 0)
    again = train_sft(tmp_path / "cut", microbatch=microbatch)
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert again.stats["steps"] == 6
    logged = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert logged == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak")
    soak.prepare(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", soak.STAGES)
def test_killed_runs_of_a_stage_end_as_one_that_was_not(prepared: Path, stage: str) -> None:
    runs = 3  # `make soak` kills a hundred
    outcome = soak.soak(stage, runs, prepared)
    assert outcome.unequal == []
    assert outcome.kills >= 3, "the kills came too late to mean anything"
    assert outcome.went_on >= 1


def train_ppo(prepared: Path, out: Path, steps: int) -> Manifest:
    options: dict[str, Any] = {"batch_size": 4, "max_new_tokens": 8, "lr": 1e-3, "save_every": 3, "quiet": True}
    paths = {"prompts": "prompts", "policy": "policy", "eval_prompts": "heldout"}
    where: dict[str, Any] = {name: str(prepared / path) for name, path in paths.items()}
    where["reward_model"] = [str(prepared / "rm")]
    done = ppo.run(stages.TrainPpoConfig(**where, out=out, steps=steps, eval_every=2, **options))
    return done.manifest


@pytest.mark.slow
def test_a_finished_run_is_carried_on_to_more_steps_but_not_to_fewer(prepared: Path, tmp_path: Path) -> None:
    train_ppo(prepared, tmp_path / "six", 6)
    first = train_ppo(prepared, tmp_path / "more", 4)
    shutil.copytree(tmp_path / "more", tmp_path / "before")
    second = train_ppo(prepared, tmp_path / "more", 6)
    assert (first.config["steps"], second.config["steps"]) == (4, 6)
    assert same(tmp_path / "six" / "checkpoints" / "last", tmp_path / "more" / "checkpoints" / "last")
    assert same(tmp_path / "six", tmp_path / "more")
    with pytest.raises(ConflictError, match="--steps 6 → 4"):
        train_ppo(prepared, tmp_path / "more", 4)


def test_an_option_that_an_older_version_did_not_have_counts_as_its_default(tmp_path: Path) -> None:
    def make(**options: Any) -> Manifest:
        source = str(tmp_path / "rows.jsonl")
        return edit.run(stages.EditConfig(source=source, editor="rules", out=tmp_path / "edits", **options)).manifest

    row = {"id": "a", "prompt": "Q?", "chosen": "Good.", "rejected": "Bad."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    make()
    before = Manifest.read(tmp_path / "edits")
    change(tmp_path / "edits", lambda m: m["config"].pop("min_similarity"))
    assert make().created == before.created, "nothing was done again"
    with pytest.raises(ConflictError, match=r"changed: --min-similarity 0.3 → 0.5"):
        make(min_similarity=0.5)
