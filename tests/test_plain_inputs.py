"""Commands that take artifacts take plain files of the same rows, and say how they read them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.forked import run
from tokalign.artifacts.schemas import Preference
from tokalign.config.options import ReadOptions
from tokalign.data.dataset import holds_edits
from tokalign.errors import InputError, UsageError
from tokalign.training.preferences import as_labels

pytestmark = pytest.mark.slow
EDITS = [{"prompt": f"Name bird {i}.", "original": "A bird is a trout.", "edited": "A bird is a robin."}
         for i in range(4)]  # fmt: skip
PAIRS = [{"id": f"p{i}", "question": f"Name bird {i}.", "chosen": "A robin.", "rejected": f"A trout{'!' * i}"}
         for i in range(40)]  # fmt: skip
TINY = ("--model", "tiny", "--vocab", "300", "--steps", "1")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_train_sft_and_score_take_a_plain_file_of_edits(tmp_path: Path) -> None:
    write(tmp_path / "e.jsonl", [*EDITS, {**EDITS[0], "edited": ""}, {**EDITS[0], "status": "rejected"}])
    done = run(tmp_path, "train-sft", "e.jsonl", *TINY, "--out", "sft")
    assert done.returncode == 0, done.stderr
    assert "data: read as layout tokalign (edits)" in done.stderr
    rows = manifest(tmp_path / "sft")["rows"]
    assert (rows["in"], rows["out"], rows["reasons"]) == (6, 4, {"empty response": 1, "status rejected": 1})
    write(tmp_path / "p.jsonl", PAIRS)
    assert run(tmp_path, "train-rm", "p.jsonl", "--level", "sequence", *TINY, "--out", "rm").returncode == 0
    done = run(tmp_path, "score", "e.jsonl", "--reward-model", "rm", "--out", "scored")
    assert done.returncode == 0, done.stderr
    scored = [json.loads(line) for line in (tmp_path / "scored" / "data.jsonl").read_text().splitlines()]
    assert [(r["id"], r["sample"], r["response"]) for r in scored[:2]] == [
        ("row-0", 0, "A bird is a trout."),
        ("row-0", 1, "A bird is a robin."),
    ]


@pytest.mark.parametrize("artifact", [False, True])
def test_a_sequence_model_is_trained_on_preferences(tmp_path: Path, artifact: bool) -> None:
    source = str(ROOT / "data" / "preferences") if artifact else str(write(tmp_path / "p.jsonl", PAIRS))
    done = run(tmp_path, "train-rm", source, "--level", "sequence", *TINY, "--heldout", "0.3", "--out", "rm")
    assert done.returncode == 0, done.stderr
    assert f"preferences: read as {'preferences/1' if artifact else 'layout orca'}" in done.stderr
    made = manifest(tmp_path / "rm")
    assert made["inputs"][0]["name"] == "preferences"
    assert made["rows"]["train"] + made["rows"]["heldout"] == made["rows"]["out"] > 0
    assert made["stats"]["chosen_over_rejected"]["pairs"] == made["rows"]["heldout"] > 0
    assert made["stats"]["edited_over_original"] == {"mean": None, "ci95": None, "sum": None, "pairs": 0}
    again = run(tmp_path, "train-rm", source, "--level", "sequence", "--model", "rm", "--steps", "1", "--out", "on")
    assert again.returncode == 0, again.stderr


def test_what_preferences_cannot_teach_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", PAIRS)
    for source in ("p.jsonl", str(ROOT / "data" / "preferences")):
        done = run(tmp_path, "train-rm", source, "--level", "token", "--model", "tiny", "--out", "rm")
        assert done.returncode == 5, done.stderr
        assert "then label the edits with tokalign diff" in done.stderr
    done = run(tmp_path, "train-rm", "p.jsonl", "--level", "sequence", "--pairs", "both", *TINY, "--out", "rm")
    assert done.returncode == UsageError.exit_code
    assert "holds preferences, not edits" in done.stderr
    assert not (tmp_path / "rm").exists()


def test_pairs_as_labels_hold_the_ids_of_the_rollout(tokenizer: Any) -> None:
    (row,) = as_labels([Preference(id="a", prompt="Q?", chosen="Good.", rejected="Bad.")], tokenizer)
    assert row.prompt_ids == list(tokenizer.prompts(["Q?"])[0])
    assert row.original_ids == row.edited_ids == list(tokenizer.responses(["Bad."])[0].ids)
    assert (row.original, row.edited, row.chosen) == ("Bad.", "Bad.", "Good.")
    assert set(row.original_labels) == set(row.original_spans) == {0}


def test_edits_are_told_from_other_rows(tmp_path: Path) -> None:
    write(tmp_path / "e.jsonl", EDITS)
    write(tmp_path / "r.jsonl", [{**EDITS[0], "response": "A robin."}])
    write(tmp_path / "p.jsonl", PAIRS)
    found = [holds_edits(tmp_path / f"{name}.jsonl", ReadOptions()) for name in ("e", "r", "p")]
    assert found == [True, False, False]
    assert [holds_edits(ROOT / "data" / name, ReadOptions()) for name in ("edits", "sft")] == [True, False]
    with pytest.raises(InputError, match="no such file"):
        holds_edits(tmp_path / "none.jsonl", ReadOptions())
