"""Rows laid out elsewhere become ours, or are skipped with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokalign import formats, sources
from tokalign.errors import InputError
from tokalign.knobs import Foreign, Format
from tokalign.schemas import Preference, PromptRow, ResponseRow, Sft


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
]  # fmt: skip


@pytest.mark.parametrize(("layout", "row", "expected"), PAIRS)
@pytest.mark.parametrize("named", [False, True])
def test_pairs(
    tmp_path: Path, layout: Format, row: dict[str, Any], expected: tuple[Any, str, str], named: bool
) -> None:
    how = Foreign(format=layout if named else "auto")
    rows = sources.read_rows(write(tmp_path / "a.jsonl", row, row), Preference, "preferences", how=how)
    prefix = formats.LAYOUTS[layout].prefix
    assert [(r.id, r.prompt, r.chosen, r.rejected, r.source) for r in rows] == [
        (f"{prefix}-{i}", *expected, layout) for i in range(2)
    ]
    assert rows.lineage["kind"] == layout
    (prompt, better, _), path = expected, tmp_path / "a.jsonl"
    assert [(r.prompt, r.response) for r in sources.read_rows(path, Sft, "sft", how=how)] == [(prompt, better)] * 2
    if "prompt" not in row:  # a prompt in our column is taken as it is
        assert [r.prompt for r in sources.read_rows(path, PromptRow, "prompts", how=how)] == [prompt] * 2


DEMONSTRATIONS: list[tuple[Format, dict[str, Any], tuple[Any, str]]] = [
    ("trl", {"prompt": "Q?", "completion": "Good."}, ("Q?", "Good.")),
    ("trl", {"prompt": TALK, "completion": [said("assistant", "Good.")]}, (TALK, "Good.")),
    ("trl", {"messages": [*TALK, said("assistant", "Good.")]}, (TALK, "Good.")),
    ("alpaca-farm", {"instruction": "Q?", "input": "x", "output": "Good."}, ("Q?\n\nx", "Good.")),
    ("alpaca-eval", {"instruction": "Q?", "output": "Good.", "generator": "m"}, ("Q?", "Good.")),
    ("alpaca-eval", {"instruction": "Q?", "input": "I", "output": "Good.", "generator": "m"}, ("Q?\n\nI", "Good.")),
]


@pytest.mark.parametrize(("layout", "row", "expected"), DEMONSTRATIONS)
def test_demonstrations(tmp_path: Path, layout: Format, row: dict[str, Any], expected: tuple[Any, str]) -> None:
    for how in (Foreign(), Foreign(format=layout)):
        rows = sources.read_rows(write(tmp_path / "a.jsonl", row), Sft, "sft", how=how)
        assert [(r.prompt, r.response) for r in rows] == [expected]


def test_outputs_for_alpaca_eval_are_responses(tmp_path: Path) -> None:
    rows = [{"instruction": "Q?", "output": out, "generator": "m", "dataset": "d"} for out in ("A.", "")]
    read = sources.read_rows(write(tmp_path / "a.jsonl", *rows), ResponseRow, "responses")
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
]  # fmt: skip


@pytest.mark.parametrize(("layout", "row", "reason"), UNUSABLE)
def test_a_row_that_cannot_be_used_is_skipped_and_counted_and_refused_when_strict(
    tmp_path: Path, layout: Format, row: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path / "a.jsonl", GOOD[layout], row, GOOD[layout])
    rows = sources.read_rows(path, Preference, "preferences", how=Foreign(format=layout))
    prefix = formats.LAYOUTS[layout].prefix
    assert [r.id for r in rows] == [f"{prefix}-0", f"{prefix}-2"], "numbered by their place in the file"
    assert rows.account() == {"in": 3, "out": 2, "skipped": 1, "reasons": {reason: 1}}
    with pytest.raises(InputError, match=rf"a\.jsonl:2: {reason}"):
        sources.read_rows(path, Preference, "preferences", how=Foreign(format=layout, strict=True))


@pytest.mark.parametrize("layout", list(GOOD))
@pytest.mark.parametrize("row", [{"prompt": "x"}, {"chosen": 5, "rejected": 5}, {"instruction": 5, "completions": 5}])
def test_a_row_of_another_layout_is_refused_by_its_place(tmp_path: Path, layout: Format, row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl:2: ") as caught:
        sources.read_rows(write(tmp_path / "a.jsonl", GOOD[layout], row), Preference, "p", how=Foreign(format=layout))
    assert "a row needs" in caught.value.remedy


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda t: t == t.strip() and t and "\n\nHuman:" not in t and "\n\nAssistant:" not in t
)


@given(st.lists(WORDS, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1), WORDS)
def test_a_transcript_is_taken_apart_as_it_was_put_together(turns: list[str], response: str) -> None:
    prompt = [said("user" if i % 2 == 0 else "assistant", turn) for i, turn in enumerate(turns)]
    text = formats.as_transcript(prompt, response)
    assert formats.transcript(text) == [*prompt, said("assistant", response)]
