"""What comes from outside is read whole or refused by its place, its field and its value."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.manifests import PLAIN_STATS
from tokalign.artifacts import manifest
from tokalign.artifacts.schemas import Edit, Preference, PromptRow, RecordedEdit, ResponseRow, Sft
from tokalign.artifacts.writer import writing
from tokalign.config.options import Format, ReadOptions, StageOptions
from tokalign.data import dataset
from tokalign.errors import InputError, KindError
from tokalign.runtime import disk

GOOD = '{"id": "a", "prompt": "x", "response": "y"}\n'
DEEP = '{"prompt": ' + "[" * 100_000
LATE = b'{"prompt": "x", "response": "y"}\n' * 500


def write(path: Path, content: str | bytes | list[Any]) -> Path:
    if isinstance(content, list):
        content = json.dumps(content) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prompts(path: Path, limit: int | None = None) -> list[tuple[str, Any]]:
    return [(row.id, row.prompt) for row in dataset.read_rows(path, PromptRow, "prompts", limit=limit)]


NEEDS = "a row needs prompt, response"
CUT = "may be truncated"
ICONV = "iconv"
BAD: list[Any] = [
    # file, content, place after the file's name (None: any), parts of the message, part of the remedy
    ("a.jsonl", GOOD + '{"id": "b", "prompt": "x"}', ":2", ["'response'", "missing", "['id', 'prompt']"], NEEDS),
    ("a.json", '[{"prompt": "x"}]', ": row 0", ["'response'", "missing"], NEEDS),
    ("a.jsonl", GOOD + '{"prompt": "x", "response": 5}', ":2", ["'response'", "string", "'5'"], NEEDS),
    ("a.jsonl", '{"prompt": "x", "response": null}', ":1", ["'response'", "string", "'None'"], NEEDS),
    ("a.jsonl", '{"prompt": "x", "response": NaN}', ":1", ["NaN is not valid JSON"], "fix the row"),
    ("a.jsonl", '{"prompt": NaN, "response": "y"}', ":1", ["NaN is not valid JSON"], "fix the row"),
    ("a.jsonl", '{"id": 7, "prompt": "x", "response": "y"}', ":1", ["'id'", "'7'"], NEEDS),
    ("a.jsonl", '{"id": "", "prompt": "x", "response": "y"}', ":1", ["'id'", "at least 1"], NEEDS),
    ("a.jsonl", GOOD + "\n" + '{"id": "b", "prompt": "x', ":3", ["not valid JSON", "Unterminated"], CUT),
    ("a.json", '[{"id": "a", "prompt": "x", "response": "y"},\n{"prompt": "x"', ":2", ["not valid JSON"], CUT),
    ("a.json", '"rows"', "", ["expected an array", "str"], ""),
    ("a.json", '[{"prompt": "x", "response": "y"}, 5]', ": row 1", ["expected an object", "int"], ""),
    ("a.jsonl", GOOD + "[1, 2]", ":2", ["expected an object", "list"], ""),
    ("a.jsonl", "", "", ["no rows"], ""),
    ("a.jsonl", "\n \n", "", ["no rows"], ""),
    ("a.json", "[]", "", ["no rows"], ""),
    ("a.json", "", ":1", ["not valid JSON"], CUT),
    ("a.jsonl", '{"prompt": "x", "response": "ab\\ud800"}', ":1", ["'response'", "surrogate", "2", "\\ud800"], NEEDS),
    ("a.jsonl", '{"prompt": "\\udc00", "response": "y"}', ":1", ["'prompt'", "surrogate", "\\udc00"], NEEDS),
    ("a.jsonl", '{"id": "\\ud800", "prompt": "x", "response": "y"}', ":1", ["'id'", "\\ud800"], NEEDS),
    ("a.jsonl", GOOD.encode() + b'{"prompt": "\xff"}', None, ["not UTF-8", "0xff", f"offset {len(GOOD) + 12}"], ICONV),
    ("a.jsonl", GOOD + "\n\n" + GOOD, ":4", ["'id'", "'a'", "duplicate", "a.jsonl:1"], ""),
    ("a.json", f"[{GOOD},{GOOD}]", ": row 1", ["'id'", "'a'", "duplicate", "a.json: row 0"], ""),
    ("a.jsonl", GOOD + '{"prompt": "x", "response": "y", "prompt": "z"}', ":2", ["'prompt'", "duplicate"], ""),
    ("a.json", '[{"prompt": "x", "response": "y", "prompt": "z"}]', "", ["'prompt'", "duplicate"], "fix the row"),
    ("a.jsonl", '{"prompt": "x", "response": "a\0b"}', ":1", ["not valid JSON", "control character"], CUT),
    ("a.jsonl", GOOD + "\ufeff" + GOOD, ":2", ["not valid JSON", "BOM"], CUT),
    ("a.jsonl", '{"prompt": "x", "response": " \\n"}', ":1", ["'response'", "empty", "' \\n'"], NEEDS),
    ("a.jsonl", '{"prompt": [{"content": "x"}], "response": "y"}', ":1", ["'prompt'", "role", "['content']"], NEEDS),
    ("a.jsonl", '{"prompt": [], "response": "y"}', ":1", ["'prompt'", "at least one turn"], NEEDS),
    ("a.jsonl", '{"prompt": [{"role": "user", "content": 5}], "response": "y"}', ":1", ["'prompt'", "5"], NEEDS),
    (
        "a.jsonl",
        '{"prompt": [{"role": "u", "content": "\\ud800"}], "response": "y"}',
        ":1",
        ["'prompt'", "surrogate"],
        NEEDS,
    ),
    ("none.jsonl", None, "", ["no such file"], ""),
    ("a.jsonl", DEEP, ":1", ["not valid JSON"], ""),
    ("a.json", b'[{"prompt": "\xff"}]', "", ["not UTF-8", "0xff", "offset 13"], ICONV),
    ("a.jsonl", LATE + b'{"prompt": "\xff"}', None, ["not UTF-8", f"offset {len(LATE) + 12}"], ICONV),
    ("a.jsonl", '{"prompt": [{"role": "\\ud800", "content": "x"}], "response": "y"}', ":1", ["surrogate"], NEEDS),
]


@pytest.mark.parametrize(("name", "content", "place", "parts", "remedy"), BAD)
def test_bad_input_is_refused_by_place_field_and_value(
    tmp_path: Path, name: str, content: str | bytes | None, place: str | None, parts: list[str], remedy: str
) -> None:
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(InputError) as caught:
        dataset.read_rows(path, Sft, "sft")
    message = str(caught.value)
    assert message.startswith(str(path) if place is None else f"{path}{place}: ")
    assert [part for part in parts if part not in message] == []
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"%PDF-1.7", b"Name a bird.\n"])
def test_what_holds_no_rows_is_refused_with_the_kinds_that_are_read(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"rows\.xlsx: neither JSON nor a table; the file starts with") as caught:
        dataset.read_rows(write(tmp_path / "rows.xlsx", content), Sft, "sft")
    assert ".jsonl" in caught.value.remedy
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(("column", "value"), [("sample", "1"), ("sample", 1.0), ("finished", "yes"), ("finished", 1)])
def test_a_value_is_not_bent_to_its_type(tmp_path: Path, column: str, value: Any) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "x", "response": "y", column: value}])
    with pytest.raises(InputError, match=rf":1: field '{column}': .*got {str(value)!r}$"):
        dataset.read_rows(path, ResponseRow, "responses")


def test_a_long_value_is_shown_by_its_beginning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": ["word"] * 10_000}])
    with pytest.raises(InputError, match="word") as caught:
        dataset.read_rows(path, PromptRow, "prompts")
    assert len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_byte_order_mark_at_the_start_is_no_part_of_the_rows(tmp_path: Path, name: str) -> None:
    content = GOOD if name == "a.jsonl" else f"[{GOOD}]"
    assert prompts(write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())) == [("a", "x")]


def test_rows_keep_their_text_to_the_letter(tmp_path: Path) -> None:
    texts = ["  two  ", "a\u2028b\x85c\r\nd", "שלום \u202e", "\0", "e\u0301", "👩‍👩‍👧", ""]
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rows = [{"id": str(i), "prompt": t} for i, t in enumerate([*texts, turns])]
    expected = [(str(i), t) for i, t in enumerate([*texts, turns])]
    assert prompts(write(tmp_path / "a.json", rows)) == expected
    plain = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    assert prompts(write(tmp_path / "a.jsonl", plain)) == expected


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    lines = [
        "",
        '{"prompt": "a"}',
        "   ",
        "",
        '{"prompt": "b", "more": [1]}',
        '{"id": "c", "prompt": "c"}',
        '{"prompt": "d"}',
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert prompts(path) == [("row-0", "a"), ("row-1", "b"), ("c", "c"), ("row-3", "d")]
    write(path, "\n".join([*lines, "", "{}"]))
    with pytest.raises(InputError, match=r"a\.jsonl:9: field 'prompt'"):
        prompts(path)


def test_a_name_given_to_a_row_may_not_be_that_of_another(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": "row-1", "prompt": "a"}, {"prompt": "b"}])
    with pytest.raises(InputError, match=r"a\.jsonl:2: field 'id': duplicate key 'row-1'"):
        prompts(path)


def test_samples_of_one_prompt_share_its_id(tmp_path: Path) -> None:
    rows = [{"id": "a", "sample": i, "prompt": "x", "response": "y"} for i in (0, 1, 1)]
    path = write(tmp_path / "a.jsonl", rows)
    assert len(dataset.read_rows(path, ResponseRow, "responses", limit=2)) == 2
    with pytest.raises(InputError, match=r"a\.jsonl:3: .*duplicate key 'a 1', first at .*a\.jsonl:2"):
        dataset.read_rows(path, ResponseRow, "responses")


def test_rows_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n{"id": "row-0", "prompt": 3}\nnot JSON')
    assert prompts(path, limit=1) == [("row-0", "a")]
    assert prompts(path, limit=2) == [("row-0", "a"), ("row-1", "b")]
    with pytest.raises(InputError, match=r"a\.jsonl:3"):
        prompts(path, limit=3)


def test_a_limit_above_the_rows_takes_them_all(tmp_path: Path) -> None:
    rows = dataset.read_rows(write(tmp_path / "a.jsonl", GOOD), Sft, "sft", limit=9)
    assert (len(rows), rows.total, rows.lineage["kind"]) == (1, 1, "sft")
    assert rows.account() == {"in": 1, "out": 1, "skipped": 0, "reasons": {}}


def recorded(
    path: Path, layout: Format = "auto", passages: bool = True, strict: bool = False, limit: int | None = None
) -> dataset.Rows[RecordedEdit]:
    options = ReadOptions(format=layout, passages=passages, strict=strict)
    return dataset.read_rows(path, RecordedEdit, "edits", options=options, limit=limit)


def qa(prediction: Any = "Bob did.", corrected: Any = "Ann did.", **more: Any) -> dict[str, Any]:
    passages = [["Title", "One.", "Two.\n\nThree."], ["Other", "Four."]]
    feedback = {"errors": [], "missing-info": [], "corrected-prediction": corrected}
    row = {"question": "Who did it?", "passages": passages, "prediction 1": prediction, "prediction 2": "No one."}
    return {**row, "feedback": feedback, **more}


@pytest.mark.parametrize("layout", ["auto", "qa-feedback"])
def test_qa_feedback_rows_become_recorded_edits(tmp_path: Path, layout: Format) -> None:
    path = write(tmp_path / "qa.json", [qa(), qa("It was Bob.", "It was Ann.", question="Who was it?")])
    rows = recorded(path, layout, strict=True)
    texts = "Title\nOne. Two.\n\nThree.\n\nOther\nFour.\n\nQuestion: "
    assert [(r.id, r.prompt, r.original, r.edited, r.chosen) for r in rows] == [
        ("qa-0", f"{texts}Who did it?", "Bob did.", "Ann did.", None),
        ("qa-1", f"{texts}Who was it?", "It was Bob.", "It was Ann.", None),
    ]
    assert (rows.lineage["kind"], rows.lineage["path"]) == ("qa-feedback", str(path))
    assert rows.lineage["sha256"] == disk.sha256(path)


def test_without_passages_the_question_alone_is_the_prompt(tmp_path: Path) -> None:
    rows = recorded(write(tmp_path / "qa.jsonl", [qa()]), passages=False)
    assert [r.prompt for r in rows] == ["Who did it?"]


def test_qa_feedback_rows_that_cannot_be_used_are_skipped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "qa.json", [qa(corrected=""), qa(), qa(" \n"), qa(corrected=None), qa()])
    rows = recorded(path)
    assert [r.id for r in rows] == ["qa-1", "qa-4"], "numbered by their place in the file"
    assert rows.reasons == {"no correction": 2, "empty response": 1}
    assert rows.account() == {"in": 5, "out": 2, "skipped": 3, "reasons": {"no correction": 2, "empty response": 1}}
    more = rows.account([("too long", 1)], failed=0)
    assert (more["in"], more["out"], more["skipped"], more["failed"]) == (5, 1, 4, 0)
    assert more["reasons"]["too long"] == 1
    assert [recorded(path, limit=n).account()["skipped"] for n in (2, 3, 4, 5)] == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("row", "reason"), [(qa(corrected=""), "no correction"), (qa(""), "empty response"), (qa("\t"), "empty response")]
)
def test_strict_refuses_the_first_row_that_cannot_be_used(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "qa.json", [qa(), row])
    with pytest.raises(InputError, match=rf"qa\.json: row 1: {reason}") as caught:
        recorded(path, strict=True)
    assert "--strict" in caught.value.remedy


def test_a_file_without_a_usable_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no usable rows: \{'no correction': 2\}"):
        recorded(write(tmp_path / "qa.json", [qa(corrected="")] * 2))


NOT_QA = [qa(feedback={}), qa(feedback="good"), qa(passages=[[]]), qa(passages=5), qa(passages=[["Title", 5]])]
NOT_QA += [qa(passages=["Title"]), qa(question=None)]


@pytest.mark.parametrize("row", NOT_QA)
def test_a_row_of_another_layout_is_skipped_or_refused_by_its_place(tmp_path: Path, row: dict[str, Any]) -> None:
    path = write(tmp_path / "qa.json", [qa(), row])
    assert [r.id for r in recorded(path)] == ["qa-0"]
    with pytest.raises(InputError, match=r"qa\.json: row 1: ") as caught:
        recorded(path, strict=True)
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize(("row", "column"), [(qa(5), "original"), (qa(None), "original"), (qa(corrected=5), "edited")])
def test_a_qa_feedback_text_of_another_type_is_refused(tmp_path: Path, row: dict[str, Any], column: str) -> None:
    with pytest.raises(InputError, match=rf"qa\.json: row 0: .*field '{column}': .*string"):
        recorded(write(tmp_path / "qa.json", [row]))


@pytest.mark.parametrize("layout", ["auto", "tokalign"])
def test_rows_with_original_and_edited_are_our_own_layout(tmp_path: Path, layout: Format) -> None:
    row = {"prompt": "x", "original": "bad", "edited": "good", "chosen": "best", "categories": ["fact"]}
    rows = recorded(write(tmp_path / "a.jsonl", [row]), layout)
    assert list(rows) == [RecordedEdit(id="row-0", **row)]  # type: ignore[arg-type]
    assert rows.lineage["kind"] == "edits"
    with pytest.raises(InputError, match=r"no usable rows: \{'no question': 1\}") as caught:
        recorded(tmp_path / "a.jsonl", "qa-feedback")
    assert "a row needs question, passages" in caught.value.remedy


@pytest.mark.parametrize("layout", ["auto", "tokalign", "qa-feedback"])
def test_recorded_edits_in_a_bad_file_are_refused(tmp_path: Path, layout: Format) -> None:
    for content, match in [("", "no "), ("{", "not valid JSON"), (None, "no such file")]:
        path = tmp_path / f"{bool(content)}-{content is None}.jsonl"
        with pytest.raises(InputError, match=match):
            recorded(path if content is None else write(path, content), layout)


def test_recorded_rows_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "x", "original": "bad", "edited": "good"})
    assert len(recorded(write(tmp_path / "a.jsonl", f"{row}\nnot JSON"), limit=1)) == 1


def artifact(folder: Path, kind: str, rows: list[dict[str, Any]]) -> manifest.Manifest:
    with writing(kind, StageOptions(out=folder), {}) as out:
        return out.commit({"in": len(rows), "out": out.jsonl("data.jsonl", rows)}, PLAIN_STATS.get(kind))


def test_edits_are_read_from_an_artifact_as_edits_and_as_recorded_edits(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "x", "original": "bad", "edited": "good", "status": "edited", "similarity": 0.5}
    other = {"id": "b", "prompt": "x", "original": "so", "edited": "so", "status": "unchanged", "usage": {"tokens": 3}}
    made = artifact(tmp_path / "edits", "edits", [row, other])
    edits = dataset.read_rows(tmp_path / "edits", Edit, "edits")
    assert [(e.id, e.status, e.similarity) for e in edits] == [("a", "edited", 0.5), ("b", "unchanged", None)]
    assert edits.lineage == {**made.lineage(), "path": str(tmp_path / "edits")}
    again = recorded(tmp_path / "edits", limit=1)
    assert [(r.id, r.original, r.edited) for r in again] == [("a", "bad", "good")]


def test_an_artifact_of_the_wrong_kind_is_refused_with_the_command_that_makes_the_right_one(tmp_path: Path) -> None:
    artifact(tmp_path / "prompts", "prompts", [{"id": "a", "prompt": "x"}])
    with pytest.raises(KindError, match="holds prompts, not edits") as caught:
        dataset.read_rows(tmp_path / "prompts", Edit, "edits")
    assert "tokalign edit" in caught.value.remedy
    with pytest.raises(KindError, match="not edits"):
        recorded(tmp_path / "prompts")
    assert len(dataset.read_rows(tmp_path / "prompts", PromptRow, "sft", "prompts")) == 1, "one of several kinds"


def test_an_invalid_row_of_an_artifact_is_refused_by_its_line(tmp_path: Path) -> None:
    artifact(tmp_path / "p", "preferences", [{"id": "a", "prompt": "x", "chosen": "y", "rejected": ""}])
    with pytest.raises(InputError, match=r"p/data\.jsonl:1: field 'rejected': .*empty"):
        dataset.read_rows(tmp_path / "p", Preference, "preferences")


def test_a_run_that_never_ended_and_a_folder_of_other_things_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "edits"
    with pytest.raises(ZeroDivisionError), writing("edits", StageOptions(out=folder), {}) as out:
        out.jsonl("data.jsonl", [{"id": "a", "prompt": "x", "original": "y", "edited": "z"}])
        raise ZeroDivisionError
    readers: list[Any] = [lambda f: dataset.read_rows(f, Edit, "edits"), recorded]
    for read in readers:
        with pytest.raises(InputError, match="unfinished run") as caught:
            read(folder)
        assert (caught.value.where, "tokalign edit" in caught.value.remedy) == (str(folder), True)
        with pytest.raises(KindError, match="not an artifact"):
            read(tmp_path)
