"""The README shows what was measured, and the picture what the command prints."""

import re
import runpy
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tokalign import config, knobs
from tokalign.knobs import is_required

README = (ROOT / "README.md").read_text(encoding="utf-8")
MADE = runpy.run_path(str(ROOT / "bench" / "readme.py"))


@pytest.mark.parametrize("path", MADE["TABLES"], ids=lambda path: path.name)
def test_the_tables_are_those_of_the_result_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert MADE["render"](path, text) == text, "python bench/readme.py writes it anew"


def test_the_reference_of_commands_is_that_of_the_code() -> None:
    committed = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert MADE["cli"]() == committed, "python bench/readme.py writes it anew"


def test_a_table_without_a_place_is_not_lost_in_silence() -> None:
    with pytest.raises(SystemExit, match="no place for 'headline'"):
        MADE["render"](MADE["README"], README.replace("<!-- /headline -->", ""))


def test_the_mean_difference_is_the_mean_of_the_rows() -> None:
    rows = re.findall(r"^\| \d+ \| ([\d.]+) ± [\d.]+ \| ([\d.]+) ± [\d.]+ \| ([+-][\d.]+) \|", README, re.MULTILINE)
    shown = [float(difference) for *_, difference in rows]
    assert len(rows) >= 3
    assert [float(t) - float(s) for s, t, _ in rows] == pytest.approx(shown, abs=0.11)
    mean = re.search(r"^\| mean \|.*?\*\*([+-][\d.]+)\*\*", README, re.MULTILINE)
    assert mean is not None
    assert float(mean[1]) == pytest.approx(sum(shown) / len(shown), abs=0.1)


def test_the_edits_shown_are_the_examples_of_the_prompt() -> None:
    prompt = " ".join((ROOT / "src" / "tokalign" / "editors" / "prompts" / "edit-1.md").read_text().split())
    for _, before, after in MADE["SHOWN"]:
        assert before in prompt
        assert after in prompt
    assert MADE["marked"]("a b c d e f g", "a x c d e f g h") == "a ~~b~~ **x** c d e f g **h**"


@pytest.mark.slow
def test_the_picture_is_what_the_command_prints() -> None:
    committed = (ROOT / "docs" / "labels.svg").read_text(encoding="utf-8")
    assert words(MADE["picture"]()) == words(committed), "python bench/readme.py draws it anew"
    assert not re.search(r"url\(.?http", committed), "it fetches something"


def words(svg: str) -> list[str]:
    """The text of a picture: how it is drawn may change with the version of rich."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_knob_of_ppo_is_explained_with_its_default() -> None:
    rows = re.findall(
        r"^\| (`--.*?`) \| (.*?) \|", (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    told: dict[str, str] = {}
    for names, defaults in rows:
        options = re.findall(r"--([\w-]+)", names)
        values = defaults.replace("`", "").split(", ") if len(options) > 1 else [defaults.replace("`", "")]
        told |= dict(zip(options, values * len(options) if len(values) == 1 else values, strict=False))
    common = {f.name for base in (knobs.Foreign, knobs.Stage, knobs.Compute) for f in fields(base)}
    for f in fields(config.TrainPpoConfig):
        name = f.name.replace("_", "-")
        if f.name in common or is_required(f) or f.name == "report_to":
            continue
        assert name in told, f"--{name} is not in docs/ppo.md"
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if isinstance(default, bool):
            assert told[name].startswith("on" if default else "off"), name
        elif isinstance(default, int | float):
            assert float(re.split(r"[ ,:]", told[name])[0]) == default, name
        elif default:
            assert told[name] == default, name
