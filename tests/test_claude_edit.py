"""``edit --editor claude`` through the real command line and the real SDK, against a local server."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_claude import KEY, FakeClaude
from tests.fake_editor import edit
from tests.forked import run
from tests.test_cli import write_jsonl

pytestmark = pytest.mark.slow
PRICES = "[m]\ninput = 1.0\noutput = 5.0\ncache_write_5m = 1.25\ncache_write_1h = 2.0\ncache_read = 0.1\n"
BASE = "a bad word stands in this response of mine, and all the other words are as they should be"


@pytest.fixture
def fake() -> Iterator[FakeClaude]:
    with FakeClaude(answer=edit) as server:
        yield server


def rows(*told: str) -> list[dict[str, Any]]:
    """A row for each, with ``told`` in its response."""
    return [
        {
            "id": f"r{k}",
            "prompt": f"Question {k}?",
            "chosen": f"Wholly other {k}.",
            "rejected": f"{BASE} {k} {t}".strip(),
        }
        for k, t in enumerate(told)
    ]


def claude(fake: FakeClaude, cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``edit`` on rows.jsonl. Whatever happens, the key stands nowhere."""
    (cwd / "prices.toml").write_text(PRICES)
    work = ["edit", "rows.jsonl", "--editor", "claude", "--model", "m", "--prices", "prices.toml", "--out", "edits"]
    key = {"ANTHROPIC_BASE_URL": fake.url, "ANTHROPIC_API_KEY": KEY, **env}
    done = run(cwd, *work, *args, **{k: v for k, v in key.items() if v})
    assert KEY not in done.stdout + done.stderr
    for path in cwd.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    return done


