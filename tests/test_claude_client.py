"""Calls to Claude by the real SDK against a local server: what is asked, retried, paid, and never paid again."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fake_claude import KEY, FakeClaude
from tokalign.claude.client import Claude
from tokalign.claude.journal import Journal
from tokalign.claude.prices import Rates
from tokalign.claude.retry import Failed
from tokalign.config.options import ClaudeOptions
from tokalign.errors import BudgetError, ServiceError, StoppedError
from tokalign.runtime import signals

RATES = Rates(1.0, 5.0, 1.25, 2.0, 0.1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClaude]:
    with FakeClaude() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setattr("tokalign.claude.retry.random.uniform", lambda *_: 0.01)  # between retries
        yield server


def request(text: str, max_tokens: int = 100) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}]}


def ask(path: Path, *texts: str, **options: Any) -> list[Any]:
    async def go() -> list[Any]:
        with Journal(path) as journal:
            claude = Claude(journal, RATES, ClaudeOptions(**options))
            try:
                return [found async for _, found in claude.each(texts, lambda text: claude.ask(request(text)))]
            finally:
                await claude.close()

    return asyncio.run(go())


def said(message: Any) -> str:
    return str(message.message["content"][0]["text"])


def test_answers_come_in_order_and_are_paid_once_over_all_runs(fake: FakeClaude, tmp_path: Path) -> None:
    texts = [f"text {k}" for k in range(40)]
    path = tmp_path / "journal.jsonl"
    first = ask(path, *texts[:25], concurrency=7)
    assert [said(m) for m in first] == [f"echo: {t}" for t in texts[:25]]
    again = ask(path, *texts, concurrency=7)
    assert again[:25] == first
    assert fake.charged == dict.fromkeys(texts, 1)
    with Journal(path) as journal:
        paid = sum(m.message["usage"]["input_tokens"] + 5 * m.message["usage"]["output_tokens"] for m in again) / 1e6
        assert journal.spent == pytest.approx(paid)
        assert (journal.charged, journal.lost) == (40, 0)


@pytest.mark.parametrize(
    ("fault", "lost", "charged"),
    [("429", 0, 1), ("429-after", 0, 1), ("500", 0, 1), ("529", 0, 1), ("drop-before", 1, 1), ("drop-after", 1, 2),
     ("html", 1, 1), ("malformed", 1, 2), ("no-usage", 0, 1), ("502", 1, 1), ("429, 529, 500", 0, 1)],
)  # fmt: skip
def test_what_passes_is_tried_again_and_what_may_be_paid_is_told(
    fake: FakeClaude, tmp_path: Path, fault: str, lost: int, charged: int
) -> None:
    text = f"[[faults: {fault}]] hello"
    (message,) = ask(tmp_path / "j", text)
    assert said(message) == f"echo: {text}"
    assert fake.charged[text] == charged
    assert fake.seen[text] == (1 if fault == "no-usage" else 2 + fault.count(","))
    with Journal(tmp_path / "j") as journal:
        assert (journal.charged, journal.lost) == (1, lost)
        assert fake.charged[text] <= journal.charged + journal.lost
        assert (journal.perhaps > 0) == bool(lost)


@pytest.mark.slow
def test_a_call_that_takes_too_long_is_given_up_and_perhaps_paid(fake: FakeClaude, tmp_path: Path) -> None:
    (message,) = ask(tmp_path / "j", "[[faults: slow]] hello", timeout=1.0)
    assert said(message)
    with Journal(tmp_path / "j") as journal:
        assert journal.retries == {"timeout": 1}
        assert journal.lost == 1


def test_retries_are_counted_and_end(fake: FakeClaude, tmp_path: Path) -> None:
    text = "[[faults: 529, 529, 529, 529]] hello"
    assert ask(tmp_path / "j", text, max_retries=2) == [Failed("529")]
    assert fake.seen[text] == 3
    assert ask(tmp_path / "j", "[[faults: 400]] hello") == [Failed("400 invalid_request_error: no", transient=False)]
    assert fake.seen["[[faults: 400]] hello"] == 1


@pytest.mark.parametrize("fault", ["401", "402", "403", "404", "spent-out", "limit"])
def test_what_no_request_can_pass_ends_the_run_but_not_what_is_under_way(
    fake: FakeClaude, tmp_path: Path, fault: str
) -> None:
    fake.delay = 0.05
    texts = [f"before {k}" for k in range(3)] + [f"[[faults: {fault}]] x"] + [f"after {k}" for k in range(60)]
    with pytest.raises(ServiceError) as caught:
        ask(tmp_path / "j", *texts, concurrency=4)
    assert caught.value.exit_code == 7
    assert caught.value.remedy
    with Journal(tmp_path / "j") as journal:
        assert journal.charged == sum(fake.charged.values()) < 20
        assert journal.lost == 0
    assert fake.seen[f"[[faults: {fault}]] x"] == 1


def committed(path: Path) -> Iterator[float]:
    """What is paid, perhaps paid, or set aside, after each line of a journal."""
    aside: dict[str, float] = {}
    gone = 0.0
    for entry in map(json.loads, path.read_text().splitlines()):
        if entry["event"] == "sent":
            aside[entry["key"]] = entry["most"]
        else:
            most = aside.pop(entry["key"])
            gone += entry.get("cost", most if entry["event"] == "lost" else 0.0)
        yield gone + sum(aside.values())


def test_the_cap_is_never_passed_even_where_answers_cost_all_they_can(fake: FakeClaude, tmp_path: Path) -> None:
    fake.dear, fake.delay = True, 0.02
    texts = [f"text {k:02}" for k in range(28)] + ["[[faults: drop-after]] x", "[[faults: 529]] x"]
    # A call can cost some 1130 prompt tokens at 2 and 100 of answer at 5 dollars a million: 0.0028 or so.
    with pytest.raises(BudgetError) as caught:
        ask(tmp_path / "j", *texts, concurrency=8, max_cost=0.05)
    assert caught.value.exit_code == 4
    assert 0.045 < max(committed(tmp_path / "j")) <= 0.05
    with Journal(tmp_path / "j") as journal:
        assert journal.charged == sum(fake.charged.values()) >= 16
    assert len(ask(tmp_path / "j", *texts, max_cost=1.0)) == 30
    assert sum(fake.charged.values()) == 31, "all once, and one that was lost and asked again"


def test_nothing_leaves_after_the_run_is_over_even_what_waits_for_money(fake: FakeClaude, tmp_path: Path) -> None:
    fake.dear, fake.delay = True, 0.1
    texts = ["[[faults: 401]] x", *(f"text {k}" for k in range(40))]
    with pytest.raises(ServiceError):
        ask(tmp_path / "j", *texts, concurrency=8, max_cost=0.007)
    assert sum(fake.charged.values()) <= 2


@pytest.mark.slow
def test_a_low_rate_limit_makes_a_run_slow_and_nothing_else(fake: FakeClaude, tmp_path: Path) -> None:
    fake.bucket = (10, 40.0)
    assert not [f for f in ask(tmp_path / "j", *(f"text {k}" for k in range(120))) if isinstance(f, Failed)]
    assert set(fake.charged.values()) == {1}
    assert 0 < fake.limited < 300
    with Journal(tmp_path / "j") as journal:
        assert journal.lost == 0


def test_where_all_requests_are_refused_for_what_they_are_the_rest_is_not_tried(
    fake: FakeClaude, tmp_path: Path
) -> None:
    with pytest.raises(ServiceError, match="the first 10 requests were all rejected: 400 invalid_request_error: no"):
        ask(tmp_path / "j", *(f"[[faults: 400]] {k}" for k in range(60)), concurrency=1)
    assert sum(fake.seen.values()) <= 12


def test_a_disk_that_is_full_ends_the_run_and_does_not_hold_it_up(
    fake: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Journal._write

    def full(self: Journal, event: str, key: str, **more: Any) -> None:
        if event in ("answered", "lost") and self.charged == 2:
            raise OSError(28, "No space left on device")
        write(self, event, key, **more)

    monkeypatch.setattr(Journal, "_write", full)
    with pytest.raises(OSError, match="No space"):
        ask(tmp_path / "j", *(f"text {k}" for k in range(20)), max_cost=0.003)


def test_a_signal_stops_what_has_not_left_yet(
    fake: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    post, long = fake.post, "[[faults: 429-long]] x"

    def signalled(handler: Any) -> None:
        post(handler)
        if fake.seen[long]:
            monkeypatch.setattr(signals._State, "received", 2)

    monkeypatch.setattr(fake, "post", signalled)
    with pytest.raises(StoppedError):
        ask(tmp_path / "j", "one", "two", "three", long, *(f"text {k}" for k in range(40)), concurrency=2)
    monkeypatch.setattr(signals._State, "received", 0)
    assert 4 <= sum(fake.seen.values()) <= 6
    with Journal(tmp_path / "j") as journal:
        assert journal.charged == sum(fake.charged.values())


def test_calls_wait_when_the_service_has_none_left(fake: FakeClaude, tmp_path: Path) -> None:
    reset = datetime.now(UTC) + timedelta(seconds=1.0)
    fake.headers = {
        "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": reset.isoformat(),
    }  # fmt: skip
    began = datetime.now(UTC)
    ask(tmp_path / "j", "one", "two", concurrency=1)
    assert datetime.now(UTC) >= reset > began


def test_the_key_stands_nowhere(fake: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fault in ("401", "drop-after", "html", "500"):
        try:
            ask(tmp_path / fault, f"[[faults: {fault}]] x")
        except ServiceError as e:
            assert KEY not in repr(e) + str(e.remedy)
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())
    assert KEY not in "".join(capsys.readouterr())


def test_without_a_key_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ServiceError, match="no API key"):
        ask(tmp_path / "j", "x")
