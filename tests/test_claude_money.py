"""Prices by hand numbers; a journal that forgets nothing, however a run ends."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokalign.claude.journal import Answer, Journal, key_of
from tokalign.claude.prices import FREE, Rates, load
from tokalign.errors import InputError, UsageError

RATES = Rates(input=2.0, output=10.0, cache_write_5m=2.5, cache_write_1h=4.0, cache_read=0.2)


def test_every_kind_of_token_has_its_price() -> None:
    usage = {
        "input_tokens": 1_000_000, "output_tokens": 100_000, "cache_read_input_tokens": 500_000,
        "cache_creation_input_tokens": 300_000, "cache_creation": {"ephemeral_1h_input_tokens": 100_000},
    }  # fmt: skip
    assert RATES.cost(usage) == pytest.approx(2 + 1 + 0.1 + 0.4 + 0.5)
    assert RATES.cost(usage, batch=True) == pytest.approx(2.0)
    assert RATES.cost({"input_tokens": 10, "output_tokens": None}) == pytest.approx(20e-6)


@given(*(st.integers(0, 10_000) for _ in range(5)), st.booleans())
def test_no_call_costs_more_than_its_most(fresh: int, read: int, short: int, long: int, out: int, batch: bool) -> None:
    usage = {
        "input_tokens": fresh, "output_tokens": out, "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + long, "cache_creation": {"ephemeral_1h_input_tokens": long},
    }  # fmt: skip
    assert RATES.cost(usage, batch) <= RATES.max_cost(fresh + read + short + long, out, batch) + 1e-12


def test_prices_are_found_by_name_and_dated_name() -> None:
    assert load("claude-haiku-4-5") == load("claude-haiku-4-5-20251001")
    assert load("claude-haiku-4-5").input == 1.0
    for unknown in ("claude-haiku-4", "claude-haiku-4-5-latest", "gpt"):
        with pytest.raises(UsageError, match="no price is known for"):
            load(unknown)
    assert load("gpt", allow_unpriced=True) == FREE


def test_the_users_prices_replace_ours(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[mine]\ninput=1\noutput=2\ncache_write_5m=3\ncache_write_1h=4\ncache_read=5\n")
    assert load("mine", file) == Rates(1, 2, 3, 4, 5)
    with pytest.raises(UsageError, match="claude-haiku-4-5"):
        load("claude-haiku-4-5", file)
    for wrong, message in (
        ("[mine]\ninput=1\n", "needs input, output"),
        (file.read_text().replace("output=2", "output=-2"), r"mine.output.*not a price: -2"),
        ("[mine", "not a price list"),
    ):
        file.write_text(wrong)
        with pytest.raises(InputError, match=message):
            load("mine", file)


def test_requests_are_known_by_what_they_say() -> None:
    assert key_of({"a": 1, "b": ["ü"]}) == key_of({"b": ["ü"], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_what_was_answered_is_recalled_and_what_was_cut_is_perhaps_paid(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for key in ("one", "two", "three", "four"):
            journal.send(key, max_cost=0.5)
        assert journal.committed == journal.reserved == 2.0
        journal.answer("one", {"text": "ü"}, cost=0.1)
        journal.refuse("two", "529")
        journal.lose("three", "connection")
        assert (journal.spent, journal.perhaps, journal.reserved) == (0.1, 0.5, 0.5)
    with Journal(path) as journal:  # the fourth was on its way when the run ended
        assert "one" in journal
        assert "two" not in journal
        assert journal.recall("one") == Answer({"text": "ü"}, 0.1)
        assert (journal.spent, journal.perhaps, journal.reserved, journal.lost) == (0.1, 1.0, 0.0, 2)
        assert journal.retries == {"529": 1, "connection": 1, "the run ended": 1}
        journal.send("four", max_cost=0.5)
        journal.answer("four", {"text": "late"}, cost=0.2)
    with Journal(path) as journal:
        assert (journal.charged, journal.lost, journal.perhaps) == (2, 2, 1.0)
        assert journal.spent == pytest.approx(0.3)
        assert journal.recall("four").message == {"text": "late"}


EVENTS = st.lists(st.tuples(st.sampled_from(["answer", "refuse", "lose"]), st.sampled_from("abc")), max_size=8)


@settings(max_examples=60)
@given(EVENTS, st.integers(0, 10_000))
def test_wherever_a_journal_is_cut_nothing_before_is_lost(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    with Journal(path) as journal:
        for n, (event, key) in enumerate(events):
            journal.send(key, max_cost=1.0)
            if event == "answer":
                journal.answer(key, n, cost=0.25)
            else:
                getattr(journal, event)(key, "why")
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    *lines, rest = path.read_bytes().split(b"\n")
    if rest.endswith(b"}") and whole[len(path.read_bytes()) :][:1] == b"\n":  # only its end is missing: it counts
        lines.append(rest)
    kept = [json.loads(line) for line in lines]
    with Journal(path) as journal:
        answered = {e["key"]: e["answer"] for e in kept if e["event"] == "answered"}
        assert {key: journal.recall(key).message for key in answered} == answered
        assert journal.spent == pytest.approx(0.25 * sum(e["event"] == "answered" for e in kept))
        open_at_end = kept[-1:] != [] and kept[-1]["event"] == "sent"
        assert journal.lost == sum(e["event"] == "lost" for e in kept) + open_at_end
        assert journal.reserved == 0


def test_a_file_that_is_no_journal_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "sent", "key": "a", "most": 1}\n{"no": "event"}\n')
    with pytest.raises(InputError, match=r"journal.jsonl:2"):
        Journal(path)
