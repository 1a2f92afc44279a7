"""What is wrong with an input is said by place, field, value and remedy; nothing is left half-written.

Through the real entry point. What each reader refuses, and how, stands in test_sources and test_readers.
"""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.forked import PROGRAM, run
from tests.manifests import change
from tokalign.runtime.disk import sha256

GOOD = {"id": "a", "prompt": "Q?", "chosen": "Good.", "rejected": "Bad."}
Case = tuple[str | bytes, int, str, str, str]


def lines(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


SECOND = {**GOOD, "id": "b"}
NOTHING_EDITED = 3
"""The exit code where the file was read: the rules do not know its texts."""
FILES: dict[str, Case] = {
    # what is in the file: content, exit code, place, part of the message, part of the remedy
    "missing column": (lines(GOOD, {"id": "b", "prompt": "Q?"}), 5, ":2", "'chosen': missing", "a row needs"),
    "wrong type": (lines(GOOD, {**SECOND, "rejected": 7}), 5, ":2", "'rejected'", "a row needs"),
    "truncated line": (lines(GOOD) + '{"id": "b", "pro', 5, ":2", "not valid JSON", "truncated"),
    "empty file": ("", 5, "", "there are no rows", ""),
    "lone surrogate": (lines(GOOD, {**SECOND, "prompt": "\ud800"}), 5, ":2", "surrogate", "a row needs"),
    "BOM at the start": ("\ufeff" + lines(GOOD), NOTHING_EDITED, "", "", ""),
    "BOM further on": (lines(GOOD, "\ufeff" + json.dumps(SECOND)), 5, ":2", "not valid JSON", "truncated"),
    "not UTF-8": (lines(GOOD).encode() + b'{"id": "\xff"}', 5, ":2", "0xff", "iconv"),
    "NUL, spelt out": (lines(GOOD, {**SECOND, "chosen": "a\0b"}), NOTHING_EDITED, "", "", ""),  # models do write it
    "NUL byte": (lines(GOOD) + '{"id": "b\0"}', 5, ":2", "not valid JSON", ""),
    "duplicate id": (lines(GOOD, SECOND, GOOD), 5, ":3", "duplicate key 'a', first at", "a unique id"),
    "duplicate key": (lines(GOOD, '{"id": "b", "id": "c"}'), 5, ":2", "duplicate key 'id'", "fix the row"),
    "NaN": (lines(GOOD, '{"id": "b", "prompt": NaN}'), 5, ":2", "NaN", "fix the row"),
    "empty response": (lines(GOOD, {**SECOND, "rejected": " "}), 5, ":2", "the response is empty", "a row needs"),
    "not an object": (lines(GOOD, [1]), 5, ":2", "expected an object", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("existing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_bad_file(tmp_path: Path, name: str, existing: bool) -> None:
    content, code, place, message, remedy = FILES[name]
    data = tmp_path / "rows.jsonl"
    data.write_bytes(content if isinstance(content, bytes) else content.encode())
    if existing:
        shutil.copytree(ROOT / "data" / "edits", tmp_path / "edits")
    before = contents(tmp_path)
    options = ["--editor", "rules", *(["--fresh"] if existing else [])]
    done = run(tmp_path, "edit", "rows.jsonl", "--out", "edits", *options)
    assert done.returncode == code, done.stderr
    if code == 5:
        assert_refused(done, f"rows.jsonl{place}: ", message, remedy)
        assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def assert_refused(done: "subprocess.CompletedProcess[str]", place: str, message: str, remedy: str) -> None:
    first, *rest = done.stderr.strip().splitlines()
    assert first.startswith("tokalign: ")
    assert place in first
    assert message in first
    assert remedy in " ".join(rest)
    assert "Traceback" not in done.stderr


def test_a_pair_whose_prompts_differ(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"\n\nHuman: {q}\n\nAssistant: a", "rejected": "\n\nHuman: Q?\n\nAssistant: b"} for q in ("Q?", "P?")
    ]
    (tmp_path / "hh.jsonl").write_text(lines(*rows))
    done = run(tmp_path, "edit", "hh.jsonl", "--editor", "rules", "--out", "edits")
    assert "2 rows in, 1 out, 1 skipped" in done.stderr
    assert "skipped 1: prompts differ inside the pair" in done.stderr
    strict = run(tmp_path, "edit", "hh.jsonl", "--editor", "rules", "--out", "strict", "--strict")
    assert strict.returncode == 5
    assert_refused(strict, "hh.jsonl:2: ", "prompts differ", "--strict")
    assert not (tmp_path / "strict").exists()


def test_a_line_of_a_hundred_megabytes_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    with (tmp_path / "rows.jsonl").open("wb") as f:
        f.write(lines(GOOD).encode())
        f.seek(100 << 20, os.SEEK_CUR)  # a hole: no disk is filled
        f.write(b"\n")
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # noqa: E731
    command = [PROGRAM, "edit", "rows.jsonl", "--out", "edits"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 5, done.stderr
    assert_refused(done, "rows.jsonl:2: ", "longer than 64 MB", "write one row per line")
    assert not (tmp_path / "edits").exists()


@pytest.mark.slow
def test_responses_over_the_limit(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q?", "original": text, "edited": f"{text}."} for text in ("Short", " ".join(map(str, range(99))))
    ]
    (tmp_path / "e.jsonl").write_text(lines(*rows))
    done = run(tmp_path, "diff", "e.jsonl", "--tokenizer", "tiny", "--vocab", "300", "--max-length", "60", "--out", "l")
    assert "skipped 1: over --max-length" in done.stderr
    none = run(tmp_path, "diff", "e.jsonl", "--tokenizer", "tiny", "--vocab", "300", "--max-length", "3", "--out", "n")
    assert none.returncode == 5
    assert_refused(none, "e.jsonl: ", "every row is longer", "raise --max-length")
    assert not (tmp_path / "n").exists()


def flip(folder: Path) -> None:
    data = bytearray((folder / "data.jsonl").read_bytes())
    data[100] ^= 1
    (folder / "data.jsonl").write_bytes(data)


def point(name: str) -> Callable[[Path], None]:
    def pointed(folder: Path) -> None:
        (folder / "link").symlink_to(folder.parent / "secret")
        change(folder, lambda m: m["files"].append({**m["files"][0], "name": name}))

    return pointed


def unfinished(folder: Path) -> None:
    (folder / "manifest.json").rename(folder / "unfinished.json")


ARTIFACTS: dict[str, tuple[str, Callable[[Path], None], str, str]] = {
    # what is wrong: artifact to start from, what is done to it, parts of the message and of the remedy
    "of another kind": ("prompts", lambda _: None, "holds prompts, not preferences", "tokalign playground"),
    "newer": (
        "preferences",
        lambda f: change(f, version=9),
        "preferences/9 is newer than preferences/1",
        "upgrade tokalign",
    ),
    "changed": ("preferences", flip, "sha256 differs", "make the artifact again"),
    "without its data": ("preferences", lambda f: (f / "data.jsonl").unlink(), "the file is missing", "again"),
    "pointing up": ("preferences", point("../secret"), "points outside", ""),
    "pointing by a link": ("preferences", point("link"), "not a regular file", ""),
    "unfinished": ("preferences", unfinished, "an unfinished run", "finish it first"),
    "no artifact": ("preferences", lambda f: (f / "manifest.json").unlink(), "not an artifact", "make one"),
}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_bad_artifact(tmp_path: Path, name: str) -> None:
    start, damage, message, remedy = ARTIFACTS[name]
    shutil.copytree(ROOT / "data" / start, tmp_path / "in")
    (tmp_path / "secret").write_text("s")
    damage(tmp_path / "in")
    done = run(tmp_path, "edit", "in", "--out", "edits")
    assert done.returncode == 5, done.stderr
    assert_refused(done, "in", message, remedy)
    assert not (tmp_path / "edits").exists()


@pytest.mark.parametrize("command", ["show in", "train-rm in --model tiny --level token --out rm"])
@pytest.mark.slow
def test_arrow_that_is_cut_short_is_noticed_even_when_its_hash_fits(tmp_path: Path, command: str) -> None:
    shutil.copytree(ROOT / "data" / "labels", tmp_path / "in")
    data = tmp_path / "in" / "data.arrow"
    data.write_bytes(data.read_bytes()[:-5000])
    change(tmp_path / "in", lambda m: m["files"][0].update(sha256=sha256(data), bytes=data.stat().st_size))
    done = run(tmp_path, *command.split())
    assert done.returncode == 5, done.stderr
    assert_refused(done, "data.arrow", "not a complete Arrow stream", "make the labels again")
    assert not (tmp_path / "rm").exists()


@pytest.mark.parametrize(
    "command", ["edit preferences", pytest.param("diff edits --tokenizer tiny", marks=pytest.mark.slow)]
)
def test_a_full_disk(tmp_path: Path, command: str) -> None:
    """A limit on file sizes stands for it: writing fails in the same way."""
    for name in ("preferences", "edits"):
        shutil.copytree(ROOT / "data" / name, tmp_path / name)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    args = [PROGRAM, *command.split(), "--out", "out"]
    done = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run(tmp_path, *args[1:]).returncode == 0
    assert run(tmp_path, *args[1:-1], "whole").returncode == 0
    ours = [p for p in (tmp_path / "whole").iterdir() if p.name.startswith("data.")]
    assert [(tmp_path / "out" / p.name).read_bytes() for p in ours] == [p.read_bytes() for p in ours]
