"""``--shard`` and ``merge``: the parts of a run, joined, are what one run writes."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.forked import run
from tests.test_pipeline import lines
from tokalign.artifacts.manifest import Manifest, open_artifact
from tokalign.artifacts.result import StageResult
from tokalign.artifacts.schemas import PromptRow
from tokalign.artifacts.token_labels import read_labels
from tokalign.config.stages import DiffConfig, EditConfig, GenerateConfig, MergeConfig, ScoreConfig
from tokalign.data.layouts import Skip
from tokalign.data.rows import Rows
from tokalign.errors import ConflictError, InputError, KindError, StoppedError, UsageError
from tokalign.runtime import signals
from tokalign.stages import diff, edit, generate, merge, score

DATA = ROOT / "data"
Make = Callable[..., StageResult]


@pytest.fixture
def models(policy: Any, tokenizer: Any, tmp_path: Path) -> Path:
    """A policy and a token-level reward model."""
    from tokalign.models.loading import new_tiny_classifier

    reward_model = new_tiny_classifier(tokenizer, seed=0, max_positions=256, level="token")
    torch.nn.init.normal_(reward_model.score.weight)
    for name, model in (("policy", policy), ("rm", reward_model)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save(tmp_path / name)
    return tmp_path


@pytest.fixture(params=["edit", "diff", "tiny", "generate", "best", "score", "score edits"])
def make(request: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A command as a function of the output folder and further options, with small chunks."""
    for stage in (diff, generate, score):
        monkeypatch.setattr(stage, "CHUNK", 12)
    monkeypatch.setattr(diff, "SHARD", 30)
    sampling: dict[str, Any] = {"policy": str(models / "policy"), "max_new_tokens": 8, "device": "cpu"}
    scoring: dict[str, Any] = {"reward_model": str(models / "rm"), "device": "cpu"}
    prompts, responses = str(DATA / "prompts"), str(DATA / "responses-plain")
    of: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "edit": (edit.run, EditConfig, {"source": str(DATA / "preferences")}),
        "diff": (diff.run, DiffConfig, {"edits": str(DATA / "edits"), "tokenizer": str(models / "policy")}),
        "tiny": (diff.run, DiffConfig, {"edits": str(DATA / "edits"), "tokenizer": "tiny", "max_length": 90}),
        "generate": (generate.run, GenerateConfig, {"prompts": prompts, "n": 2, "limit": 40, **sampling}),
        "best": (
            generate.run, GenerateConfig,
            {"prompts": prompts, "n": 2, "limit": 30, "reward_model": str(models / "rm"), **sampling},
        ),
        "score": (score.run, ScoreConfig, {"responses": responses, "max_length": 80, **scoring}),
        "score edits": (score.run, ScoreConfig, {"responses": str(DATA / "edits"), **scoring}),
    }  # fmt: skip
    command, config, options = of[request.param]
    return lambda out, **more: command(config(out=out, quiet=True, **{**options, **more}))


def joined(out: Path, *parts: Path, **options: Any) -> StageResult:
    return merge.run(MergeConfig(shards=list(parts), out=out, quiet=True, **options))


def content(folder: Path) -> dict[str, str]:
    return {f["name"]: f["sha256"] for f in Manifest.read(folder).files}


@pytest.mark.slow
def test_merged_parts_are_what_one_run_writes(make: Make, tmp_path: Path) -> None:
    whole = make(tmp_path / "whole").manifest
    parts = [tmp_path / f"part-{k}" for k in range(3)]
    for k, part in enumerate(parts):
        made = make(part, shard=f"{k}/3").manifest
        assert 0 < made.rows["in"] < whole.rows["in"]
    random.Random(0).shuffle(parts)
    merged = joined(tmp_path / "merged", *parts).manifest
    assert len(content(tmp_path / "whole")) >= 1
    assert content(tmp_path / "merged") == content(tmp_path / "whole")
    assert merged.rows == whole.rows
    assert _close(merged.stats, whole.stats)
    assert merged.config | {"out": ""} == whole.config | {"out": ""}
    assert merged.config_hash == whole.config_hash
    assert open_artifact(tmp_path / "merged").manifest == merged
    # It is the artifact of that run: nothing is left to do, by either command.
    assert make(tmp_path / "merged").manifest == merged
    assert joined(tmp_path / "merged", *parts).manifest == merged


def _close(a: Any, b: Any) -> bool:
    """Whether nested statistics are equal but for rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    return bool(a == pytest.approx(b)) if isinstance(a, int | float) else bool(a == b)


def test_parts_can_be_cut_and_resumed(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "CHUNK", 12)
    options: dict[str, Any] = {"edits": str(DATA / "edits"), "tokenizer": str(models / "policy"), "quiet": True}
    diff.run(DiffConfig(out=tmp_path / "whole", **options))
    parts = [tmp_path / "0", tmp_path / "1"]
    for k, part in enumerate(parts):
        config, chunks = DiffConfig(out=part, shard=f"{k}/2", workers=1, **options), 0

        def stop_at_third() -> None:
            nonlocal chunks
            chunks += 1
            if chunks == 3:
                raise StoppedError(15)

        with monkeypatch.context() as m, pytest.raises(StoppedError):
            m.setattr(signals, "check", stop_at_third)
            m.setattr("tokalign.artifacts.resumable.EVERY", 0.0)
            diff.run(config)
        with pytest.raises(InputError, match="an unfinished run"):
            joined(tmp_path / "merged", *parts)
        diff.run(config)
    joined(tmp_path / "merged", *parts)
    assert content(tmp_path / "merged") == content(tmp_path / "whole")
    rows = read_labels(open_artifact(tmp_path / "merged"))
    assert [row.id for row in rows] == [row["id"] for row in lines(DATA / "edits" / "data.jsonl")]


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three parts of the edits of ``data/preferences``."""
    made = [tmp_path / str(k) for k in range(3)]
    for k, out in enumerate(made):
        edit.run(EditConfig(source=str(DATA / "preferences"), shard=f"{k}/3", out=out, quiet=True))
    return made


