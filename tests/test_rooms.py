"""The house: what stands where, under which names. Which room may import which is checked by import-linter."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.forked import run
from tokalign.config.commands import COMMANDS
from tokalign.config.panels import OTHER, PANELS, panel

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "tokalign"
RETIRED = {"payer", "payers", "payday", "purse", "desk", "contest", "luck", "leash", "land", "knob", "knobs", "codec"}
RETIRED_CLASSES = {"Payer", "Purse", "Pace", "Desk", "Contest", "Asked", "Kept", "Way", "Knobs"}


def test_at_the_top_there_are_only_rooms_and_the_doors() -> None:
    files = {p.name for p in SRC.iterdir() if p.is_file()}
    assert files == {"__init__.py", "__init__.pyi", "__main__.py", "cli.py", "errors.py", "py.typed"}
    rooms = {p.name for p in SRC.iterdir() if p.is_dir() and p.name != "__pycache__"}
    told = set(re.findall(r"`(\w+)/`", (ROOT / "README.md").read_text(encoding="utf-8").partition("## Code layout")[2]))
    assert rooms <= told, "the README's map has a line for each"
    for room in rooms:
        assert ast.get_docstring(ast.parse((SRC / room / "__init__.py").read_text(encoding="utf-8"))), room


def test_words_that_only_this_project_used_are_no_names_any_more() -> None:
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {getattr(node, field, None) for field in ("id", "attr", "arg", "name")}
            found = {n for n in names if isinstance(n, str)} & (RETIRED | RETIRED_CLASSES)
            assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_under_a_heading(name: str) -> None:
    options = COMMANDS[name].load_options()
    told = {panel(options, f) for f in fields(options)}
    assert OTHER not in told
    assert told <= set(PANELS)


def test_help_has_headings_in_one_order(tmp_path: Path) -> None:
    shown = run(tmp_path, "train-ppo", "--help").stdout
    headings = re.findall(r"^([A-Z][\w ]+):$", shown, re.MULTILINE)
    assert headings == [name for name in PANELS if name in headings]
    assert {"Data", "Model", "Rewards", "Sampling", "Optimisation", "Evaluation", "Output and run"} <= set(headings)


@pytest.mark.parametrize(("typed", "meant"), [("edt", "edit"), ("train-pp", "train-ppo"), ("winrate", "eval-winrate")])
def test_a_command_with_a_typo_is_named(tmp_path: Path, typed: str, meant: str) -> None:
    done = run(tmp_path, typed, "x")
    assert done.returncode == 2
    assert f"no such command: {typed!r}" in done.stderr
    assert f"did you mean {meant!r}?" in done.stderr


def test_a_command_that_is_like_none_points_to_help(tmp_path: Path) -> None:
    assert "see tokalign --help" in run(tmp_path, "xyzzy").stderr
