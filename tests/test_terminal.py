"""Data from outside cannot speak to the terminal: every byte that a terminal sees is looked at."""

import json
import os
import pty
import re
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.forked import PROGRAM

ATTACKS = {
    "osc": "\x1b]0;pwned\x07",
    "link": "\x1b]8;;http://x\x1b\\here",
    "csi": "\x1b[2J\x1b[31mred\x1b[0m",
    "c1": "\x9b31m\x9d0;t\x9c\x90q",
    "bidi": "\u202egnp.exe\u2066\u200f",
    "moves": "over\rwritten\b\b\x7f\x0b\x0c",
    "bell": "\x07",
    "markup": "[red]x[/red] [/x] [link=http://x]y[/link] [bold",
    "tag": "\U000e0041",
}
EVIL = " ".join(ATTACKS.values())
SGR = re.compile(r"\x1b\[[0-9;]*m")
CURSOR = re.compile(r"\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r")
"""What a progress bar sends."""


def on_a_terminal(cwd: Path, *args: str, **env: str) -> tuple[int, str]:
    """Run the program with a terminal at all its ends; its exit code and every byte it sent."""
    ours, theirs = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI", "PYTEST_CURRENT_TEST")}
    settings = {**clean, "TERM": "xterm-256color", "COLUMNS": "200", "PAGER": "", "PYTHONUTF8": "1", **env}
    with subprocess.Popen(
        [PROGRAM, *args], cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=settings, close_fds=True
    ) as process:
        os.close(theirs)
        sent = b""
        try:
            while part := os.read(ours, 65536):
                sent += part
        except OSError:  # the other end was closed
            pass
        os.close(ours)
    return process.returncode, sent.decode()


def leaked(sent: str) -> list[str]:
    """What a terminal would act on, but for our own colours and progress bar."""
    left = CURSOR.sub("", SGR.sub("", sent))
    return [c for c in left if c not in "\n\t\u200c\u200d" and unicodedata.category(c) in ("Cc", "Cf", "Cs")]


def rows(evil: str) -> list[dict[str, Any]]:
    text = f"Before {evil} after."
    kinds, pair = [f"kind {evil}"], {"prompt": text, "original": text}
    return [
        {"id": f"a{evil}", **pair, "edited": f"New {text}", "categories": kinds, "rationale": text},
        {"id": "b", "prompt": [{"role": evil or "user", "content": text}], "original": text, "edited": f"Old {text}"},
    ]  # fmt: skip


def make(folder: Path, evil: str) -> None:
    lines = [json.dumps(row) + "\n" for row in rows(evil)]
    (folder / "rows.jsonl").write_text("".join(lines))
    preferences = [{"id": f"p{evil}", "prompt": "Q?", "chosen": f"x {evil}", "rejected": f"y {evil}", "source": evil}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences))
    bad = {"id": f"c{evil}", "prompt": 5, "original": evil, f"edited{evil}": 1}
    (folder / f"bad{evil.replace('/', '|')[:40]}.jsonl").write_text(json.dumps(bad))
    (folder / "twins.jsonl").write_text(lines[0] * 2)


def session(folder: Path, evil: str, labels: bool = False) -> str:
    """Everything that commands say about such data."""
    make(folder, evil)
    (bad,) = folder.glob("bad*.jsonl")
    commands = [
        (0, ["edit", "rows.jsonl", "--editor", "recorded", "--out", f"e{evil.replace('/', '|')[:40]}"]),
        (3, ["edit", "pairs.jsonl", "--editor", "rules", "--out", "p"]),
        (0, ["show", f"e{evil.replace('/', '|')[:40]}"]),
        (0, ["show", "p"]),
        (0, ["show", "."]),
        (5, ["edit", bad.name, "--editor", "recorded", "--out", "x"]),
        (5, ["edit", "twins.jsonl", "--editor", "recorded", "--out", "x"]),
        (5, ["show", "p", "--id", evil or "none"]),
        (5, ["edit", f"none{evil}.jsonl", "--out", "x"]),
        (2, ["edit", "rows.jsonl", "--editor", f"no{evil}", "--out", "x"]),
    ]
    if labels:
        commands = [
            (0, ["diff", "rows.jsonl", "--tokenizer", "tiny", "--vocab", "300", "--out", "l"]),
            (0, ["show", "l"]),
        ]
    sent = ""
    for code, args in commands:
        got, said = on_a_terminal(folder, *args)
        assert got == code, said
        sent += said
    return sent


@pytest.mark.slow
@pytest.mark.parametrize("labels", [False, True])
def test_hostile_data_is_inert(tmp_path: Path, labels: bool) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "tame").mkdir()
    evil, tame = session(tmp_path / "evil", EVIL, labels), session(tmp_path / "tame", "tame", labels)
    assert leaked(evil) == []
    assert set(SGR.findall(evil)) <= set(SGR.findall(tame)), "no colour comes from the data"
    assert "[red]x[/red]" in SGR.sub("", evil), "markup is shown as it is"
    assert "\\x1b]0;pwned\\x07" in SGR.sub("", evil).replace("\r\n", ""), "and the rest spelt out"


def test_the_scan_sees_what_it_is_looking_for() -> None:
    assert [name for name, attack in ATTACKS.items() if not leaked(attack)] == ["markup"]


def test_no_color_is_honoured(tmp_path: Path) -> None:
    make(tmp_path, "tame")
    assert on_a_terminal(tmp_path, "edit", "rows.jsonl", "--editor", "recorded", "--out", "e")[0] == 0
    code, coloured = on_a_terminal(tmp_path, "show", "e")
    assert code == 0
    assert SGR.search(coloured)
    code, plain = on_a_terminal(tmp_path, "show", "e", NO_COLOR="1")
    colours = re.compile(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])[;m]")
    assert code == 0
    assert not colours.search(plain)
