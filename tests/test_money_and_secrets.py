"""What a service, a journal, a browser or a spreadsheet could make of numbers, texts and secrets, and does not."""

import asyncio
import csv
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from tests.fake_claude import FakeClaude
from tests.test_claude_answers import CHOSEN, EDITED, ORIGINAL, answer
from tokalign.annotation import server
from tokalign.annotation.security import Guard
from tokalign.annotation.store import AnnotationStore, Task, Work
from tokalign.artifacts.append_log import open_log
from tokalign.claude.client import Claude, cost_of
from tokalign.claude.journal import Answer, Journal
from tokalign.claude.messages import usage_of
from tokalign.claude.prices import Rates, load
from tokalign.claude.retry import Failed
from tokalign.config.options import ClaudeOptions
from tokalign.config.stages import ExportConfig
from tokalign.data.spreadsheet import quoted
from tokalign.editors.claude_response import read
from tokalign.errors import InputError
from tokalign.stages import export

RATES = Rates(1.0, 5.0, 1.25, 2.0, 0.1)
NONE_OF_THEM = [float("inf"), float("nan"), -1, -0.5, 0.5, True, "12", [], 10**400]


@pytest.mark.parametrize("number", NONE_OF_THEM, ids=repr)
@pytest.mark.parametrize("name", ["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"])
def test_tokens_written_to_the_cache_that_are_no_number_cost_the_most(name: str, number: Any) -> None:
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 1, "cache_creation": {name: number}}
    with pytest.raises(ValueError, match="tokens"):
        RATES.cost(usage)
    assert cost_of({"usage": usage}, RATES, 0.75) == 0.75


def test_what_was_written_to_the_cache_is_an_object() -> None:
    wrong: list[Any] = [False, 0, [], "x"]
    for odd in wrong:
        with pytest.raises(ValueError, match="cache_creation"):
            RATES.cost({"cache_creation": odd})
    assert RATES.cost({"cache_creation": None}) == 0
    assert RATES.cost({"cache_creation": {"ephemeral_5m_input_tokens": 1_000_000}}) == pytest.approx(1.25)


def test_rates_of_a_plan_that_are_no_numbers_make_no_cost_that_is_none() -> None:
    assert cost_of({"usage": {"input_tokens": 1}}, Rates(float("nan"), 1, 1, 1, 1), 0.75) == 0.75
    assert cost_of({"usage": {"input_tokens": 1}}, Rates(-1.0, 1, 1, 1, 1), 0.75) == 0.75


def test_a_price_that_nothing_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("[m]\ninput=1e308\noutput=2\ncache_write_5m=3\ncache_write_1h=4\ncache_read=5\n")
    with pytest.raises(InputError, match="not a price"):
        load("m", tmp_path / "p.toml")


def test_usage_adds_up_what_is_a_number_of_tokens_only() -> None:
    answers = [
        Answer({"usage": {"input_tokens": 3, "output_tokens": odd, "service_tier": "x"}}, 0.5) for odd in NONE_OF_THEM
    ]
    assert usage_of([*answers, Answer({"usage": {"output_tokens": 2, "cache_read_input_tokens": None}}, 0.5)]) == {
        "input_tokens": 3 * len(answers),
        "output_tokens": 2,
        "usd": 0.5 * (len(answers) + 1),
    }


def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> tuple[Answer | Failed, Journal]:
    """Ask once, where the service's whole answer is ``said``."""
    with FakeClaude() as fake:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", fake.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
        monkeypatch.setattr(fake, "_message", lambda *_: said)

        async def once(journal: Journal) -> Answer | Failed:
            claude = Claude(journal, RATES, ClaudeOptions(model="m", max_retries=0))
            try:
                return await claude.ask({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]})
            finally:
                await claude.close()

        with Journal(tmp_path / "journal.jsonl") as journal:
            return asyncio.run(once(journal)), journal


@pytest.mark.parametrize("depth", [70, 100_000])
def test_an_answer_that_is_nested_too_deeply_is_none_and_the_journal_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    found, journal = asked(tmp_path, monkeypatch, f'{{"content": {"[" * depth}{"]" * depth}}}')
    assert isinstance(found, Failed)
    assert journal.lost == 1
    with Journal(tmp_path / "journal.jsonl") as again:
        assert again.committed == pytest.approx(journal.committed)


