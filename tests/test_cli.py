"""The real program: what help loads, where values come from, exit codes, what goes to which stream."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.conftest import ROOT
from tests.forked import PROGRAM
from tokalign.config.commands import COMMANDS

HEAVY = ("torch", "transformers", "datasets", "anthropic", "pyarrow", "numpy", "pydantic")
SMALL = ("playground", "--sft", "3", "--prompts", "3", "--heldout", "3", "--test", "3")


def run(cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TOKALIGN_")}
    return subprocess.run(
        [PROGRAM, *args], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False, timeout=120
    )


def write_jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help").stdout
    assert all(f"  {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_every_option(tmp_path: Path, command: str) -> None:
    shown = run(tmp_path, command, "--help", COLUMNS="200").stdout
    options = [f for f in fields(COMMANDS[command].load_options()) if not f.metadata["positional"]]
    assert all(f"--{f.name.replace('_', '-')}" in shown for f in options)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tokalign.cli import main; sys.argv = ['tokalign', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print('LOADED', sorted(m for m in {HEAVY!r} if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "playground" in done.stdout
    assert done.stdout.rstrip().endswith("LOADED []")


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[playground]\npreferences = 4\n")
    layers: list[tuple[tuple[str, ...], dict[str, str], int]] = [
        (("--config", "c.toml"), {}, 4),
        (("--config", "c.toml"), {"TOKALIGN_PREFERENCES": "5"}, 5),
        (("--config", "c.toml"), {"TOKALIGN_PREFERENCES": "5", "TOKALIGN_PLAYGROUND_PREFERENCES": "6"}, 6),
        (("--config", "c.toml", "--preferences", "7"), {"TOKALIGN_PLAYGROUND_PREFERENCES": "6"}, 7),
    ]
    for args, env, expected in layers:
        done = run(tmp_path, *SMALL, "--out", f"w{expected}", "--json", "--quiet", *args, **env)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        made = json.loads(done.stdout)["preferences"]
        assert (made["config"]["preferences"], made["rows"]["out"]) == (expected, expected)


@pytest.mark.parametrize(
    ("toml", "said"), [("[playground]\nprefs = 1\n", "prefs"), ("[play]\n", "[play]"), ("[playground\n", "c.toml")]
)
def test_a_wrong_settings_file_is_a_usage_error(tmp_path: Path, toml: str, said: str) -> None:
    (tmp_path / "c.toml").write_text(toml)
    done = run(tmp_path, *SMALL, "--out", "w", "--config", "c.toml")
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "w").exists()


def test_doing_it_again_does_nothing_and_another_thing_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, *SMALL, "--preferences", "3", "--out", "w").returncode == 0
    data = tmp_path / "w" / "preferences" / "data.jsonl"
    before = data.stat().st_mtime_ns
    assert run(tmp_path, *SMALL, "--preferences", "3", "--out", "w").returncode == 0
    assert data.stat().st_mtime_ns == before
    other = run(tmp_path, *SMALL, "--preferences", "2", "--out", "w")
    assert other.returncode == 2
    assert "--preferences 3 → 2" in other.stderr
    assert data.stat().st_mtime_ns == before
    assert run(tmp_path, *SMALL, "--preferences", "2", "--out", "w", "--fresh").returncode == 0
    assert len(data.read_text().splitlines()) == 2


def test_bad_input_is_told_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", {"prompt": "x", "chosen": "a", "rejected": "b"}, {"prompt": "x", "chosen": "a"})
    done = run(tmp_path, "edit", "p.jsonl", "--out", "edits")
    assert done.returncode == 5
    assert "p.jsonl:2: field 'rejected': missing" in done.stderr
    assert "→ a row needs" in done.stderr
    assert not (tmp_path / "edits").exists()


def test_data_cannot_steer_the_terminal(tmp_path: Path) -> None:
    row = {"id": "\x1b[31m\u202e[/red]", "prompt": "x", "original": "a", "edited": "b"}
    write_jsonl(tmp_path / "e.jsonl", row, row)
    done = run(tmp_path, "edit", "e.jsonl", "--editor", "recorded", "--out", "edits")
    assert done.returncode == 5
    assert "[/red]" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "e.jsonl", {"prompt": "x", "original": "a", "edited": "b"})
    (tmp_path / "edits").mkdir()
    with (tmp_path / "edits" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4242")
        lock.flush()
        done = run(tmp_path, "edit", "e.jsonl", "--editor", "recorded", "--out", "edits")
    assert done.returncode == 6
    assert "4242" in done.stderr
    assert run(tmp_path, "edit", "e.jsonl", "--editor", "recorded", "--out", "edits").returncode == 0


def test_the_manifest_alone_goes_to_stdout(tmp_path: Path) -> None:
    done = run(ROOT, "edit", "data/preferences", "--out", str(tmp_path / "edits"), "--json")
    assert json.loads(done.stdout)["kind"] == "edits"
    assert "next: tokalign" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_rules_on_texts_they_do_not_know_say_so(tmp_path: Path) -> None:
    pair = {"prompt": "Who are you?", "chosen": "A friend.", "rejected": "Nobody."}
    write_jsonl(tmp_path / "pairs.jsonl", {"id": "a", **pair})
    asked = run(tmp_path, "edit", "pairs.jsonl", "--out", "edits")
    assert asked.returncode == 2
    assert "--editor claude or --editor human" in asked.stderr
    named = run(tmp_path, "edit", "pairs.jsonl", "--editor", "rules", "--out", "edits")
    assert named.returncode == 3
    assert "the rules only work on the playground's texts" in named.stderr
    known = run(ROOT, "edit", "data/preferences", "--limit", "20", "--out", str(tmp_path / "known"))
    assert known.returncode == 0
    assert "warning" not in known.stderr


LISTEN = (
    "import os, signal, sys; [signal.signal(s, signal.SIG_DFL) for s in (2, 15)]; os.execv(sys.argv[1], sys.argv[1:])"
)
"""pytest may run where SIGINT is ignored, and its children with it."""


@pytest.mark.slow
def test_the_first_signal_finishes_the_step_and_the_run_goes_on_from_it(tmp_path: Path) -> None:
    shape = "--model tiny --vocab 500 --steps 20 --batch-size 8 --out p"
    train = ("train-sft", str(ROOT / "data" / "sft"), *shape.split())
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, PROGRAM, *train], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        while len(steps(tmp_path / "p" / "metrics.jsonl")) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGINT
    assert "finishing this step" in said
    assert said.strip().endswith("→ run the same command again to resume")
    (checkpoint,) = (tmp_path / "p" / "checkpoints").iterdir()
    done = int(checkpoint.name.removeprefix("checkpoint-"))
    assert not (tmp_path / "p" / "manifest.json").exists()
    again = forked.run(tmp_path, *train)
    assert f"resuming after step {done}" in again.stderr
    assert steps(tmp_path / "p" / "metrics.jsonl") == sorted(set(steps(tmp_path / "p" / "metrics.jsonl")))


def steps(log: Path) -> list[int]:
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


HOLD = """
import signal, time
from tokalign import cli
signal.signal(signal.SIGTERM, signal.SIG_DFL)
cli.app = lambda: print("up", flush=True) or time.sleep(60)  # a command that writes nothing
cli.main()
"""


def test_a_signal_while_nothing_is_written_ends_the_command() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert "tokalign: interrupted" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../up", "a/b", "reference", ""])
def test_a_candidate_is_named_by_a_word(tmp_path: Path, name: str) -> None:
    responses = str(ROOT / "data" / "responses-good")
    prompts = str(ROOT / "data" / "responses-good" / "data.jsonl")
    args = ("--prompts", prompts, "--reference", responses, "--candidate", f"{name}={responses}")
    done = run(tmp_path, "eval-winrate", *args, "--out", "w")
    assert done.returncode == 2
    assert "give NAME=PATH" in done.stderr
    assert not (tmp_path / "w").exists()
