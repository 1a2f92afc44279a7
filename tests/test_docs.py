"""What the docs tell a user to type works when it is typed, and what they point to is there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.forked import run, stand_in
from tokalign.config.commands import COMMANDS
from tokalign.config.options import option_name

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUICKSTART = ROOT / "docs" / "quickstart.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = [path for path in DOCS if any(kind == "sh" for kind, _ in BLOCK.findall(path.read_text(encoding="utf-8")))]


def typed(path: Path, folder: Path, programs: Path) -> None:
    """Run all shell blocks of a page in a folder."""
    script = "\n".join(body for kind, body in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == "sh")
    paths = os.pathsep.join(map(str, [stand_in(programs), Path(sys.executable).parent, os.environ["PATH"]]))
    env = {k: v for k, v in os.environ.items() if not k.startswith("TOKALIGN_")} | {"PATH": paths}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the quickstart leaves behind."""
    folder = tmp_path_factory.mktemp("quickstart")
    typed(QUICKSTART, folder, tmp_path_factory.mktemp("bin"))
    return folder


@pytest.mark.slow
def test_the_quickstart_works_from_top_to_bottom(quickstart: Path) -> None:
    assert (quickstart / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RUN if path != QUICKSTART], ids=lambda path: path.stem)
def test_what_is_to_be_typed_works_from_top_to_bottom(
    path: Path, quickstart: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path
    if "In the folder of the [quickstart]" in path.read_text(encoding="utf-8"):
        folder = Path(shutil.copytree(quickstart, tmp_path / "quickstart"))
    typed(path, folder, tmp_path_factory.mktemp("bin"))


@pytest.mark.slow
def test_what_a_command_says_to_run_next_works_when_it_is_pasted(tmp_path: Path) -> None:
    """From a world on, every line that is printed, with names of ours in place of those in capitals."""
    ours = {"MODEL": "policy", "POLICY": "policy", "PROMPTS": "'my world/prompts'", "TEST": "'my world/test'"}
    small = {"STEPS": "2", "BATCH_SIZE": "4", "MAX_NEW_TOKENS": "8", "VOCAB": "500"}
    small |= {f"TRAIN_RM_{name}": value for name, value in (("STEPS", "40"), ("LR", "3e-3"), ("HELDOUT", "0.3"))}
    env = {f"TOKALIGN_{name}": value for name, value in small.items()}
    waiting = [
        "tokalign playground --out 'my world' --preferences 120 --sft 60 --prompts 12 --heldout 4 --test 4",
        "tokalign train-sft 'my world/sft' --model tiny --out policy",
    ]
    done: list[str] = []
    while waiting:
        line = waiting.pop(0)
        if "--reward-model RM" in line and not (tmp_path / "rm").exists():
            waiting.append(line)  # it comes before what it needs
            continue
        words = shlex.split(re.sub(r"\b[A-Z]+\b", lambda m: ours.get(m[0], m[0].lower()), line))
        ran = run(tmp_path, *words[1:], **env)
        assert ran.returncode == 0, f"{line}\n{ran.stderr}"
        done.append(line)
        waiting += re.findall(r"^  next: (.*)$", ran.stderr, re.MULTILINE)
    assert len(done) < 30
    assert {line.split()[1] for line in done} == set(COMMANDS) - {"eval-rm", "export", "merge", "report", "verify"}


def test_there_is_something_to_type() -> None:
    assert {path.stem for path in RUN} >= {"quickstart", "own-preferences", "filtering", "tokenizers", "trl"}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_every_command_and_option_that_is_shown_exists(path: Path) -> None:
    from dataclasses import fields

    text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
    lines = [line for _, body in BLOCK.findall(text) for line in body.splitlines()]
    lines = [line for line in lines if not line.startswith(("import ", "from "))]
    for line in lines + re.findall(r"`(tokalign [^`]*)`", text):
        for name, rest in re.findall(r"\btokalign\)? ([a-z][\w-]*)((?: [^|;&]*)?)", line.split("#")[0]):
            assert name in COMMANDS or name.isupper(), line
            if name not in COMMANDS:
                continue
            known = {option_name(f) for f in fields(COMMANDS[name].load_options())} | {"--help", "--config"}
            known |= {f"--no-{option.removeprefix('--')}" for option in known}
            for option in re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)", rest):
                assert option in known, f"{option} in: {line}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_lines_can_be_reviewed(path: Path) -> None:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    long = [number for number, line in lines if len(line) > 120 and not line.startswith("|")]
    assert not long, "at most 120 characters outside tables"
