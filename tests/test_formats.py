"""Rows laid out elsewhere become ours, or are skipped with the reason."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokalign.artifacts.schemas import Preference, PromptRow, RecordedEdit, ResponseRow, Sft
from tokalign.config.options import Format, ReadOptions
from tokalign.data import conversation, dataset, layouts
from tokalign.data import rows as rows_module
from tokalign.data.conversation import ENDS, as_transcript, transcript
from tokalign.errors import InputError


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def hh(*turns: str) -> str:
    return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {turn}" for i, turn in enumerate(turns))


SIDES = (("chosen", "Good."), ("rejected", "Bad."))
DIFFER = "prompts differ inside the pair"
EQUAL = "no preference: the scores are equal"
USER, TALK = said("user", "Q?"), [said("user", "Q?"), said("assistant", "A."), said("user", "More?")]
UF = {"prompt": "Q?", "prompt_id": "7", "messages": [USER, said("assistant", "Good.")]}
PAIRS: list[tuple[Format, dict[str, Any], tuple[Any, str, str]]] = [
    ("hh-rlhf", {"chosen": hh("Q?", "Good."), "rejected": hh("Q?", "Bad.")}, ("Q?", "Good.", "Bad.")),
    (
        "hh-rlhf",
        {"chosen": hh("Q?", "A.", "More?", "Good. \n\nBye "), "rejected": hh("Q?", "A.", "More?", "Bad.")},
        (TALK, "Good. \n\nBye", "Bad."),
    ),
    (
        "hh-rlhf",
        {side: f"\n\nHuman: a\n\nHuman: b\n\nAssistant: {text}" for side, text in SIDES},
        ("a\n\nb", "Good.", "Bad."),
    ),
    ("trl", {"chosen": "The sky is blue.", "rejected": "The sky is green."}, ("The sky is", " blue.", " green.")),
    ("trl", {side: [USER, said("assistant", text)] for side, text in SIDES}, ("Q?", "Good.", "Bad.")),
    (
        "trl",
        {"prompt": TALK, "chosen": [said("assistant", "Good.")], "rejected": [said("assistant", "Bad.")]},
        (TALK, "Good.", "Bad."),
    ),
    (
        "ultrafeedback",
        {**UF, **{side: [USER, said("assistant", t)] for side, t in SIDES}, "score_chosen": 8.0, "score_rejected": 5},
        ("Q?", "Good.", "Bad."),
    ),
    (
        "ultrafeedback",
        {
            "source": "x",
            "instruction": "Q?",
            "completions": [
                {"response": r, "overall_score": s, "annotations": {}}
                for r, s in (("So-so.", 6.0), ("Good.", 9.5), ("Bad.", 2), ("Unrated.", None))
            ],
        },
        ("Q?", "Good.", "Bad."),
    ),
    (
        "alpaca-farm",
        {"instruction": "Q?", "input": "", "output_1": "Bad.", "output_2": "Good.", "preference": 2},
        ("Q?", "Good.", "Bad."),
    ),
    (
        "alpaca-farm",
        {"instruction": "Add.", "input": "1, 2", "output_1": "Good.", "output_2": "Bad.", "preference": 1},
        ("Add.\n\n1, 2", "Good.", "Bad."),
    ),
    (
        "orca",
        {"system": "Be kind.", "question": "Q?", "chosen": "It is good.", "rejected": "It is bad."},
        ([said("system", "Be kind."), USER], "It is good.", "It is bad."),
    ),
    ("orca", {"system": "", "question": "Q?", "chosen": "It is good.", "rejected": "It is bad."},
     ("Q?", "It is good.", "It is bad.")),
    (
        "llama-factory",
        {"instruction": "Add.", "input": "1, 2", "chosen": "It is 3.", "rejected": "It is 4."},
        ("Add.\n\n1, 2", "It is 3.", "It is 4."),
    ),
    (
        "llama-factory",
        {"instruction": "More?", "input": "", "system": "Be kind.", "history": [["Q?", "A."]],
         "chosen": "It is 3.", "rejected": "It is 4."},
        ([said("system", "Be kind."), *TALK], "It is 3.", "It is 4."),
    ),
    ("llama-factory", {"instruction": "Q?", "input": "", "output": ["Good.", "Bad."]}, ("Q?", "Good.", "Bad.")),
    (
        "llama-factory",
        {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."},
                           {"from": "human", "value": "More?"}],
         "chosen": {"from": "gpt", "value": "Good."}, "rejected": {"from": "gpt", "value": "Bad."}},
        (TALK, "Good.", "Bad."),
    ),
    (
        "llama-factory",
        {"conversations": [{"from": "human", "value": "Q?"}], "system": "Be kind.", "chosen": "Good.",
         "rejected": "Bad."},
        ([said("system", "Be kind."), USER], "Good.", "Bad."),
    ),
    ("llama-factory", {"messages": TALK, "chosen": said("assistant", "Good."), "rejected": said("assistant", "Bad.")},
     (TALK, "Good.", "Bad.")),
    (
        "argilla",
        {"source": "x", "instruction": "Q?", "chosen_response": "It is good.", "rejected_response": "It is bad.",
         "chosen_avg_rating": 5.0, "chosen_model": "m"},
        ("Q?", "It is good.", "It is bad."),
    ),
    (
        "argilla",
        {"system": "Be kind.", "input": "Q?", "chosen": "It is good.", "rejected": "It is bad.", "status": "changed"},
        ([said("system", "Be kind."), USER], "It is good.", "It is bad."),
    ),
    (
        "argilla",
        {"prompt": "Q?", **{side: [USER, said("assistant", t)] for side, t in SIDES}, "chosen-rating": 5.0,
         "rejected-rating": 3.0},
        ("Q?", "Good.", "Bad."),
    ),
    (
        "nectar",
        {"prompt": hh("Q?", "A.", "More?", ""), "turns": 2,
         "answers": [{"answer": a, "rank": r} for a, r in (("So-so.", 2.0), ("Bad.", 7), ("Good.", 1.0))]},
        (TALK, "Good.", "Bad."),
    ),
    (
        "shp",
        {"post_id": "p", "history": "Q?", "human_ref_A": "Bad.", "human_ref_B": "Good.", "labels": 0, "score_A": 5},
        ("Q?", "Good.", "Bad."),
    ),
    (
        "pku-saferlhf",
        {"prompt": "Q?", "response_0": "Bad.", "response_1": "Good.", "better_response_id": 1, "safer_response_id": 0},
        ("Q?", "Good.", "Bad."),
    ),
    (
        "helpsteer",
        {"split": "train", "prompt": "Q?\n<extra_id_1>Assistant\nA.\n<extra_id_1>User\nMore?",
         "response_1": "Good.", "response_2": "Bad.", "preference_strength": -2},
        (TALK, "Good.", "Bad."),
    ),
    (
        "helpsteer",
        {"domain": "code", "context": [USER], "response1": "Bad.", "response2": "Good.", "overall_preference": 3},
        ("Q?", "Good.", "Bad."),
    ),
    ("trl", {"prompt": "Q?", "chosen": said("assistant", "Good."), "rejected": said("assistant", "Bad.")},
     ("Q?", "Good.", "Bad.")),
    ("trl", {"prompt": [USER], "chosen": [said("assistant", "A."), said("user", "More?"), said("assistant", "Good.")],
             "rejected": [said("assistant", "A."), said("user", "More?"), said("assistant", "Bad.")]},
     (TALK, "Good.", "Bad.")),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "row", "expected"), PAIRS)
@pytest.mark.parametrize("named", [False, True])
def test_pairs(
    tmp_path: Path, layout: Format, row: dict[str, Any], expected: tuple[Any, str, str], named: bool
) -> None:
    options = ReadOptions(format=layout if named else "auto")
    rows = dataset.read_rows(write(tmp_path / "a.jsonl", row, row), Preference, "preferences", options=options)
    prefix = layouts.LAYOUTS[layout].prefix
    assert [(r.id, r.prompt, r.chosen, r.rejected, r.source) for r in rows] == [
        (f"{prefix}-{i}", *expected, layout) for i in range(2)
    ]
    assert rows.lineage["kind"] == layout
    (prompt, better, _), path = expected, tmp_path / "a.jsonl"
    assert [(r.prompt, r.response) for r in dataset.read_rows(path, Sft, "sft", options=options)] == [
        (prompt, better)
    ] * 2
    if "prompt" not in row or layout in ("nectar", "helpsteer"):  # a prompt in our column is taken as it is
        assert [r.prompt for r in dataset.read_rows(path, PromptRow, "prompts", options=options)] == [prompt] * 2


DEMONSTRATIONS: list[tuple[Format, dict[str, Any], tuple[Any, str]]] = [
    ("trl", {"prompt": "Q?", "completion": "Good."}, ("Q?", "Good.")),
    ("trl", {"prompt": TALK, "completion": [said("assistant", "Good.")]}, (TALK, "Good.")),
    ("trl", {"messages": [*TALK, said("assistant", "Good.")]}, (TALK, "Good.")),
    ("alpaca-farm", {"instruction": "Q?", "input": "x", "output": "Good."}, ("Q?\n\nx", "Good.")),
    ("alpaca-eval", {"instruction": "Q?", "output": "Good.", "generator": "m"}, ("Q?", "Good.")),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "Good."}]},
        ("Q?", "Good."),
    ),
    (
        "sharegpt",
        {"conversations": [*TALK, said("assistant", "Good.")], "system": "Be kind."},
        ([said("system", "Be kind."), *TALK], "Good."),
    ),
    ("llama-factory", {"instruction": "More?", "output": "Good.", "history": [["Q?", "A."]]}, (TALK, "Good.")),
    (
        "orca",
        {"system_prompt": "Be kind.", "question": "Q?", "response": "Good."},
        ([said("system", "Be kind."), USER], "Good."),
    ),
    ("alpaca-eval", {"instruction": "Q?", "input": "I", "output": "Good.", "generator": "m"}, ("Q?\n\nI", "Good.")),
]


@pytest.mark.parametrize(("layout", "row", "expected"), DEMONSTRATIONS)
def test_demonstrations(tmp_path: Path, layout: Format, row: dict[str, Any], expected: tuple[Any, str]) -> None:
    for options in (ReadOptions(), ReadOptions(format=layout)):
        rows = dataset.read_rows(write(tmp_path / "a.jsonl", row), Sft, "sft", options=options)
        assert [(r.prompt, r.response) for r in rows] == [expected]


def test_outputs_for_alpaca_eval_are_responses(tmp_path: Path) -> None:
    rows = [{"instruction": "Q?", "output": out, "generator": "m", "dataset": "d"} for out in ("A.", "")]
    read = dataset.read_rows(write(tmp_path / "a.jsonl", *rows), ResponseRow, "responses")
    assert [(r.id, r.prompt, r.response, r.generator) for r in read] == [
        ("ae-0", "Q?", "A.", "m"),
        ("ae-1", "Q?", "", "m"),
    ]


GOOD: dict[Format, dict[str, Any]] = {layout: row for layout, row, _ in reversed(PAIRS)}
UNUSABLE: list[tuple[Format, dict[str, Any], str]] = [
    ("hh-rlhf", {"chosen": hh("Q?", " "), "rejected": hh("Q?", "Bad.")}, "empty response"),
    ("hh-rlhf", {"chosen": hh("Q?", "A.", "So?", "Good."), "rejected": hh("Q?", "Bad.")}, DIFFER),
    ("hh-rlhf", {"chosen": hh("Q?", "Good."), "rejected": hh("P?", "Bad.")}, DIFFER),
    ("hh-rlhf", {"chosen": hh("Q?", "Good."), "rejected": hh("Q?", "Good.")}, "both responses are the same"),
    ("trl", {"chosen": "Blue.", "rejected": "Green."}, DIFFER),
    ("trl", {"chosen": [USER, said("assistant", "a")], "rejected": [said("assistant", "b")]}, DIFFER),
    ("trl", {"chosen": [USER, said("assistant", "")], "rejected": [USER, said("assistant", "b")]}, "empty response"),
    ("ultrafeedback", {**GOOD["ultrafeedback"], "score_chosen": 5}, EQUAL),
    ("ultrafeedback", {"instruction": "Q?", "completions": [{"response": "a"}]}, EQUAL),
    ("alpaca-farm", {**GOOD["alpaca-farm"], "preference": 0}, "no preference"),
    ("alpaca-farm", {**GOOD["alpaca-farm"], "output_1": "\n"}, "empty response"),
    ("alpaca-farm", {**GOOD["alpaca-farm"], "preference": "3.0"}, "no preference"),
    ("hh-rlhf", {"chosen": hh("Q?", "Good.", "Bye."), "rejected": hh("Q?", "Bad.", "Bye.")}, ENDS),
    ("trl", {"chosen": None, "rejected": "x"}, "no chosen"),
    ("trl", {"prompt": "", "chosen": "a", "rejected": "b"}, "no prompt"),
    ("trl", {"chosen": [USER, {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}],
             "rejected": [USER, said("assistant", "b")]}, "a tool call without text"),
    ("trl", {"chosen": [USER, {"role": "assistant", "content": None}], "rejected": []}, "a turn without text"),
    ("trl", {"prompt": [USER], "chosen": [said("assistant", "a"), said("user", "Bye.")],
             "rejected": [said("assistant", "b")]}, ENDS),
    ("trl", {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q?"}]}],
             "chosen": [said("assistant", "a")], "rejected": [said("assistant", "b")]},
     "a turn holds an image, a sound or a file; only text is read"),
    ("trl", {**GOOD["trl"], "images": ["a.png"]}, "a row with an image, a sound or a video; only text is read"),
    ("trl", {"chosen": "Say \ud800 a", "rejected": "Say \ud800 b", "x": 1}, "field 'prompt': lone surrogate"),
    ("trl", {"question": "Q?", "chosen": "It is a.", "rejected": "It is b."},
     "there is no prompt, but 'question' may be one"),
    ("nectar", {**GOOD["nectar"], "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 1.0}]}, EQUAL),
    ("nectar", {**GOOD["nectar"], "answers": [{"answer": None, "rank": 1}, {"answer": "b", "rank": 2}]}, "no answer"),
    ("shp", {**GOOD["shp"], "labels": None}, "no labels"),
    ("pku-saferlhf", {**GOOD["pku-saferlhf"], "better_response_id": 2}, "no preference"),
    ("helpsteer", {**GOOD["helpsteer"], "preference_strength": 0, "overall_preference": 0}, "no preference"),
    ("argilla", {**GOOD["argilla"], "status": "tie"}, EQUAL),
    ("llama-factory", {**GOOD["llama-factory"], "rejected": None}, "no rejected"),
    ("llama-factory", {"instruction": "Q?", "history": ["A."], "chosen": "a", "rejected": "b"},
     "history is not a list of questions with their answers"),
    ("orca", {**GOOD["orca"], "question": " "}, "no prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "row", "reason"), UNUSABLE)
def test_a_row_that_cannot_be_used_is_skipped_and_counted_and_refused_when_strict(
    tmp_path: Path, layout: Format, row: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path / "a.jsonl", GOOD[layout], row, GOOD[layout])
    rows = dataset.read_rows(path, Preference, "preferences", options=ReadOptions(format=layout))
    prefix = layouts.LAYOUTS[layout].prefix
    assert [r.id for r in rows] == [f"{prefix}-0", f"{prefix}-2"], "numbered by their place in the file"
    assert rows.account() == {"in": 3, "out": 2, "skipped": 1, "reasons": {reason: 1}}
    with pytest.raises(InputError, match=rf"a\.jsonl:2: {re.escape(reason)}"):
        dataset.read_rows(path, Preference, "preferences", options=ReadOptions(format=layout, strict=True))


@pytest.mark.parametrize("layout", list(GOOD))
@pytest.mark.parametrize("row", [{"prompt": "x"}, {"chosen": 5, "rejected": 5}, {"instruction": 5, "completions": 5}])
def test_a_row_of_another_layout_is_skipped_and_a_file_of_them_is_refused(
    tmp_path: Path, layout: Format, row: dict[str, Any]
) -> None:
    options = ReadOptions(format=layout)
    rows = dataset.read_rows(write(tmp_path / "a.jsonl", GOOD[layout], row), Preference, "p", options=options)
    assert (len(rows), rows.total) == (1, 2)
    with pytest.raises(InputError, match=r"a\.jsonl:2: ") as caught:
        dataset.read_rows(tmp_path / "a.jsonl", Preference, "p", options=ReadOptions(format=layout, strict=True))
    assert not re.search(r"Error|Exception|Traceback", str(caught.value))
    with pytest.raises(InputError, match=r"b\.jsonl:1: no usable rows") as caught:
        dataset.read_rows(write(tmp_path / "b.jsonl", row, row), Preference, "p", options=options)
    assert "a row needs" in caught.value.remedy


@pytest.mark.parametrize("more", ["question", "query", "user_prompt", "System", "input-text", "context", "poser"])
def test_a_prompt_that_both_sides_begin_with_is_taken_only_where_nothing_else_may_be_it(
    tmp_path: Path, more: str
) -> None:
    pair = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    rows = [{**pair, more: f"What is it, {i}?"} for i in range(2)]
    if more == "question":
        assert [r.prompt for r in prefs(write(tmp_path / "a.jsonl", *rows))] == [row[more] for row in rows]
        return
    with pytest.raises(InputError, match=r":1: field 'prompt': missing; the row has \[") as caught:
        prefs(write(tmp_path / "a.jsonl", *rows))
    assert more in str(caught.value)
    plain: list[dict[str, Any]] = [{**pair, "source": "x", "prompt_id": str(i), more: None} for i in range(2)]
    assert [r.prompt for r in prefs(write(tmp_path / "b.jsonl", *plain))] == ["The sky is"] * 2


def prefs(path: Path, **options: Any) -> dataset.Rows[Preference]:
    return dataset.read_rows(path, Preference, "preferences", options=ReadOptions(**options))


def test_the_layout_is_that_of_the_file_and_not_of_its_first_row(tmp_path: Path) -> None:
    good: dict[str, Any] = {"prompt": "Q?", "chosen": "Good.", "rejected": "Bad."}
    odd: dict[str, Any] = {"prompt": [USER], "chosen": [said("assistant", "a")], "rejected": [said("assistant", "b")]}
    with pytest.raises(InputError, match=":1: field 'chosen'"):
        prefs(write(tmp_path / "a.jsonl", odd, good, good))
    rows = prefs(write(tmp_path / "b.jsonl", {**odd, "chosen": None}, odd, odd, {**odd, "chosen": "text"}))
    assert (rows.lineage["kind"], len(rows), dict(rows.reasons)) == ("trl", 3, {"no chosen": 1})


def test_a_system_message_in_a_column_of_its_own_comes_first(tmp_path: Path) -> None:
    row = {"prompt": "Q?", "system": "Be kind.", "chosen": "Good.", "rejected": "Bad."}
    rows: list[dict[str, Any]] = [row, {**row, "system": ""}, {**row, "system": None}]
    expected = [[said("system", "Be kind."), USER], "Q?", "Q?"]
    assert [r.prompt for r in prefs(write(tmp_path / "a.jsonl", *rows))] == expected
    assert [r.prompt for r in prefs(tmp_path / "a.jsonl", format="trl")] == expected


OWN = [
    ([{"id": "a"}, {"id": 7}, {"id": "c"}], ["a", "7", "c"]),
    ([{"prompt_id": "a"}, {"prompt_id": "b"}, {"prompt_id": ""}], ["a", "b", "orca-2"]),
    ([{"id": "a"}, {"id": "a"}, {"id": "b"}], ["orca-0", "orca-1", "b"]),
    ([{"id": "orca-1"}, {"id": ""}, {"id": "b"}], ["orca-0", "orca-1", "b"]),
    ([{"id": None, "uuid": "u"}, {"id": [1], "uid": "v"}, {"id": "\ud800"}], ["u", "v", "orca-2"]),
]  # fmt: skip


@pytest.mark.parametrize(("ids", "expected"), OWN)
def test_a_foreign_row_keeps_an_id_that_no_other_has(
    tmp_path: Path, ids: list[dict[str, Any]], expected: list[str]
) -> None:
    rows = prefs(write(tmp_path / "a.jsonl", *({**GOOD["orca"], **row} for row in ids)))
    assert [r.id for r in rows] == expected
    assert [r.id for r in rows] == expected, "and again"


def test_where_many_ids_stand_twice_no_row_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_SHARED", 2)
    rows = prefs(write(tmp_path / "a.jsonl", *({**GOOD["orca"], "id": str(i // 2)} for i in range(7))))
    assert [r.id for r in rows] == [f"orca-{i}" for i in range(7)]


def test_text_parts_are_text_and_the_nulls_of_tables_are_nothing(tmp_path: Path) -> None:
    extra = {"tool_calls": None, "name": None}
    turn = {"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "?"}], **extra}
    row = {"prompt": [turn], "chosen": [{**said("assistant", "Good."), **extra}], "rejected": "Bad."}
    rows = [row, {**row, "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "Bad."}]}]}]
    assert [(r.prompt, r.chosen, r.rejected) for r in prefs(write(tmp_path / "a.jsonl", *rows))] == [
        ("Q?", "Good.", "Bad.")
    ] * 2
    ours = {"prompt": [turn], "original": "Bad.", "edited": "Good.", "categories": None, "id": None}
    (read,) = dataset.read_rows(write(tmp_path / "b.jsonl", ours), RecordedEdit, "edits")
    assert (read.id, read.prompt, read.categories) == ("row-0", [USER], [])
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}
    for prompt in ([image], [{"role": "user", "content": None}], [{**turn, "weight": 1}]):
        with pytest.raises(InputError, match=r":2: field 'prompt'"):
            dataset.read_rows(write(tmp_path / "b.jsonl", ours, {**ours, "prompt": prompt}), RecordedEdit, "edits")


def test_a_talk_that_ends_with_the_user_is_a_prompt_but_nothing_to_learn(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": TALK}, {"messages": [*TALK, said("assistant", "Good.")]})
    rows = dataset.read_rows(path, Sft, "sft")
    assert ([r.prompt for r in rows], dict(rows.reasons)) == ([TALK], {ENDS: 1})
    assert [r.prompt for r in dataset.read_rows(path, PromptRow, "prompts")] == [TALK, TALK]


def test_a_completion_that_is_labelled_as_not_wanted_is_nothing_to_learn(tmp_path: Path) -> None:
    rows = [{"prompt": "Q?", "completion": t, "label": label} for t, label in (("Good.", True), ("Bad.", False))]
    read = dataset.read_rows(write(tmp_path / "a.jsonl", *rows), Sft, "sft")
    assert ([r.response for r in read], dict(read.reasons)) == (["Good."], {"labelled as not wanted": 1})


def test_reasons_are_few_however_many_rows_there_are(tmp_path: Path) -> None:
    good: dict[str, Any] = {"prompt": "Q?", "chosen": "Good.", "rejected": "Bad."}
    rows: list[dict[str, Any]] = [
        {"chosen": "It is a.", "rejected": "It is b.", f"prompt {i}": "Q?"} for i in range(99)
    ]
    read = prefs(write(tmp_path / "a.jsonl", good, *rows), format="trl")
    assert (len(read), read.reasons.total()) == (1, 99)
    assert len(read.reasons) == 51


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda t: t == t.strip() and t and "\n\nHuman:" not in t and "\n\nAssistant:" not in t
)


@given(st.lists(WORDS, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1), WORDS)
def test_a_transcript_is_taken_apart_as_it_was_put_together(turns: list[str], response: str) -> None:
    prompt = [said("user" if i % 2 == 0 else "assistant", turn) for i, turn in enumerate(turns)]
    text = as_transcript(prompt, response)
    assert transcript(text) == [*prompt, said("assistant", response)]


@pytest.mark.parametrize(
    ("prompt", "messages", "text", "last"),
    [
        ("Hi", [{"role": "user", "content": "Hi"}], "Hi", "Hi"),
        (
            [{"role": "system", "content": "Be brief."}],
            [{"role": "system", "content": "Be brief."}],
            "Be brief.",
            "Be brief.",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
            "user: a\nassistant: b\nuser: c",
            "c",
        ),
    ],
)
def test_a_prompt_as_messages_and_as_text(prompt: Any, messages: Any, text: str, last: str) -> None:
    assert conversation.as_messages(prompt) == messages
    assert conversation.as_messages(prompt) is not prompt, "whoever changes it changes a copy"
    assert conversation.contents(prompt) == [m["content"] for m in messages]
    assert conversation.as_text(prompt) == text
    assert conversation.last_turn(prompt) == last
