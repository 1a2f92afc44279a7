"""Batches by the real SDK against a local server: half the price, nothing lost, nothing sent twice."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_claude import FakeClaude
from tests.test_claude_client import RATES, fake, request, said
from tokalign.claude import batches
from tokalign.claude.journal import Journal
from tokalign.claude.prices import Rates
from tokalign.claude.retry import Failed
from tokalign.claude.service import service
from tokalign.config.options import ClaudeOptions
from tokalign.errors import BudgetError, ServiceError, StoppedError
from tokalign.runtime import signals

__all__ = ["fake"]


@pytest.fixture(autouse=True)
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokalign.claude.prices.load", lambda *_: RATES)


def ask(folder: Path, *texts: str, **options: Any) -> list[Any]:
    async def go() -> list[Any]:
        async with service(
            folder, "m", ClaudeOptions(**{"batch": True, "poll": 0.02, **options}), lambda _: None
        ) as claude:
            return [found async for _, found in claude.each(texts, lambda text: claude.ask(request(text)))]

    return asyncio.run(go())


def journal(folder: Path) -> Journal:
    with Journal(folder / "journal.jsonl") as found:
        return found


TEXTS = [f"text {k}" for k in range(11)]


def test_answers_come_in_order_at_half_the_price_and_are_paid_once(
    fake: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "COUNT", 4)
    found = ask(tmp_path, *TEXTS)
    assert [said(m) for m in found] == [f"echo: {t}" for t in TEXTS]
    assert [len(b["requests"]) for b in fake.batches.values()] == [4, 4, 3]
    usage = [m.message["usage"] for m in found]
    j = journal(tmp_path)
    assert j.spent == pytest.approx(sum(u["input_tokens"] + 5 * u["output_tokens"] for u in usage) / 2e6)
    assert (j.charged, j.lost, j.reserved) == (11, 0, 0)
    assert ask(tmp_path, *TEXTS) == ask(tmp_path, *TEXTS, batch=False) == found
    assert fake.charged == dict.fromkeys(TEXTS, 1)


def test_batches_are_cut_by_bytes_too(fake: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BYTES", 3_500)  # a request counts for some 1100
    ask(tmp_path, *TEXTS)
    assert max(len(b["requests"]) for b in fake.batches.values()) == 4


def test_what_ends_without_an_answer_is_asked_again(fake: FakeClaude, tmp_path: Path) -> None:
    faults = ["expired", "canceled", "errored", "bad-line", "no-usage", "expired, errored, canceled"]
    texts = [f"[[faults: {f}]] x" for f in faults] + ["plain"]
    assert [said(m) for m in ask(tmp_path, *texts)] == [f"echo: {t}" for t in texts]
    j = journal(tmp_path)
    assert (j.charged, j.lost) == (7, 1), "a line that cannot be read is perhaps paid"
    assert j.perhaps > 0
    assert sum(fake.charged.values()) == j.charged + j.lost


def test_what_cannot_be_answered_fails_and_retries_end(fake: FakeClaude, tmp_path: Path) -> None:
    hopeless = "[[faults: errored, errored, errored, errored, errored]] x"
    found = ask(tmp_path, "[[faults: invalid]] x", hopeless, "plain", max_retries=2)
    assert found[:2] == [Failed("invalid_request_error: no", transient=False), Failed("api_error")]
    assert said(found[2]) == "echo: plain"
    assert (fake.seen["[[faults: invalid]] x"], fake.seen[hopeless]) == (1, 3)


@pytest.mark.parametrize("fault", ["drop-after", "late-500", "html"])
def test_a_submission_whose_answer_was_lost_is_found_and_not_sent_again(
    fake: FakeClaude, tmp_path: Path, fault: str
) -> None:
    fake.create_faults, fake.polls = [fault], 3
    found = ask(tmp_path, *TEXTS)
    assert [said(m) for m in found] == [f"echo: {t}" for t in TEXTS]
    assert len(fake.batches) == 1
    assert fake.charged == dict.fromkeys(TEXTS, 1)


def test_a_batch_of_someone_else_is_not_taken_for_ours(fake: FakeClaude, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    ask(other, *TEXTS)  # as many requests, the very same ones, but of another run
    fake.create_faults = ["drop-after"]
    ask(tmp_path, *TEXTS)
    assert len(fake.batches) == 2
    assert journal(tmp_path).batches == {"msgbatch_1"}


@pytest.mark.parametrize("fault", ["drop-before", "500"])
def test_a_submission_that_cannot_be_found_is_held_until_the_user_says_so(
    fake: FakeClaude, tmp_path: Path, fault: str
) -> None:
    fake.create_faults = [fault]
    for batch in (True, True, False):  # nor is it sent as single calls
        with pytest.raises(ServiceError, match="lists no batch") as caught:
            ask(tmp_path, *TEXTS, batch=batch)
        assert "pass --resend-lost" in caught.value.remedy
        assert not fake.charged
    assert len(ask(tmp_path, *TEXTS, resend_lost=True)) == 11
    assert fake.charged == dict.fromkeys(TEXTS, 1)
    j = journal(tmp_path)
    assert (j.charged, j.lost, len(j.plans)) == (11, 11, 0)
    assert j.perhaps > 0


@pytest.mark.parametrize("fault", ["429", "429-after", "529", "400", "401"])
def test_a_submission_that_was_refused_is_sent_again_if_that_can_help(
    fake: FakeClaude, tmp_path: Path, fault: str
) -> None:
    fake.create_faults = [fault]
    if fault in ("400", "401"):
        with pytest.raises(ServiceError):
            ask(tmp_path, *TEXTS)
        assert not journal(tmp_path).plans
    assert len(ask(tmp_path, *TEXTS)) == 11
    assert fake.charged == dict.fromkeys(TEXTS, 1)


@pytest.mark.slow
def test_looks_that_fail_are_made_again_and_a_batch_that_is_gone_is_told(fake: FakeClaude, tmp_path: Path) -> None:
    fake.polls, fake.get_faults = 4, ["500", "drop", "529", "429"]
    assert len(ask(tmp_path, *TEXTS)) == 11
    fake.polls, fake.get_faults = 1, ["404"]
    assert [said(m) for m in ask(tmp_path, "more")] == ["echo: more"], "it was there after all"
    fake.get_faults = ["404"] * 40
    with pytest.raises(ServiceError, match="msgbatch_2: not found"):
        ask(tmp_path, "yet more", max_retries=2)
    with pytest.raises(ServiceError, match="msgbatch_3: not found"):  # a batch of this very run is not given up
        ask(tmp_path, "yet more", max_retries=2, resend_lost=True)
    assert len(fake.batches) == 4


def test_a_run_that_is_ended_while_it_waits_goes_on_from_there(
    fake: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals._State, "received", 15)
    with pytest.raises(StoppedError):
        ask(tmp_path, *TEXTS)
    assert not fake.batches, "nothing leaves after the signal"
    monkeypatch.setattr(signals._State, "received", 0)

    fake.polls, look = 10_000, fake.get

    def signalled(handler: Any) -> None:
        monkeypatch.setattr(signals._State, "received", 15)
        look(handler)

    monkeypatch.setattr(fake, "get", signalled)
    with pytest.raises(StoppedError):
        ask(tmp_path, *TEXTS)
    monkeypatch.setattr(signals._State, "received", 0)
    monkeypatch.setattr(fake, "get", look)
    fake.batches["msgbatch_0"]["left"] = 1
    assert len(ask(tmp_path, *TEXTS)) == 11
    assert fake.charged == dict.fromkeys(TEXTS, 1)


def test_the_cap_holds_and_raising_it_goes_on(fake: FakeClaude, tmp_path: Path) -> None:
    # A request can cost some 1100 prompt tokens at 2 and 100 of answer at 5 dollars a million, halved: 0.0014 or so.
    fake.answer = lambda _: "x" * 400
    with pytest.raises(BudgetError):
        ask(tmp_path, *TEXTS, max_cost=0.001)
    assert not fake.batches
    with pytest.raises(BudgetError):
        ask(tmp_path, *TEXTS, max_cost=0.0015)
    j = journal(tmp_path)
    assert 0 < j.spent <= 0.0015
    assert 0 < j.charged < 11
    assert len(ask(tmp_path, *TEXTS, max_cost=1.0)) == 11
    assert fake.charged == dict.fromkeys(TEXTS, 1)


@pytest.mark.slow
def test_wherever_the_journal_ends_the_next_run_pays_nothing_twice(fake: FakeClaude, tmp_path: Path) -> None:
    """A kill leaves a prefix of the journal, and the server with all that had left by then."""
    ask(tmp_path, *TEXTS)
    whole = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    events = [json.loads(line)["event"] for line in whole]
    assert events == ["planned", "created", *["answered"] * 11, "closed"]
    for kept in range(1, len(whole)):
        (tmp_path / "journal.jsonl").write_bytes(b"".join(whole[:kept]) + whole[kept][: len(whole[kept]) // 2])
        assert len(ask(tmp_path, *TEXTS)) == 11
        assert fake.charged == dict.fromkeys(TEXTS, 1)
        assert journal(tmp_path).charged == 11


def test_a_line_ends_where_json_says_so(fake: FakeClaude, tmp_path: Path) -> None:
    fake.answer = lambda request: "one\u2028two\u2029three\x85four"
    assert [said(m) for m in ask(tmp_path, "a", "b")] == ["one\u2028two\u2029three\x85four"] * 2
    assert fake.charged == {"a": 1, "b": 1}


@pytest.mark.parametrize("fault", ["cut", "html", "malformed"])
def test_answers_to_looks_that_cannot_be_read_are_asked_for_again(fake: FakeClaude, tmp_path: Path, fault: str) -> None:
    fake.get_faults = [fault, "", fault, fault]
    assert [said(m) for m in ask(tmp_path, *TEXTS)] == [f"echo: {t}" for t in TEXTS]
    assert fake.charged == dict.fromkeys(TEXTS, 1)


def test_a_batch_is_priced_by_what_it_was_sent_at(
    fake: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = Rates(100.0, 500.0, 125.0, 200.0, 10.0)
    monkeypatch.setattr("tokalign.claude.prices.load", lambda *_: dear)
    fake.get_faults = ["404"] * 40
    with pytest.raises(ServiceError):
        ask(tmp_path, "a", max_retries=1)
    fake.get_faults = []
    monkeypatch.setattr("tokalign.claude.prices.load", lambda *_: RATES)
    (found,) = ask(tmp_path, "a")
    assert found.cost == pytest.approx(dear.cost(found.message["usage"], batch=True))


def test_of_an_answer_that_holds_half_a_character_the_whole_is_kept(fake: FakeClaude, tmp_path: Path) -> None:
    fake.answer = lambda request: "half \ud800"
    for batch in (True, False):
        assert [said(m) for m in ask(tmp_path, f"a {batch}", batch=batch)] == ["half \ud800"]
    assert len(ask(tmp_path, "a True", "a False")) == 2
    assert set(fake.charged.values()) == {1}
