"""A person edits: the desk by hand and by law, the server against strangers, the page by keyboard in a browser."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.browser import browser, complaints
from tests.forked import PROGRAM, run
from tests.test_cli import write_jsonl
from tokalign.annotation.newlines import as_in
from tokalign.annotation.store import AnnotationStore, ConflictError, Task, Work
from tokalign.artifacts.workspace import Plan, Workspace
from tokalign.core import diff
from tokalign.core.words import split
from tokalign.errors import InputError
from tokalign.runtime.disk import sealed

__all__ = ["browser"]
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
TASKS = [Task(f"r{k}", f"Q{k}?", f"bad {k}", f"bad {k}", "chosen") for k in range(4)]


def test_what_is_handed_in_is_there_after_a_kill_and_what_was_begun_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    store = AnnotationStore(TASKS, path, "ann")
    store.save(0, 0, "edited", Work("good 0", ["style"], "why"))
    assert store.keep(1, "tab", 0, Work("goo"))
    with path.open("ab") as f:  # killed in the middle of a line; nothing is closed
        f.write(b'{"event": "decided", "key"')
    with AnnotationStore(TASKS, path, "bob") as again:
        found = again.decision(0)
        assert found is not None
        assert (found.work, found.annotator, found.version) == (Work("good 0", ["style"], "why"), "ann", 1)
        assert again.draft(1) == Work("goo")
        assert again.done == 1
        again.save(0, 1, "unchanged", Work("bad 0"))
    with AnnotationStore(TASKS, path, "") as last:
        assert last.decision(0).verdict == "unchanged"  # type: ignore[union-attr]


def test_two_at_work_get_different_rows_and_a_row_that_was_decided_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    with AnnotationStore(TASKS, tmp_path / "a.jsonl", "ann") as store:
        assert (store.next("one"), store.next("two"), store.next("one")) == (0, 1, 0)
        assert not store.claim(1, "one")
        store.skip(1, "one")  # of a tab that does not have it
        assert not store.claim(1, "one")
        first = store.save(1, 0, "edited", Work("good"))
        assert store.save(1, 0, "edited", Work("good")) == first, "the answer was lost: the same, handed in again"
        with pytest.raises(ConflictError):
            store.save(1, 0, "edited", Work("other"))
        assert store.decision(1).work.text == "good"  # type: ignore[union-attr]
        assert store.next("two") == 2


def test_what_is_skipped_comes_last(tmp_path: Path) -> None:
    with AnnotationStore(TASKS, tmp_path / "a.jsonl", "") as store:
        seen = []
        while (row := store.next("one")) is not None:
            seen.append(row)
            if row == 1 and seen.count(1) == 1:
                store.skip(row, "one")
            else:
                store.save(row, 0, "unchanged", Work("x"))
        assert seen == [0, 1, 2, 3, 1]


def test_rows_that_are_skipped_go_round_in_their_order(tmp_path: Path) -> None:
    with AnnotationStore(TASKS, tmp_path / "a.jsonl", "") as store:
        seen = []
        for _ in range(2 * len(TASKS)):
            row = store.next("one")
            assert row is not None
            seen.append(row)
            store.skip(row, "one")
        assert seen == [0, 1, 2, 3] * 2


def test_a_page_that_is_loaded_anew_gets_the_row_it_had(tmp_path: Path) -> None:
    with AnnotationStore(TASKS, tmp_path / "a.jsonl", "") as store:
        store.save(0, 0, "edited", Work("good"))
        assert store.next("one") == 1
        assert store.claim(0, "one")  # back to what was decided
        assert store.keep(0, "one", 1, Work("better"), leaving=True)
        assert store.next("one") == 0
        assert store.draft(0) == Work("better")


def test_a_page_that_is_left_holds_its_row_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with AnnotationStore(TASKS, tmp_path / "a.jsonl", "") as store:
        assert store.next("one") == 0
        assert store.keep(0, "one", 0, Work("goo"), leaving=True)
        assert not store.claim(0, "two")
        now += 11
        assert store.claim(0, "two")
        now += 170  # someone who is still here says so now and then
        assert store.keep(0, "two", 0, Work("goo"))
        now += 170
        assert not store.claim(0, "one")


def test_a_stale_page_overwrites_nothing(tmp_path: Path) -> None:
    with AnnotationStore(TASKS, tmp_path / "a.jsonl", "") as store:
        assert (store.next("one"), store.next("two")) == (0, 1)
        assert not store.keep(1, "one", 0, Work("mine"))
        store.save(1, 0, "edited", Work("good"))
        assert not store.keep(1, "one", 0, Work("mine")), "it was decided meanwhile"
        assert store.draft(1) is None
        assert store.keep(1, "one", 1, Work("better"))


def test_rows_that_show_the_same_lie_before_one_at_a_time_and_are_decided_together(tmp_path: Path) -> None:
    alike = [TASKS[0], TASKS[0]._replace(id="twin"), TASKS[0]._replace(chosen="another")]
    with AnnotationStore(alike, tmp_path / "a.jsonl", "") as store:
        assert (store.next("one"), store.next("two")) == (0, 2)
        store.save(0, 0, "edited", Work("good"))
        assert [store.decision(k) is not None for k in range(3)] == [True, True, False]
        assert store.done == 2


def test_what_was_not_changed_is_not_written(tmp_path: Path) -> None:
    with AnnotationStore(TASKS, tmp_path / "a.jsonl", "") as store:
        store.keep(0, "one", 0, TASKS[0].start)
        store.keep(0, "one", 0, Work("goo"))
        store.keep(0, "one", 0, Work("goo"))
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with AnnotationStore(TASKS, path, "") as store:
        store.save(0, 0, "edited", Work("good"))
    path.write_text(path.read_text().rstrip("\n"))  # by an editor that leaves it off
    for row in (1, 2):
        with AnnotationStore(TASKS, path, "") as store:
            assert store.done == row
            store.save(row, 0, "edited", Work("good"))


ENDS = st.lists(st.sampled_from(["a", "b", " ", "\r\n", "\n", "\r", "\u2028"]), max_size=14).map("".join)


@given(ENDS, ENDS)
def test_ends_of_lines_come_back_from_a_text_field(original: str, typed: str) -> None:
    def in_a_field(text: str) -> str:
        return text.replace("\r\n", "\n").replace("\r", "\n")

    assert as_in(original, in_a_field(original)) == original
    assert in_a_field(as_in(original, in_a_field(typed))) == in_a_field(typed)
    if "\r" not in original:
        assert as_in(original, in_a_field(typed)) == in_a_field(typed)


def test_new_lines_end_as_most_do() -> None:
    assert as_in("a\r\nb\r\nc\n", "a\nnew\nb\nc\n") == "a\r\nnew\r\nb\r\nc\n"


def test_work_is_found_again_by_what_was_shown_and_laid_on_nothing_else(tmp_path: Path) -> None:
    with AnnotationStore(TASKS, tmp_path / "a.jsonl", "") as store:
        store.save(2, 0, "edited", Work("good"))
    moved = [TASKS[2]._replace(id="other"), TASKS[0], TASKS[1]._replace(original="another text")]
    with AnnotationStore(moved, tmp_path / "a.jsonl", "") as store:
        assert [store.decision(k) is not None for k in range(3)] == [True, False, False]


def test_a_file_that_is_no_desks_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"event": "decided"}\n')
    with pytest.raises(InputError, match=r"a.jsonl:1"):
        AnnotationStore(TASKS, tmp_path / "a.jsonl", "")


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("nsdkv"), st.sampled_from("ab"), st.integers(0, 3)), max_size=30))
def test_no_two_hold_one_row_and_nothing_handed_in_is_lost(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, str, int]]
) -> None:
    path = tmp_path_factory.mktemp("desk") / "a.jsonl"
    saved: dict[int, int] = {}
    reopened: set[tuple[int, str]] = set()  # decided, and being written again
    with AnnotationStore(TASKS, path, "") as store:
        for act, who, row in acts:
            if act == "n":
                given_out = store.next(who)
                assert given_out is None or given_out not in saved or (given_out, who) in reopened
                other = {"a": "b", "b": "a"}[who]
                assert given_out is None or not store.claim(given_out, other)
            elif act == "s":
                store.skip(row, who)
            elif act == "k":
                if store.keep(row, who, saved.get(row, 0), Work(f"{who}{row}")) and row in saved:
                    reopened.add((row, who))
            else:
                store.save(row, saved.get(row, 0), "edited", Work("x"))
                saved[row] = saved.get(row, 0) + 1
    with AnnotationStore(TASKS, path, "") as again:
        assert {k: d.version for k in range(4) if (d := again.decision(k))} == saved


class Command:
    """``edit --editor human``, running; ``address`` is what it prints."""

    def __init__(self, cwd: Path, port: int = 0, source: str = "rows.jsonl") -> None:
        work = [PROGRAM, "edit", source, "--editor", "human", "--annotator", "ann", "--no-open", "--port", str(port)]
        self.process = subprocess.Popen([*work, "--out", "edits"], cwd=cwd, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = re.search(r"http://\S+", self.process.stderr.readline())
        assert found is not None
        self.address = found[0]
        self.host = self.address.split("/")[2]

    def wait(self) -> int:
        return self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    running: list[Command] = []

    def begin(**options: Any) -> Command:
        running.append(Command(tmp_path, **options))
        return running[-1]

    yield begin
    for command in running:
        command.kill()


def rows(n: int) -> list[dict[str, Any]]:
    texts = ["a bad word stands here", f"a bad {HOSTILE} 👩‍👩‍👧 stands here", "كلمة bad في النص هنا نعم"]
    return [
        {
            "id": f"r{k}",
            "prompt": f"Question {k} {HOSTILE}?",
            "chosen": f"A good one {k}.",
            "rejected": f"{texts[k % 3]} {k}",
        }
        for k in range(n)
    ]


def ask(command: Command, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    """One request, with exactly these headers besides the host."""
    connection = HTTPConnection(command.host)
    sent = json.dumps(body).encode() if body is not None else None
    connection.request(method, path, sent, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.getheaders()}


@pytest.mark.slow
def test_strangers_get_nothing(tmp_path: Path, start: Callable[..., Command]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(2))
    command = start()
    origin = f"http://{command.host}"
    assert ask(command, "GET", "/")[0] == 403
    assert ask(command, "GET", "/open?key=wrong")[0] == 403
    status, _, headers = ask(command, "GET", "/open?" + command.address.split("?")[1])
    assert status == 303
    cookie = headers["set-cookie"].split(";")[0]
    assert cookie.startswith(f"tokalign-{command.host.split(':')[1]}="), "browsers send it to every port"
    assert ask(command, "GET", "/", cookie=cookie.partition("=")[0] + "=caf\xe9")[0] == 403
    assert ask(command, "GET", "/open?key=caf%C3%A9")[0] == 403
    assert ask(command, "GET", f"/api/row?client=x&at={'9' * 5000}", cookie=cookie)[0] == 404
    assert {"httponly", "samesite=lax"} <= {p.strip().lower() for p in headers["set-cookie"].split(";")}
    status, page, headers = ask(command, "GET", "/", cookie=cookie)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert HOSTILE not in page
    save = {"at": 0, "text": "x y", "verdict": "edited", "version": 0, "categories": [], "rationale": ""}
    for wrong in ({}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert ask(command, "POST", "/api/save", save, cookie=cookie, **wrong)[0] == 403
    assert ask(command, "POST", "/api/save", save, origin=origin)[0] == 403, "no cookie"
    assert ask(command, "GET", "/api/row?client=x", cookie=cookie, host="evil.example")[0] == 421
    big = {**save, "text": "x" * 2_100_000}
    assert ask(command, "POST", "/api/save", big, cookie=cookie, origin=origin)[0] == 413
    wrongs: list[Any] = [
        [],
        {"at": 9},
        {"at": True},
        {"at": 0},
        {**save, "text": "\ud800"},
        {**save, "categories": ["evil"]},
        {**save, "verdict": "done"},
        {**save, "version": "0"},
    ]
    for bad in wrongs:
        assert ask(command, "POST", "/api/save", bad, cookie=cookie, origin=origin)[0] == 400, bad
    for same in ("", " ", rows(1)[0]["rejected"]):
        assert ask(command, "POST", "/api/save", {**save, "text": same}, cookie=cookie, origin=origin)[0] == 422
    assert ask(command, "GET", "/../desk.py", cookie=cookie)[0] == 404
    assert ask(command, "POST", "/api/finish", {"at": 0}, cookie=cookie, origin=origin)[0] == 409
    assert not (tmp_path / "edits" / "data.jsonl").exists()
    with socket.socket() as s:  # nobody outside this machine is listened to
        s.connect(("127.0.0.1", int(command.host.split(":")[1])))
    command.process.send_signal(signal.SIGTERM)  # SIGINT is ignored where these tests run in the background
    assert command.wait() == 143


@pytest.mark.slow
def test_the_diff_that_is_shown_is_the_one_that_labels(tmp_path: Path, start: Callable[..., Command]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(3))
    command = start()
    _, _, headers = ask(command, "GET", "/open?" + command.address.split("?")[1])
    known = {"cookie": headers["set-cookie"].split(";")[0], "origin": f"http://{command.host}"}
    for k, row in enumerate(rows(3)):
        text = row["rejected"].replace("bad", "really good")
        _, said, _ = ask(command, "POST", "/api/diff", {"at": k, "text": text}, **known)
        kept = diff.compare_words(split([row["rejected"]]), split([text]), diff.AlignOptions())
        expected = [[o.tag, row["rejected"][o.i1 : o.i2], text[o.j1 : o.j2]] for o in diff.opcodes(kept)]
        assert json.loads(said)["parts"] == expected
        assert json.loads(said)["similarity"] == diff.similarity(row["rejected"], text)


def press(browser: Any, *keys: str) -> None:
    """Keys on whatever has the focus; ``Alt+N`` and the like hold the first down."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    held = {"Ctrl": Keys.CONTROL, "Alt": Keys.ALT}
    for key in keys:
        chain = ActionChains(browser)
        modifier, _, rest = key.partition("+")
        if modifier in held and rest:
            letter = {"Enter": Keys.ENTER, "End": Keys.END}.get(rest, rest.lower())
            chain.key_down(held[modifier]).send_keys(letter).key_up(held[modifier])
        else:
            chain.send_keys(
                {"Tab": Keys.TAB, "Del": Keys.DELETE, "Right": Keys.ARROW_RIGHT, "Left": Keys.ARROW_LEFT}.get(key, key)
            )
        chain.perform()


