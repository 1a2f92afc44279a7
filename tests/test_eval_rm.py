"""``eval-rm``: the metrics of ``train-rm`` on any labels, and the scores of each row."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.forked import run
from tests.test_pipeline import lines, stats
from tokalign.config.stages import DiffConfig, EvalRmConfig, ScoreConfig, TrainRmConfig
from tokalign.errors import InputError
from tokalign.stages import diff, eval_rm, reward, score

pytestmark = pytest.mark.slow
LABELS, EDITS = str(ROOT / "data" / "labels"), str(ROOT / "data" / "edits")


@pytest.fixture(scope="module", params=["token", "sequence"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rm") / "rm"
    options: dict[str, Any] = {"model": "tiny", "level": request.param, "steps": 4, "batch_size": 8, "lr": 1e-3}
    # Everything is held out, in effect: the metrics of train-rm are those of all rows but a few.
    reward.run(TrainRmConfig(labels=LABELS, out=folder, quiet=True, device="cpu", heldout=0.9, **options))
    return folder


def test_metrics_and_scores_are_those_of_score(model: Path, tmp_path: Path) -> None:
    made = eval_rm.run(EvalRmConfig(labels=LABELS, reward_model=str(model), out=tmp_path / "m", quiet=True))
    score.run(ScoreConfig(responses=EDITS, reward_model=str(model), out=tmp_path / "s", quiet=True))
    scored = {(r["id"], r["sample"]): r["score_mean"] for r in lines(tmp_path / "s" / "data.jsonl")}
    rows = lines(tmp_path / "m" / "data.jsonl")
    assert len(rows) > 20
    for row in rows:
        assert row["original_score"] == pytest.approx(scored[row["id"], 0], abs=1e-5)
        assert row["edited_score"] == pytest.approx(scored[row["id"], 1], abs=1e-5)
    edited = [row for row in rows if row["original"] != row["edited"]]
    won = [(r["edited_score"] > r["original_score"]) + (r["edited_score"] == r["original_score"]) / 2 for r in edited]
    assert made.stats["edited_over_original"]["mean"] == pytest.approx(sum(won) / len(won))
    assert ("auroc" in made.stats) == (made.stats["level"] == "token")
    shown = run(tmp_path, "show", "m")
    assert shown.returncode == 0
    assert "edited over original" in shown.stdout
    assert rows[0]["edited"][:20] in shown.stdout


def test_long_rows_are_counted_and_rows_can_be_limited(model: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"labels": LABELS, "reward_model": str(model), "quiet": True}
    made = eval_rm.run(EvalRmConfig(out=tmp_path / "short", max_length=70, **common)).manifest
    assert made.rows["skipped"] == made.rows["reasons"]["over --max-length"] > 0
    assert made.rows["in"] == made.rows["out"] + made.rows["skipped"]
    assert stats(tmp_path / "short") == made.stats
    assert eval_rm.run(EvalRmConfig(out=tmp_path / "few", limit=5, **common)).manifest.rows["out"] == 5
    with pytest.raises(InputError, match="no rows to measure on"):
        eval_rm.run(EvalRmConfig(out=tmp_path / "none", max_length=2, **common))
    assert not (tmp_path / "none").exists()


def test_labels_of_another_tokenizer_are_refused(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    diff.run(DiffConfig(edits=EDITS, tokenizer="tiny", vocab=300, out=other, quiet=True))
    with pytest.raises(InputError, match="another tokenizer"):
        eval_rm.run(EvalRmConfig(labels=str(other), reward_model=str(model), out=tmp_path / "m", quiet=True))
    wrong = run(tmp_path, "eval-rm", EDITS, "--reward-model", str(model), "--out", "m")
    assert wrong.returncode == 5
    assert "tokalign diff" in wrong.stderr
    (tmp_path / "edits.jsonl").write_text("{}\n")
    no_artifact = run(tmp_path, "eval-rm", "edits.jsonl", "--reward-model", str(model), "--out", "m")
    assert no_artifact.returncode == 5
    assert "not a token-labels artifact" in no_artifact.stderr
    assert "tokalign diff" in no_artifact.stderr