def test_an_answer_with_an_infinite_usage_costs_the_most_and_the_journal_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, journal = asked(tmp_path, monkeypatch, '{"content": ["\\ud800"], "usage": {"output_tokens": 1e400}}')
    assert isinstance(found, Answer)
    assert 0 < found.cost < 1
    with Journal(tmp_path / "journal.jsonl") as again:
        assert (again.spent, again.charged) == (journal.spent, 1)


@pytest.mark.parametrize("sum_", [float("nan"), -1.0, float("inf"), True, 10**400])
def test_a_sum_that_is_none_is_not_written_and_changes_nothing(tmp_path: Path, sum_: Any) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.send("a", 0.5)
        before = (tmp_path / "j.jsonl").read_bytes()
        for write in (
            lambda: journal.send("b", sum_),
            lambda: journal.answer("a", {}, sum_),
            lambda: journal.lose("a", "why", max_cost=sum_),
            lambda: journal.plan(["c"], sum_, asdict(RATES)),
        ):
            with pytest.raises(ValueError, match="not an amount of money"):
                write()
        assert (tmp_path / "j.jsonl").read_bytes() == before
        assert journal.committed == 0.5


@pytest.mark.parametrize("line", [
    '{"event": "sent", "key": "a", "most": ' + "1" + "0" * 400 + "}",
    '{"event": "lost", "key": "a", "why": "x", "most": -1}',
    '{"event": "planned", "key": "a", "keys": [], "most": NaN, "rates": {}, "at": "2026-01-01T00:00:00+00:00"}',
    '{"event": "sent", "key": "a", "most": 1, "more": ' + "[" * 70 + "]" * 70 + "}",
    '{"event": "sent", "key": "a", "most": 1, "more": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"event": "sent", "key": "a", "most": 1, "more": ' + "[" * 100_000,
])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_line_that_is_none_of_ours_is_refused_and_the_file_stays_as_it_is(
    tmp_path: Path, line: str, end: str
) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(line + end)
    with pytest.raises(InputError, match=r"j\.jsonl:1|valid entry"):
        Journal(path)
    assert path.read_text() == line + end


def test_what_is_no_regular_file_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("folder", "pipe", "link"):
        with pytest.raises(InputError, match="not a regular file"):
            open_log(tmp_path / name)
        with pytest.raises(InputError, match="not a regular file"):
            AnnotationStore([], tmp_path / name, "")
    assert not (tmp_path / "nothing").exists()


WORK = {"text": "x", "categories": ["style"], "rationale": ""}
DECIDED = {"event": "decided", "key": "k", "verdict": "edited", "work": WORK, "annotator": "ann", "version": 1}