def until(what: Callable[[], Any], seconds: float = 10.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.03)
    return found


def shown(browser: Any, id_: str) -> str:
    return str(browser.execute_script(f"return document.getElementById('{id_}').textContent"))


def text(browser: Any) -> str:
    return str(browser.execute_script("return document.getElementById('text').value"))


def at_row(browser: Any, k: int) -> None:
    """Wait until row ``k`` is before us and the text has the focus."""
    state = "return typeof row === 'object' && row ? [row.id, document.activeElement.id, $('diff').textContent] : ['']"
    until(lambda: (s := browser.execute_script(state))[0] == f"r{k}" and s[1] == "text" and s[2])


def edit_bad(browser: Any) -> None:
    """With the caret at the start: delete ``bad`` after ``a`` by keys alone, and write ``good`` in its place."""
    before = text(browser).partition("bad")[0]
    onward = (
        "Right" if before.isascii() else "Left"
    )  # arrows go by what is seen: in Arabic the text goes on to the left
    press(browser, *[onward] * len(before), *["Del"] * 3, "good")


@pytest.mark.browser
@pytest.mark.slow
def test_ten_rows_by_keyboard_with_a_reload_a_kill_and_two_tabs(
    tmp_path: Path, start: Callable[..., Command], browser: Any
) -> None:
    given_rows = rows(10)
    write_jsonl(tmp_path / "rows.jsonl", *given_rows)
    command = start()
    port = int(command.host.split(":")[1])
    browser.get(command.address)
    at_row(browser, 0)
    assert HOSTILE in shown(browser, "turns")

    edit_bad(browser)
    until(lambda: "bad" in shown(browser, "diff") and "good" in shown(browser, "diff"))
    assert browser.execute_script(
        "return [...document.querySelectorAll('#diff del,#diff ins')].map(e => e.textContent.trim())"
    ) == ["bad", "good"]
    press(browser, "Alt+1", "Alt+5", "Ctrl+Enter")
    at_row(browser, 1)

    edit_bad(browser)  # a reload in the middle keeps the draft
    browser.refresh()
    at_row(browser, 1)
    assert text(browser) == given_rows[1]["rejected"].replace("bad", "good")
    press(browser, "Ctrl+Enter")
    at_row(browser, 2)

    press(browser, "Alt+N")
    at_row(browser, 3)
    press(browser, "Alt+C")
    at_row(browser, 4)
    press(browser, "Alt+S")
    at_row(browser, 5)

    first = browser.current_window_handle  # another tab gets another row
    browser.switch_to.new_window("tab")
    browser.get(f"http://{command.host}/")
    at_row(browser, 4)  # the one that was skipped: nobody has it
    edit_bad(browser)
    press(browser, "Ctrl+Enter")
    at_row(browser, 6)
    browser.close()
    browser.switch_to.window(first)

    edit_bad(browser)
    command.kill()  # in the middle: what was handed in is safe, and the page says that nobody answers
    press(browser, "Ctrl+Enter")
    until(lambda: "does not respond" in shown(browser, "trouble"))
    command = start(port=port)
    browser.get(command.address)
    for k in (5, 6, 7, 8):
        at_row(browser, k)
        if "good" not in text(browser):
            edit_bad(browser)
        press(browser, "Ctrl+Enter")
    at_row(browser, 9)
    press(browser, "Alt+B")  # back, and another verdict on the one before
    at_row(browser, 8)
    assert "saved" in shown(browser, "state")
    press(browser, "Alt+N")
    at_row(browser, 9)
    press(browser, "Alt+N")
    until(lambda: browser.execute_script("return !document.getElementById('end').hidden"))
    press(browser, "Ctrl+Enter")
    assert command.wait() == 0
    assert [c for c in complaints(browser) if "ERR_CONNECTION_REFUSED" not in c and "409" not in c] == []

    made = [json.loads(line) for line in (tmp_path / "edits" / "data.jsonl").read_text().splitlines()]
    assert [r["id"] for r in made] == [f"r{k}" for k in range(10)]
    status = {r["id"]: r["status"] for r in made}
    assert status == {f"r{k}": "edited" for k in range(10)} | {
        "r2": "unchanged",
        "r3": "rejected",
        "r8": "unchanged",
        "r9": "unchanged",
    }
    for r, given_row in zip(made, given_rows, strict=True):
        assert (r["original"], r["annotator"], r["editor"]) == (given_row["rejected"], "ann", "human")
        if r["status"] == "edited":
            assert r["edited"] == given_row["rejected"].replace("bad", "good")
    assert made[0]["categories"] == ["safety", "style"]
    assert made[8]["attempts"] == 2
    assert run(tmp_path, "diff", "edits", "--tokenizer", "tiny", "--vocab", "300", "--out", "labels").returncode == 0