def made(cwd: Path) -> dict[str, dict[str, Any]]:
    lines = (cwd / "edits" / "data.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def manifest(cwd: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cwd / "edits" / "manifest.json").read_text())
    return found


def test_every_row_ends_with_its_status_and_reason(fake: FakeClaude, tmp_path: Path) -> None:
    told = {
        "": ("edited", "", 1), "[[none]]": ("unchanged", "", 1), "[[lazy]]": ("edited", "", 2),
        "[[copy]]": ("edited", "", 2), "[[copy!]]": ("rejected", "over-edited", 2),
        "[[rewrite!]]": ("rejected", "over-edited", 2), "[[lazy!]]": ("rejected", "unchanged", 2),
        "[[empty!]]": ("rejected", "empty", 2), "[[preamble!]]": ("rejected", "preamble", 2),
        "[[tag!]]": ("rejected", "preamble", 2), "[[prose!]]": ("rejected", "unparsed", 2),
        "[[faults: refusal]]": ("rejected", "refusal (bio)", 1),
        "[[faults: refusal-text]]": ("rejected", "refusal (bio)", 1),
        "[[faults: max_tokens]]": ("edited", "", 2), "[[faults: max_tokens, max_tokens]]": ("rejected", "truncated", 2),
        "[[faults: odd]]": ("edited", "", 1), "[[faults: 400]]": ("failed", "400 invalid_request_error: no", 0),
    }  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", *rows(*told))
    done = claude(fake, tmp_path)
    assert done.returncode == 3, done.stderr
    found = made(tmp_path)
    got = {t: (r["status"], r["reason"], r["attempts"]) for t, r in zip(told, found.values(), strict=True)}
    assert got == told
    first = found["r0"]
    assert first["edited"] == first["original"].replace("bad", "good")
    assert (first["categories"], first["rationale"]) == (["safety", "style"], "It was bad.")
    assert (first["editor"], first["model"], first["prompt_version"]) == ("claude", "m", "edit-1")
    assert first["usage"]["usd"] > 0
    assert found["r11"]["edited"] == ""

    m = manifest(tmp_path)
    assert m["rows"] == {"in": 17, "out": 17, "skipped": 0, "failed": 1, "reasons": {}}
    assert m["stats"]["status"] == {"edited": 5, "unchanged": 1, "rejected": 10, "failed": 1}
    assert m["stats"]["reasons"]["refusal (bio)"] == 2
    assert sum(m["stats"]["similarity_histogram"]) == sum(r["similarity"] is not None for r in found.values())
    assert m["usage"]["answers"] == sum(fake.charged.values())
    assert m["usage"]["usd"] == pytest.approx(sum(r["usage"]["usd"] for r in found.values() if r["usage"]), abs=1e-5)
    for said in ("10 rejected", "refusal (bio) 2", "share of words kept", "paid $", "1 rows failed"):
        assert said in done.stderr, said


def test_what_failed_is_tried_again_and_nothing_else_is_paid_again(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows("", "[[faults: 400]]", ""))
    assert claude(fake, tmp_path).returncode == 3
    assert sum(fake.charged.values()) == 2
    again = claude(fake, tmp_path)
    assert again.returncode == 0, again.stderr
    assert [r["status"] for r in made(tmp_path).values()] == ["edited"] * 3
    assert set(fake.charged.values()) == {1}
    asked = sum(fake.seen.values())
    assert claude(fake, tmp_path).returncode == 0
    assert sum(fake.seen.values()) == asked, "a finished run asks nothing"


def test_other_gates_read_the_answers_that_are_there(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows("", "", ""))
    assert claude(fake, tmp_path).returncode == 0
    refused = claude(fake, tmp_path, "--min-similarity", "0.99", "--no-re-ask")
    assert refused.returncode == 2
    assert "min-similarity" in refused.stderr
    assert claude(fake, tmp_path, "--min-similarity", "0.99", "--no-re-ask", "--fresh").returncode == 3
    assert {r["reason"] for r in made(tmp_path).values()} == {"over-edited"}
    assert sum(fake.seen.values()) == 3
    assert claude(fake, tmp_path, "--fresh", "--discard-journal").returncode == 0
    assert set(fake.charged.values()) == {2}


@pytest.mark.parametrize("fault", ["401", "402", "403", "404", "spent-out", "limit"])
def test_what_no_request_can_pass_stops_the_run_with_a_clear_word(fake: FakeClaude, tmp_path: Path, fault: str) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows("", f"[[faults: {fault}]]", *[""] * 40))
    stopped = claude(fake, tmp_path, "--concurrency", "2")
    assert stopped.returncode == 7, stopped.stderr
    assert "→" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert sum(fake.charged.values()) < 10
    done = claude(fake, tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(fake.charged.values()) == {1}


def test_what_passes_is_tried_again_and_what_may_be_paid_is_told(fake: FakeClaude, tmp_path: Path) -> None:
    faults = ["429", "429-after", "500", "529", "html", "malformed", "drop-before", "drop-after", "no-usage"]
    write_jsonl(tmp_path / "rows.jsonl", *rows(*(f"[[faults: {f}]]" for f in faults)))
    done = claude(fake, tmp_path)
    assert done.returncode == 0, done.stderr
    usage = manifest(tmp_path)["usage"]
    assert usage["answers"] == 9
    assert usage["lost_calls"] == 4  # html, malformed, both drops
    assert usage["perhaps_usd"] > 0
    assert "outcome is unknown" in done.stderr
    assert sum(fake.charged.values()) <= 9 + 4


def test_the_cap_stops_the_run_and_raising_it_goes_on(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(*[""] * 12))
    stopped = claude(fake, tmp_path, "--max-tokens", "500", "--max-cost", "0.02")
    assert stopped.returncode == 4, stopped.stderr
    assert "raise --max-cost" in stopped.stderr
    paid = sum(fake.charged.values())
    assert 0 < paid < 12
    done = claude(fake, tmp_path, "--max-tokens", "500", "--max-cost", "1")
    assert done.returncode == 0, done.stderr
    assert set(fake.charged.values()) == {1}
    assert manifest(tmp_path)["usage"]["usd"] < 1


def test_a_dry_run_asks_nothing_and_bounds_what_the_run_costs(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(*[""] * 50))
    said = claude(fake, tmp_path, "--dry-run", "--json")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert (found["rows"], found["answered"], sum(fake.seen.values())) == (50, 0, 0)
    assert not (tmp_path / "edits").exists()
    assert "nothing was billed" in said.stderr
    assert fake.paths["/v1/messages/count_tokens"] == 2 + 2 * 32
    assert claude(fake, tmp_path, "--limit", "20").returncode == 0
    paid = manifest(tmp_path)["usage"]["usd"] * 50 / 20
    assert found["low"] <= paid <= found["high"] <= found["most"]
    rest = json.loads(claude(fake, tmp_path, "--dry-run", "--json", "--batch").stdout)
    assert rest["answered"] == 20
    assert rest["most"] == pytest.approx(found["most"] * 30 / 50 / 2, rel=0.01)


def test_equal_rows_are_paid_once(fake: FakeClaude, tmp_path: Path) -> None:
    row = rows("")[0]
    write_jsonl(tmp_path / "rows.jsonl", row, {**row, "id": "twin"}, {**row, "id": "third"})
    assert claude(fake, tmp_path).returncode == 0
    assert sum(fake.charged.values()) == 1
    assert len(made(tmp_path)) == 3


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--model", ""], 2, "needs a model"),
        (["--model", "gpt"], 2, "no price is known"),
        (["--prompt", "none.md"], 5, "none.md"),
        (["--prices", "rows.jsonl"], 5, "not a price list"),
        (["--max-cost", "-1"], 2, "max-cost"),
        (["--editor", "rules", "--dry-run"], 2, "costs nothing"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(
    fake: FakeClaude, tmp_path: Path, args: list[str], code: int, said: str
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(""))
    done = claude(fake, tmp_path, *args)
    assert (done.returncode, sum(fake.seen.values())) == (code, 0), done.stderr
    assert said in done.stderr
    assert not (tmp_path / "edits").exists()


def test_without_a_key_nothing_is_asked(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(""))
    done = claude(fake, tmp_path, ANTHROPIC_API_KEY="", HOME=str(tmp_path))
    assert done.returncode == 7, done.stderr
    assert "ANTHROPIC_API_KEY" in done.stderr


def test_the_users_prompt_replaces_ours_and_counts_by_content(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(""))
    (tmp_path / "mine.md").write_text("Mend it.")
    assert claude(fake, tmp_path, "--prompt", "mine.md", "--no-show-chosen").returncode == 0
    (row,) = made(tmp_path).values()
    assert row["prompt_version"].startswith("mine.md ")
    (tmp_path / "mine.md").write_text("Mend it well.")
    changed = claude(fake, tmp_path, "--prompt", "mine.md", "--no-show-chosen")
    assert changed.returncode == 2
    assert "input prompt" in changed.stderr


def test_what_is_discarded_is_paid_again_once_and_its_cost_is_not_forgotten(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows(*[""] * 12))
    assert claude(fake, tmp_path).returncode == 0
    paid = manifest(tmp_path)["usage"]["usd"]
    anew = ["--fresh", "--discard-journal"]
    assert claude(fake, tmp_path, *anew, ANTHROPIC_API_KEY="", HOME=str(tmp_path)).returncode == 7
    short = claude(fake, tmp_path, *anew, "--max-cost", str(paid + 0.06), "--concurrency", "1")
    assert short.returncode == 4, short.stderr
    some = sum(fake.charged.values()) - 12
    assert 0 < some < 12
    assert claude(fake, tmp_path, *anew).returncode == 0, "the same command again pays nothing twice"
    assert sum(fake.charged.values()) == 24
    assert manifest(tmp_path)["usage"]["usd"] == pytest.approx(2 * paid)


def test_a_second_try_that_fails_in_passing_is_made_again_by_the_same_command(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows("[[copy]]"))
    fake.answer = lambda request: edit(request) if len(request["messages"]) == 1 else ""
    again = fake._fault

    def failing(text: str) -> str:
        fault = again(text)
        return "529" if "Start again" in text and fake.seen[text] == 1 else fault

    fake._fault = failing  # type: ignore[method-assign]
    failed = claude(fake, tmp_path, "--max-retries", "0")
    assert failed.returncode == 3, failed.stderr
    assert [(r["status"], r["reason"]) for r in made(tmp_path).values()] == [("failed", "529")]
    fake.answer = edit
    assert claude(fake, tmp_path, "--max-retries", "0").returncode == 0
    assert [r["status"] for r in made(tmp_path).values()] == ["edited"]
    assert set(fake.charged.values()) == {1}


def test_while_what_failed_is_tried_again_the_rest_stays(fake: FakeClaude, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *rows("", "[[faults: 400, spent-out]]", ""))
    assert claude(fake, tmp_path).returncode == 3
    before = made(tmp_path)
    assert claude(fake, tmp_path).returncode == 7
    assert made(tmp_path) == before
    assert manifest(tmp_path)["rows"]["failed"] == 1
    assert run(tmp_path, "show", "edits").returncode == 0
    assert claude(fake, tmp_path).returncode == 0
    assert manifest(tmp_path)["rows"]["failed"] == 0