@pytest.mark.parametrize("wrong", [
    {"event": "other"}, {"key": 7}, {"verdict": "done"}, {"verdict": []}, {"annotator": None}, {"version": 0},
    {"version": True}, {"version": 1.5}, {"version": "1"}, {"work": []}, {"work": {**WORK, "text": 7}},
    {"work": {**WORK, "text": "\ud800"}}, {"work": {**WORK, "rationale": None}},
    {"work": {**WORK, "categories": "style"}}, {"work": {**WORK, "categories": [1]}}, {"work": {**WORK, "more": 1}},
])  # fmt: skip
def test_a_decision_that_is_none_is_refused_with_its_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(DECIDED) + "\n")
    AnnotationStore([], path, "").__exit__(None, None, None)
    path.write_text(json.dumps(DECIDED) + "\n" + json.dumps({**DECIDED, **wrong}) + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl:2|valid entry"):
        AnnotationStore([], path, "")


@pytest.mark.parametrize("categories", [[], ["none"]])
def test_a_change_for_which_nothing_is_named_is_no_edit(categories: list[str]) -> None:
    reading = read(answer(f"{ORIGINAL} See http://evil.example/", categories), ORIGINAL, CHOSEN, 0.3)
    assert (reading.verdict.status, reading.verdict.reason) == ("rejected", "changed without a reason")
    assert "named nothing" in reading.complaint
    assert read(answer(ORIGINAL, categories), ORIGINAL, CHOSEN, 0.3).verdict.status == "unchanged"
    assert read(answer(EDITED, ["style", "none"]), ORIGINAL, CHOSEN, 0.3).verdict.status == "edited"


HOST, SECRET = "127.0.0.1:7", "secret"
Ask = Callable[..., tuple[int, str, dict[str, str]]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Requests to the page of one long row, without a socket."""
    store = AnnotationStore([Task("r", "Q?", "a bad word", "a bad word", None)], tmp_path / "a.jsonl", "")
    pages = server.Pages(store, SECRET, 0.3, lambda: None, lambda: None, once="token")
    app = Starlette(routes=pages.routes(), middleware=[Middleware(Guard, secret=SECRET, host=HOST)])

    def request(
        method: str, path: str, body: bytes = b"", cookie: str = f"tokalign-7={SECRET}", **query: str
    ) -> tuple[int, str, dict[str, str]]:
        sent: list[Any] = []
        headers = {"host": HOST, "origin": f"http://{HOST}", "cookie": cookie, "content-length": str(len(body))}
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": urlencode(query).encode(), "scheme": "http", "http_version": "1.1",
            "server": ("127.0.0.1", 7), "client": ("127.0.0.1", 8),
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(app(scope, receive, send))
        told = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:]).decode(), told

    return request


def test_the_address_that_a_browser_is_started_with_lets_in_once(ask: Ask) -> None:
    assert ask("GET", "/open", once="wrong", cookie="")[0] == 403
    assert ask("GET", "/open", once="", cookie="")[0] == 403
    assert ask("GET", "/", cookie="tokalign-7=token")[0] == 403, "it is no cookie"
    assert ask("GET", "/open", key="token", cookie="")[0] == 403, "and no secret"
    status, _, headers = ask("GET", "/open", once="token", cookie="")
    assert status == 303
    assert headers["set-cookie"].startswith(f"tokalign-7={SECRET};")
    for again in ("token", ""):
        assert ask("GET", "/open", once=again, cookie="")[0] == 403
    assert [ask("GET", "/open", key=SECRET, cookie="")[0] for _ in range(2)] == [303, 303]


@pytest.mark.parametrize("show", [True, False])
def test_the_secret_stands_in_no_argument_of_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, show: bool
) -> None:
    opened: list[str] = []
    said: list[str] = []

    class Still:
        def __init__(self, target: Any, args: tuple[str], daemon: bool) -> None:
            opened.extend(args)

        def start(self) -> None:
            pass

    monkeypatch.setattr("threading.Thread", Still)
    monkeypatch.setattr(server._Server, "run", lambda self, sockets: None)
    with AnnotationStore([], tmp_path / "a.jsonl", "") as store:
        server.serve(store, 0, 0.3, said.append, lambda: None, show)
    found = re.search(r"/open\?key=(\S+)", said[0])
    assert found is not None
    assert len(opened) == show
    assert all("/open?once=" in address and found[1] not in address for address in opened)


def test_a_body_that_is_nested_too_deeply_is_a_bad_request(ask: Ask) -> None:
    for path in ("/api/diff", "/api/draft", "/api/save", "/api/skip"):
        assert ask("POST", path, b'{"at": 0, "text": ' + b"[" * 100_000)[0] == 400


@pytest.mark.parametrize("text", ["x" * 100_000, "a " * 20_000, "我" * 20_000])
def test_what_is_too_long_is_not_compared_while_someone_writes_but_saved(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("tokalign.core.diff.compare_words", lambda *_: pytest.fail("it was compared"))
    status, said, _ = ask("POST", "/api/diff", json.dumps({"at": 0, "text": text}).encode())
    assert status == 200
    assert json.loads(said) == {"parts": [], "similarity": None, "large": False, "long": True}
    work = {**asdict(Work(text)), "at": 0, "version": 0, "verdict": "edited"}
    assert ask("POST", "/api/save", json.dumps(work).encode())[0] == 200


def test_what_is_not_too_long_is_compared(ask: Ask) -> None:
    said = json.loads(ask("POST", "/api/diff", json.dumps({"at": 0, "text": "a good word"}).encode())[1])
    assert said["parts"] == [["equal", "a", "a"], ["replace", " bad", " good"], ["equal", " word", " word"]]


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd", "@x", "\t=1", "\r=1"])
def test_a_formula_in_an_exported_table_gets_an_apostrophe(tmp_path: Path, text: str) -> None:
    row = {"id": "a", "prompt": text, "original": "- an item", "edited": "-1.5"}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    export.run(ExportConfig(source=str(tmp_path / "s.jsonl"), to="csv", out=tmp_path / "o.csv"))
    with (tmp_path / "o.csv").open(newline="") as f:
        (made,) = csv.DictReader(f)
    assert (made["prompt"], made["rejected"], made["chosen"]) == (f"'{text}", "- an item", "-1.5")
    assert [quoted(cell) for cell in (-1.5, 2, None)] == [-1.5, 2, None]