@pytest.mark.browser
@pytest.mark.slow
def test_slips_of_the_hand_cost_nothing(tmp_path: Path, start: Callable[..., Command], browser: Any) -> None:
    given_rows = rows(4)
    write_jsonl(tmp_path / "rows.jsonl", *given_rows)
    command = start()
    browser.get(command.address)
    at_row(browser, 0)
    event = "new KeyboardEvent('keydown', {key: 'n', code: 'KeyN', altKey: true, repeat: true, cancelable: true})"
    assert browser.execute_script(f"return !document.dispatchEvent({event})"), "held down: swallowed"
    press(browser, "x", "Alt+S")  # at once, before any pause
    at_row(browser, 1)
    press(browser, "Alt+N")
    at_row(browser, 2)
    browser.refresh()
    at_row(browser, 2)
    press(browser, "Alt+B")  # what was shown before is not known any more: the row before
    at_row(browser, 1)
    assert "nothing to fix" in shown(browser, "state")
    press(browser, "Alt+B")
    at_row(browser, 0)
    assert text(browser) == "x" + given_rows[0]["rejected"], "what was typed just before Skip is there"
    press(browser, "Alt+R")
    until(lambda: text(browser) == given_rows[0]["rejected"])
    press(browser, "Alt+R")
    until(lambda: text(browser).startswith("x"))
    browser.refresh()
    at_row(browser, 0)  # the row that was before us, though another is next
    assert "row 1 of 4" in shown(browser, "saved")

    (tmp_path / "other").mkdir()  # another run in the same browser leaves this one's session alone
    write_jsonl(tmp_path / "other" / "rows.jsonl", *rows(1))
    other = Command(tmp_path / "other")
    try:
        first = browser.current_window_handle
        browser.switch_to.new_window("tab")
        browser.get(other.address)
        at_row(browser, 0)
        browser.close()
        browser.switch_to.window(first)
    finally:
        other.kill()
    press(browser, "Alt+N")
    at_row(browser, 2)

    browser.delete_all_cookies()  # a session that is over is told, and nothing is taken away
    press(browser, "Alt+S")
    until(lambda: "403" in shown(browser, "trouble"))
    assert text(browser) == given_rows[2]["rejected"]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(
    tmp_path: Path, start: Callable[..., Command], browser: Any, width: int, scheme: str
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(3))
    command = start()
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(command.address)
    at_row(browser, 0)
    edit_bad(browser)
    until(lambda: "good" in shown(browser, "diff"))
    inner, whole = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert whole <= inner
    names = browser.execute_script(
        "return [...document.querySelectorAll('button,input,textarea,progress')].filter(e => e.offsetParent)"
        ".map(e => e.getAttribute('aria-label') || (e.labels && e.labels[0] || e).textContent)"
    )
    assert all(name.strip() for name in names), "something has no name for a screen reader"
    if folder := os.environ.get("TOKALIGN_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/human-{width}-{scheme}.png")
    assert complaints(browser) == []