def test_parts_that_do_not_belong_together_are_refused(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    with pytest.raises(InputError, match="missing parts: 1/3"):
        joined(out, parts[0], parts[2])
    with pytest.raises(InputError, match="both are part 0/3"):
        joined(out, parts[0], parts[1], parts[0])
    of_source: dict[str, Any] = {"source": str(DATA / "preferences"), "quiet": True}
    for name, options, found in (
        ("strict", {"min_similarity": 0.9}, "min_similarity: 0.3 and 0.9"),
        ("other", {"shard": "1/4"}, "parts: 3 and 4"),
        ("short", {"limit": 100}, "limit: None and 100"),
    ):
        edit.run(EditConfig(out=tmp_path / name, **{**of_source, "shard": "1/3", **options}))
        with pytest.raises(InputError, match=found):
            joined(out, parts[0], tmp_path / name, parts[2])
    with pytest.raises(InputError, match="made without --shard"):
        joined(out, DATA / "edits")
    with pytest.raises(InputError, match="not an artifact"):
        joined(out, tmp_path)
    with pytest.raises(KindError, match="preferences are not made in parts"):
        joined(out, DATA / "preferences")
    assert not out.exists()
    joined(out, *parts)
    with pytest.raises(ConflictError, match="holds another run"):
        edit.run(EditConfig(out=out, min_similarity=0.9, **of_source))


def test_other_inputs_are_other_runs(parts: list[Path], tmp_path: Path) -> None:
    rows = lines(DATA / "preferences" / "data.jsonl")
    rows[0]["prompt"] += " Please."
    (tmp_path / "changed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = EditConfig(source=str(tmp_path / "changed.jsonl"), shard="1/3", out=tmp_path / "changed", quiet=True)
    edit.run(config)
    with pytest.raises(InputError, match="input source"):
        joined(tmp_path / "merged", parts[0], tmp_path / "changed", parts[2])


def test_a_part_has_its_own_folder_and_a_fixed_limit(parts: list[Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"source": str(DATA / "preferences"), "quiet": True}
    with pytest.raises(ConflictError, match="--shard '0/3' → '1/3'"):
        edit.run(EditConfig(shard="1/3", out=parts[0], **options))
    edit.run(EditConfig(shard="0/3", limit=60, out=tmp_path / "limited", **options))
    with pytest.raises(ConflictError, match="--limit 60 → 90"):
        edit.run(EditConfig(shard="0/3", limit=90, out=tmp_path / "limited", **options))


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "1/0", "a/b", "1/3/5", "", "１/３"])
def test_a_shard_is_a_part_of_a_number_of_parts(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--shard is"):
        EditConfig(source="x", out=tmp_path, shard=text)


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path) -> None:
    source = str(DATA / "preferences")
    for k in (0, 1):
        done = run(tmp_path, "edit", source, "--shard", f"{k}/2", "--out", f"edits-{k}")
        assert done.returncode == 0, done.stderr
    missing = run(tmp_path, "merge", "edits-1", "--out", "edits")
    assert missing.returncode == 5
    assert "missing parts: 0/2" in missing.stderr
    merged = run(tmp_path, "merge", "edits-1", "edits-0", "--out", "edits", "--json")
    assert merged.returncode == 0, merged.stderr
    assert json.loads(merged.stdout)["rows"]["out"] == 200
    assert content(tmp_path / "edits") == content(DATA / "edits")
    assert run(tmp_path, "verify", ".").returncode == 0
    assert run(tmp_path, "show", "edits").returncode == 0
    many = run(tmp_path, "edit", source, "--shard", "0/201", "--out", "many")
    assert many.returncode == 5
    assert "N ≤ 200" in many.stderr


@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any), st.integers(1, 6), st.integers(1, 5), st.data())
def test_parts_are_whole_chunks_in_order(kept: list[bool], of: int, size: int, data: st.DataObject) -> None:
    def items() -> Any:
        for k, keep in enumerate(kept):
            yield f"line {k}", PromptRow(id=str(k), prompt="x") if keep else Skip("a reason")

    rows = Rows(items, {"path": "p"})
    chunks = -(-len(rows) // size)
    if chunks < of:
        with pytest.raises(InputError, match=f"{of} parts of {chunks} ") as refused:
            rows.shard(f"{data.draw(st.integers(0, of - 1))}/{of}", size)
        assert f"N ≤ {chunks}" in refused.value.remedy
        return
    parts = [rows.shard(f"{k}/{of}", size) for k in range(of)]
    assert [row.id for part in parts for row in part] == [row.id for row in rows]
    assert all(len(part) % size == 0 for part in parts[:-1])
    assert [part.start for part in parts] == [sum(map(len, parts[:k])) for k in range(of)]
    longest, shortest = (f(-(-len(part) // size) for part in parts) for f in (max, min))
    assert longest - shortest <= 1
    whole = rows.account()
    assert {key: sum(part.account()[key] for part in parts) for key in ("in", "out", "skipped")} == {
        key: whole[key] for key in ("in", "out", "skipped")
    }
