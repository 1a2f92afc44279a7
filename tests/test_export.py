"""What is exported is what other tools read, and comes back the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.forked import run
from tests.test_formats import WORDS
from tokalign.artifacts.schemas import Preference, ResponseRow
from tokalign.config.options import ReadOptions
from tokalign.config.stages import ExportConfig, ExportTo
from tokalign.data import dataset, readers
from tokalign.data.spreadsheet import quoted
from tokalign.errors import ConflictError, InputError, UsageError
from tokalign.stages import export

TURNS = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}, {"role": "user", "content": "So?"}]


def edit(i: int, prompt: Any = "Q?", original: str = "Bad.", edited: str = "Good.", **more: Any) -> dict[str, Any]:
    return {"id": f"e{i}", "prompt": prompt, "original": original, "edited": edited, **more}


def exported(folder: Path, rows: list[dict[str, Any]], to: ExportTo, name: str = "out.jsonl", **options: Any) -> Path:
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    export.run(ExportConfig(source=str(source), to=to, out=folder / name, fresh=True, **options))
    return folder / name


PROMPTS = st.one_of(WORDS, WORDS.map(lambda t: [*TURNS, {"role": "assistant", "content": t}, TURNS[0]]))


PAIRS = st.lists(st.tuples(PROMPTS, WORDS, WORDS).filter(lambda t: t[1] != t[2]), min_size=1, max_size=4)


def come_back(folder: Path, to: ExportTo, name: str, pairs: list[tuple[Any, str, str]]) -> None:
    """Texts here begin and end in no white space, which transcripts do not keep, and hold no turn of a transcript."""
    path = exported(folder, [edit(i, *texts) for i, texts in enumerate(pairs)], to, name)
    options = ReadOptions(format="tokalign" if to == "csv" else to)  # type: ignore[arg-type]
    back = dataset.read_rows(path, Preference, "preferences", options=options)
    assert [(r.prompt, r.rejected, r.chosen) for r in back] == pairs


@given(PAIRS)
@pytest.mark.parametrize(
    ("to", "name"), [("trl", "o.jsonl"), ("trl", "o.json"), ("hh-rlhf", "o.jsonl"), ("csv", "o.csv")]
)
def test_pairs_come_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, to: ExportTo, name: str, pairs: list[tuple[Any, str, str]]
) -> None:
    come_back(tmp_path_factory.mktemp("x"), to, name, pairs)


@pytest.mark.slow
@settings(max_examples=15)  # every Parquet file is first opened in a process of its own
@given(PAIRS)
def test_pairs_come_back_the_same_from_parquet(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[Any, str, str]]
) -> None:
    come_back(tmp_path_factory.mktemp("x"), "trl", "o.parquet", pairs)


def raw(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in readers.read_file(path)]


def test_trl_rows_are_those_of_its_documentation(tmp_path: Path) -> None:
    assert raw(exported(tmp_path, [edit(0)], "trl")) == [{"prompt": "Q?", "chosen": "Good.", "rejected": "Bad."}]
    assert raw(exported(tmp_path, [edit(0)], "trl-sft")) == [{"prompt": "Q?", "completion": "Good."}]
    said = [{"role": "assistant", "content": "Good."}]
    mixed = raw(exported(tmp_path, [edit(0), edit(1, TURNS)], "trl-sft"))
    assert mixed == [{"prompt": TURNS[:1], "completion": said}, {"prompt": TURNS, "completion": said}]
    bad = [{"role": "assistant", "content": "Bad."}]
    assert raw(exported(tmp_path, [edit(1, TURNS)], "trl")) == [{"prompt": TURNS, "chosen": said, "rejected": bad}]


def test_only_edits_that_changed_something_are_pairs(tmp_path: Path) -> None:
    rows = [edit(0), edit(1, edited="Bad.", status="unchanged"), edit(2, status="rejected"), edit(3)]
    source = tmp_path / "s.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = export.run(ExportConfig(source=str(source), to="csv", out=tmp_path / "o.csv")).file
    assert made
    assert (made.rows, made.skipped) == (2, {"status unchanged": 1, "status rejected": 1})
    assert [row["id"] for row in raw(tmp_path / "o.csv")] == ["e0", "e3"]


def test_preferences_and_responses_are_exported_too(tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    export.run(ExportConfig(source=str(ROOT / "data" / "preferences"), to="trl", out=out, limit=3))
    first = json.loads((ROOT / "data" / "preferences" / "data.jsonl").open().readline())
    assert raw(out)[0] == {k: first[k] for k in ("prompt", "chosen", "rejected")}
    assert len(raw(out)) == 3
    export.run(ExportConfig(source=str(ROOT / "data" / "responses-good"), to="alpaca-eval", out=out, fresh=True))
    assert set(raw(out)[0]) == {"instruction", "output", "generator"}
    ours = dataset.read_rows(ROOT / "data" / "responses-good", ResponseRow, "responses")
    back = dataset.read_rows(out, ResponseRow, "responses")
    assert [(r.prompt, r.response, r.generator) for r in back] == [(r.prompt, r.response, r.generator) for r in ours]


def test_a_file_that_is_there_is_kept_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_text("mine")
    config = ExportConfig(source=str(ROOT / "data" / "edits"), to="trl", out=tmp_path / "o.jsonl")
    with pytest.raises(ConflictError, match="already exists"):
        export.run(config)
    assert (tmp_path / "o.jsonl").read_text() == "mine"


@pytest.mark.parametrize("name", ["o.txt", "o"])
def test_an_unknown_suffix_is_a_usage_error_that_names_those_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"--out .*{name}") as caught:
        export.run(ExportConfig(source=str(ROOT / "data" / "edits"), to="trl", out=tmp_path / name))
    assert ".parquet" in caught.value.remedy


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise InputError("no good")

    monkeypatch.setattr(export, "_trl", fail)
    with pytest.raises(InputError):
        export.run(ExportConfig(source=str(ROOT / "data" / "edits"), to="trl", out=tmp_path / "o.jsonl"))
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    done = run(ROOT, "export", "data/edits", "--to", "trl", "--out", str(tmp_path / "deep" / "o.jsonl"), "--json")
    told = json.loads(done.stdout)
    assert told["read_as"]["kind"] == "edits"
    assert (told["file"], told["rows"], told["skipped"]) == (str(tmp_path / "deep" / "o.jsonl"), 200, {})
    assert told["left_out"] == {
        f"column {name}": 200 for name in ("id", "chosen", "editor", "categories", "similarity")
    }
    assert "left out (not part of the layout): column id (200 rows), column chosen (200 rows)" in done.stderr
    assert "200 rows →" in done.stderr


TURNED = json.dumps([{"role": "user", "content": "Q?"}])
LIKE_LISTS = ["[1, 3, 2]", "[]", '["a", "b"]', "{}", "null", "2.0", "true", TURNED]


def test_what_looks_like_a_list_comes_back_from_csv_as_the_text_it_is(tmp_path: Path) -> None:
    rows = [edit(i, text, text, f"{text}!") for i, text in enumerate(LIKE_LISTS)]
    back = list(dataset.read_rows(exported(tmp_path, rows, "csv", "o.csv"), Preference, "preferences"))
    assert [(r.id, r.rejected, r.chosen) for r in back] == [(f"e{i}", t, f"{t}!") for i, t in enumerate(LIKE_LISTS)]
    prompts = [r.prompt if isinstance(r.prompt, str) else r.prompt[0]["content"] for r in back]
    assert prompts == LIKE_LISTS, "a text that would be read as turns is written as a turn"


@pytest.mark.parametrize(
    ("to", "left_out"),
    [
        ("trl", {"column id": 2, "column chosen": 1, "column categories": 1}),
        ("trl-sft", {"column id": 2, "column chosen": 1, "column categories": 1, "column original": 2}),
        ("csv", {"column chosen": 1, "column categories": 1}),
        ("hh-rlhf", {"column id": 2, "column chosen": 1, "column categories": 1,
                     "roles other than user and assistant: they became Human": 1}),
    ],
)  # fmt: skip
def test_what_a_layout_does_not_hold_is_counted(tmp_path: Path, to: ExportTo, left_out: dict[str, int]) -> None:
    system = [{"role": "system", "content": "Be kind."}, *TURNS]
    rows = [edit(0, system), edit(1, chosen="Best.", categories=["fact"]), edit(2, edited="")]
    source = tmp_path / "s.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = export.run(ExportConfig(source=str(source), to=to, out=tmp_path / "o.jsonl")).file
    assert made
    assert (made.rows, made.skipped, made.left_out) == (2, {"empty response": 1}, left_out)


def test_what_is_left_out_of_responses_is_counted(tmp_path: Path) -> None:
    source = tmp_path / "s.jsonl"
    rows = [{"prompt": TURNS, "response": "A.", "finished": False, "sample": 1}, {"prompt": "Q?", "response": "A."}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = export.run(ExportConfig(source=str(source), to="alpaca-eval", out=tmp_path / "o.jsonl")).file
    assert made
    expected = {"column id": 2, "column sample": 1, "column finished": 1, "turns before the last": 1}
    assert (made.rows, made.left_out) == (2, expected)


def test_foreign_preferences_are_exported(tmp_path: Path) -> None:
    source = tmp_path / "s.jsonl"
    rows = [{"question": "Q?", "chosen": t, "rejected": "Bad."} for t in ("Good.", "", "Best.")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = export.run(ExportConfig(source=str(source), to="trl", out=tmp_path / "o.jsonl")).file
    assert made
    assert (made.rows, made.skipped, (made.read_as or {})["kind"]) == (2, {"empty response": 1}, "orca")


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"), ("@x", "'@x"), ("+1+cmd", "'+1+cmd"), ("-1+cmd", "'-1+cmd"),
        ("- an item", "- an item"), ("-1.5", "-1.5"), ("a=b", "a=b"), ("", ""), (-2, -2), ("\t=1", "'\t=1"),
    ],
)  # fmt: skip
def test_text_that_a_spreadsheet_would_run_is_quoted(cell: Any, written: Any) -> None:
    assert quoted(cell) == written
