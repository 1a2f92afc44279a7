"""Numbers of tokens and sums of money that are none count for the most, or are refused; logs of others stay whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from tokalign.claude.client import cost_of
from tokalign.claude.journal import Journal
from tokalign.claude.prices import Rates
from tokalign.errors import InputError

RATES = Rates(1.0, 5.0, 1.25, 2.0, 0.1)


@pytest.mark.parametrize("number", [float("inf"), -1, float("nan"), True, "12", 0.5, 1e300])
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "cache_read_input_tokens"])
def test_usage_that_is_no_number_of_tokens_costs_the_most_that_a_call_can(name: str, number: Any) -> None:
    assert cost_of({"usage": {"input_tokens": 5, name: number}}, RATES, max_cost=0.75) == 0.75
    assert cost_of({"usage": {"input_tokens": 1_000_000, name: None}}, RATES, max_cost=9.0) in (0.0, 1.0)


@pytest.mark.parametrize("cost", ["NaN", "-5.0", "Infinity", "1e400", "true", '"1"', "null"])
@pytest.mark.parametrize("line", ['{{"event": "answered", "key": "k", "answer": {{}}, "cost": {}}}',
                                  '{{"event": "sent", "key": "k", "most": {}}}'])  # fmt: skip
def test_a_sum_in_a_journal_that_is_none_is_refused_by_its_place(tmp_path: Path, line: str, cost: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(line.format(cost) + "\n")
    with pytest.raises(InputError, match=r"journal\.jsonl:1"):
        Journal(path)


@pytest.mark.parametrize("text", ["years of work", '{"a": 1}', "[1", "{", "[" * 5000, '{"a": ' * 5000])
def test_a_file_of_somebody_elses_that_has_the_name_of_a_journal_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(text)
    if text == "{":  # how a line of ours may have been cut
        Journal(path)
        return
    with pytest.raises(InputError):
        Journal(path)
    assert path.read_text() == text


def test_a_journal_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("{")
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "thesis")
    with pytest.raises(InputError, match="not a regular file"):
        Journal(tmp_path / "journal.jsonl")
    assert (tmp_path / "thesis").read_text() == "{"


def test_a_whole_last_line_without_its_end_counts_and_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    entry = {"event": "answered", "key": "k", "cost": 0.5, "answer": {}}
    path.write_text(json.dumps(entry))
    with Journal(path) as journal:
        assert journal.spent == 0.5
    assert path.read_text() == json.dumps(entry) + "\n"


def test_usage_that_says_nothing_costs_the_most_that_a_call_can() -> None:
    assert cost_of({"usage": {}}, RATES, max_cost=0.75) == 0.75
    assert cost_of({"usage": {"cache_read_input_tokens": 0}}, RATES, max_cost=0.75) == 0.75
    assert cost_of({"usage": {"input_tokens": 0, "output_tokens": 0}}, RATES, max_cost=0.75) == 0.0