def way_in(command: Command) -> dict[str, str]:
    """What the page sends with each request."""
    _, _, headers = ask(command, "GET", "/open?" + command.address.split("?")[1])
    return {"cookie": headers["set-cookie"].split(";")[0], "origin": f"http://{command.host}"}


def finished(command: Command, cwd: Path, known: dict[str, str]) -> list[dict[str, Any]]:
    """Say that all is done; the edits."""
    assert ask(command, "POST", "/api/finish", {}, **known)[0] == 200
    assert command.wait() == 0
    return [json.loads(line) for line in (cwd / "edits" / "data.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_edits_of_a_model_are_reviewed_and_both_are_kept(tmp_path: Path, start: Callable[..., Command]) -> None:
    made = {"prompt": "Q?", "original": "a bad word", "edited": "a fine word", "categories": ["term", "style"]}
    write_jsonl(tmp_path / "made.jsonl", {"id": "a", **made}, {"id": "b", **made, "prompt": "P?"})
    assert run(tmp_path, "edit", "made.jsonl", "--editor", "recorded", "--out", "machine").returncode == 0
    command = start(source="machine")
    known = way_in(command)
    row = json.loads(ask(command, "GET", "/api/row?client=x", cookie=known["cookie"])[1])["row"]
    assert (row["original"], row["work"]["text"], row["note"]) == ("a bad word", "a fine word", "recorded: edited")
    assert row["start"] == row["work"] == {"text": "a fine word", "categories": ["term", "style"], "rationale": ""}
    save = {"at": 0, "text": "a good word", "verdict": "edited", "version": 0, "rationale": "one\ntwo"}
    assert ask(command, "POST", "/api/save", {**save, "categories": ["safety", "term"]}, **known)[0] == 200
    fine = {**save, "at": 1, "verdict": "unchanged", "categories": ["style"]}
    assert ask(command, "POST", "/api/save", fine, **known)[0] == 200
    again = json.loads(ask(command, "GET", "/api/row?client=x&at=1", cookie=known["cookie"])[1])["row"]
    assert again["work"]["text"] == "a good word", "what was written is there if it is taken back"
    kept, left = finished(command, tmp_path, known)
    assert (kept["original"], kept["proposed"], kept["edited"]) == ("a bad word", "a fine word", "a good word")
    assert (kept["categories"], kept["rationale"]) == (["safety", "term"], "one\ntwo")
    assert (left["status"], left["edited"], left["categories"]) == ("unchanged", "a bad word", [])
    manifest = json.loads((tmp_path / "edits" / "manifest.json").read_text())
    assert manifest["inputs"][0]["path"] == "../machine"


@pytest.mark.slow
def test_a_browsers_line_feeds_are_no_edit(tmp_path: Path, start: Callable[..., Command]) -> None:
    text = "one bad line\r\nand another\r\n"
    write_jsonl(tmp_path / "rows.jsonl", {"id": "a", "prompt": "Q?", "chosen": "c", "rejected": text})
    command = start()
    known, typed = way_in(command), text.replace("\r", "")
    save = {"at": 0, "verdict": "edited", "version": 0}
    assert ask(command, "POST", "/api/save", {**save, "text": typed}, **known)[0] == 422
    _, said, _ = ask(command, "POST", "/api/diff", {"at": 0, "text": typed}, **known)
    assert [part[0] for part in json.loads(said)["parts"]] == ["equal"]
    assert ask(command, "POST", "/api/save", {**save, "text": typed.replace("bad", "good")}, **known)[0] == 200
    assert finished(command, tmp_path, known)[0]["edited"] == text.replace("bad", "good")


@pytest.mark.slow
def test_a_row_decided_anew_after_a_kill_in_the_last_write_is_the_one_that_is_written(
    tmp_path: Path, start: Callable[..., Command]
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(1))
    command = start()
    known = way_in(command)
    save = {"at": 0, "verdict": "edited", "version": 0, "text": "first"}
    assert ask(command, "POST", "/api/save", save, **known)[0] == 200
    command.kill()
    edits = tmp_path / "edits"  # as if killed with the row written and counted
    plan = Plan.read(edits)
    assert plan is not None
    space = Workspace(edits, plan)
    space.write(".00000.data.jsonl.part", "{}\n")
    state = {"file": "data.jsonl", "full": [], "bytes": 3, "taken": 1, "written": 1, "tally": {}}
    space.write("progress.json", sealed(state))
    command = start()
    known = way_in(command)
    assert ask(command, "POST", "/api/save", {**save, "version": 1, "text": "second"}, **known)[0] == 200
    assert [row["edited"] for row in finished(command, tmp_path, known)] == ["second"]


@pytest.mark.slow
def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(tmp_path, "edit", "rows.jsonl", "--editor", "human", "--no-open", "--port", port, "--out", "edits")
    assert done.returncode == 2
    assert "is not available" in done.stderr
