"""Wrong turns are stopped where they are taken: no editor, nothing edited, nothing to learn, nothing learnt."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.forked import run
from tokalign.config.stages import DiffConfig, EditConfig, TrainRmConfig
from tokalign.core.chance import against_chance
from tokalign.core.intervals import mean_interval
from tokalign.errors import InputError, UsageError
from tokalign.report.summary import written
from tokalign.stages import diff, edit, reward

ROOT = Path(__file__).resolve().parent.parent
PREFERENCES = ROOT / "data" / "preferences" / "data.jsonl"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def foreign(n: int = 3) -> list[dict[str, Any]]:
    return [{"prompt": f"Name {k} birds.", "chosen": "A robin.", "rejected": "A trout."} for k in range(n)]


def edits(n: int, edited: str = "A robin.") -> list[dict[str, Any]]:
    return [{"id": str(k), "prompt": f"Bird {k}?", "original": "A trout.", "edited": edited} for k in range(n)]


# An editor.


def test_the_playgrounds_texts_have_an_editor_wherever_they_lie(tmp_path: Path) -> None:
    made = edit.run(EditConfig(source=str(PREFERENCES), limit=30, out=tmp_path / "e", quiet=True))
    assert made.manifest.config["editor"] == "rules"
    assert made.stats["status"]["edited"] > 0
    named = edit.run(EditConfig(source=str(PREFERENCES), limit=30, editor="rules", out=tmp_path / "e", quiet=True))
    assert named == made, "the same run"


def test_other_texts_want_one_named(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", foreign())
    with pytest.raises(UsageError, match="no default --editor") as e:
        edit.run(EditConfig(source=source, out=tmp_path / "e", quiet=True))
    assert "--editor claude or --editor human" in e.value.remedy
    with pytest.raises(UsageError, match="contains edits") as e:
        source = write(tmp_path / "edits.jsonl", edits(3))
        edit.run(EditConfig(source=source, out=tmp_path / "e", quiet=True))
    assert "--editor recorded" in e.value.remedy
    assert not (tmp_path / "e").exists()


def test_a_few_texts_of_others_among_the_playgrounds_change_nothing(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in PREFERENCES.read_text().splitlines()[:9]]
    source = write(tmp_path / "pairs.jsonl", [*foreign(1), *rows])
    assert edit.run(EditConfig(source=source, out=tmp_path / "e", quiet=True)).manifest.config["editor"] == "rules"


def test_a_run_that_edited_nothing_ends_with_3_and_leads_nowhere(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", foreign())
    done = run(tmp_path, "edit", source, "--editor", "rules", "--out", "e")
    assert done.returncode == 3
    assert "warning: no row was edited; the rules only work on the playground's texts" in done.stderr
    assert "tokalign diff" not in done.stderr
    again = run(tmp_path, "edit", source, "--editor", "rules", "--out", "e")
    assert again.returncode == 3
    rejected = write(tmp_path / "edits.jsonl", edits(2, "Entirely other words stand in this one, none of them kept."))
    for editor in ("recorded",):
        assert run(tmp_path, "edit", rejected, "--editor", editor, "--out", "r").returncode == 0
    known = run(tmp_path, "edit", str(PREFERENCES), "--limit", "5", "--out", "k")
    assert known.returncode == 0
    assert "tokalign diff" in known.stderr


# Labels.


def test_labels_without_a_bad_or_good_token_are_not_made(tmp_path: Path) -> None:
    source = write(tmp_path / "edits.jsonl", edits(4, "A trout."))
    with pytest.raises(InputError, match="no token is bad or good"):
        diff.run(DiffConfig(edits=source, tokenizer="tiny", vocab=300, out=tmp_path / "l", quiet=True))
    assert not (tmp_path / "l" / "manifest.json").exists()
    fine = write(tmp_path / "some.jsonl", [*edits(3, "A trout."), {**edits(1)[0], "id": "x"}])
    assert (
        diff.run(DiffConfig(edits=fine, tokenizer="tiny", vocab=300, out=tmp_path / "f", quiet=True)).rows["out"] == 4
    )


def labels(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    source = write(tmp_path / "edits.jsonl", rows)
    diff.run(DiffConfig(edits=source, tokenizer="tiny", vocab=300, out=tmp_path / "labels", quiet=True))
    return str(tmp_path / "labels")


def train(tmp_path: Path, source: str, **options: Any) -> Any:
    options = {"level": "token", "steps": 1, "quiet": True, "device": "cpu", "vocab": 300, **options}
    return reward.run(TrainRmConfig(labels=source, model="tiny", out=tmp_path / "rm", **options))


def held_out(prompt: str, share: float) -> bool:
    turns = json.dumps([{"role": "user", "content": prompt}], sort_keys=True)
    return int(hashlib.sha256(turns.encode()).hexdigest()[:16], 16) < share * 2**64


def test_labels_whose_changed_rows_are_all_held_out_teach_nothing(tmp_path: Path) -> None:
    """One row of many was edited, and it is not among those to train on."""
    rows = edits(40, "A trout.")
    changed = next(k for k in range(40) if held_out(rows[k]["prompt"], 0.5))
    rows[changed]["edited"] = "A robin."
    source = labels(tmp_path, rows)
    with pytest.raises(InputError, match=r"no token of the \d+ training rows is bad or good"):
        train(tmp_path, source, heldout=0.5)
    assert not (tmp_path / "rm" / "manifest.json").exists()


def test_rows_that_are_all_held_out_are_no_rows_to_train_on(tmp_path: Path) -> None:
    source = labels(tmp_path, edits(1))
    with pytest.raises(InputError, match="no rows to train on"):
        train(tmp_path, source, level="sequence", pairs="chosen")


# Chance.


def stats(level: str, wins: int, pairs: int, auroc: list[list[float]] | None = None, **more: Any) -> dict[str, Any]:
    scores = [1.0] * wins + [0.0] * (pairs - wins)
    accuracy = {"mean": wins / pairs if pairs else None, "ci95": mean_interval(scores), "pairs": pairs}
    nothing = {"mean": None, "ci95": None, "pairs": 0}
    found = {"level": level, "edited_over_original": accuracy, "chosen_over_rejected": nothing, **more}
    if auroc:
        found["auroc"] = {side: {"value": sum(ends) / 2, "ci95": ends} for side, ends in zip(("bad", "good"), auroc)}  # noqa: B905
    return found


@pytest.mark.parametrize(
    ("found", "above"),
    [
        (stats("token", 90, 100), True),
        (stats("token", 52, 100), False),
        (stats("token", 10, 100), False),
        (stats("token", 5, 5), None),
        (stats("token", 6, 6), True),
        (stats("token", 0, 0), None),
        (stats("token", 52, 100, [[0.6, 0.7], [0.55, 0.8]]), True),
        (stats("token", 52, 100, [[0.6, 0.7], [0.45, 0.8]]), False),
        (stats("token", 3, 3, [[0.6, 0.7], [0.55, 0.8]]), None),
        (stats("sequence", 90, 100), True),
        (stats("sequence", 50, 100, [[0.6, 0.7], [0.55, 0.8]]), False),
    ],
)
def test_above_chance_is_what_the_interval_says(found: dict[str, Any], above: bool | None) -> None:
    verdict = against_chance(found, "edited")
    assert verdict.above is above
    assert (".5" in verdict.why) == (above is not None) or "too few" in verdict.why


def test_a_sequence_level_model_is_measured_by_the_pairs_it_was_trained_on() -> None:
    found = stats("sequence", 50, 100)
    found["chosen_over_rejected"], found["edited_over_original"] = found["edited_over_original"], {
        "mean": None, "ci95": None, "pairs": 0,
    }  # fmt: skip
    assert against_chance(found, "chosen").above is False
    assert against_chance(found, "edited").above is None


def test_a_model_that_knows_nothing_does_not_lead_to_ppo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = labels(tmp_path, edits(60))
    config = TrainRmConfig(
        labels=source, model="tiny", level="token", steps=1, lr=0.0, heldout=0.4, device="cpu", out=tmp_path / "rm"
    )
    made = reward.run(config)
    written(config, made)
    said = capsys.readouterr().err
    assert "warning: edited over original is 0.500" in said
    assert "not above chance (0.5)" in said
    assert "train-ppo" not in said


def test_too_few_rows_to_hold_any_out_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainRmConfig(
        labels=labels(tmp_path, edits(4)), model="tiny", level="token", steps=1, heldout=0.0, device="cpu",
        out=tmp_path / "rm",
    )  # fmt: skip
    written(config, reward.run(config))
    said = capsys.readouterr().err
    assert "warning: 0 held-out pairs are too few to compare edited over original with chance" in said
    assert "train-ppo" not in said


def test_a_model_that_knows_leads_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainRmConfig(
        labels=labels(tmp_path, edits(60)), model="tiny", level="token", steps=30, lr=3e-3, heldout=0.4, device="cpu",
        out=tmp_path / "rm",
    )  # fmt: skip
    written(config, reward.run(config))
    said = capsys.readouterr().err
    assert "warning" not in said
    assert "tokalign train-ppo" in said
