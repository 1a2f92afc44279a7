"""What is shown is what lies there, in marks that need no colour, and nothing in it can steer the terminal."""

import hashlib
import json
import re
import subprocess
import sys
import unicodedata
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tokalign.config import ShowConfig
from tokalign.errors import InputError
from tokalign.report import show
from tokalign.report.text import safe

DATA = ROOT / "data"
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
HOSTILE = "[bold]\x1b[31m[/x]\x1b]0;title\x07\u202e\x9b2J\r\ud800:smile:"
SPELT = r"[bold]\x1b[31m[/x]\x1b]0;title\x07\u202e\x9b2J\r\ud800:smile:"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9[0-7]|10[0-7])[;m]")


def is_harmless(c: str) -> bool:
    return c in "\n\t\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call ``show`` as if piped, or with these environment variables; what it printed."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def call(artifact: Path, env: dict[str, str] | None = None, **knobs: Any) -> str:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        show.run(ShowConfig(artifact=artifact, **knobs))
        return capsys.readouterr().out

    return call


def artifact(folder: Path, kind: str, *rows: dict[str, Any], **stats: Any) -> Path:
    """An artifact as somebody else might send it: whole, but with what they like in it."""
    folder.mkdir(parents=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "data.jsonl").write_bytes(data)
    manifest = {
        "kind": kind, "version": 1, "tokalign": "0", "created": "", "command": [], "config": {}, "config_hash": "",
        "seed": 0, "inputs": [], "files": [{"name": "data.jsonl", "sha256": hashlib.sha256(data).hexdigest()}],
        "rows": {"out": len(rows)}, "stats": stats,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def squeezed(text: str) -> str:
    """Without the white space that wrapping puts in."""
    return "".join(text.split())


@given(ANY_TEXT)
def test_safe_text_holds_nothing_that_steers_and_stays_as_it_is(text: str) -> None:
    made = safe(text)
    assert all(is_harmless(c) for c in made)
    assert made.encode().decode() == safe(made) == made


@given(ANY_TEXT)
def test_harmless_characters_are_kept_one_by_one(text: str) -> None:
    harmless = "".join(c for c in text if is_harmless(c))
    assert safe(harmless) == harmless
    assert safe(text).startswith(text[: next((i for i, c in enumerate(text) if not is_harmless(c)), None)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("👩\u200d👩\u200d👧 می\u200cخواهم", "👩\u200d👩\u200d👧 می\u200cخواهم"),
        ("e\u0301 漢字 [red]", "e\u0301 漢字 [red]"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\rb\x08\x7f\0", r"a\rb\x08\x7f\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202eevil\u2066\u200f", r"\u202eevil\u2066\u200f"),
        ("\ud800", r"\ud800"),
        ("\ufeffa\u00adb\U000e0041", r"\ufeffa\xadb\U000e0041"),
        (HOSTILE, SPELT),
    ],
)
def test_what_would_steer_the_terminal_is_spelt_out(text: str, expected: str) -> None:
    assert safe(text) == expected


def test_runs_of_bad_and_good_tokens_are_marked_and_the_white_space_before_them_is_not() -> None:
    text = "The old 漢 cat sat."
    offsets = [[0, 3], [3, 7], [7, 9], [8, 9], [9, 13], [13, 17], [17, 18], [18, 18]]  # 漢 is two byte-level tokens
    assert show.marked(text, offsets, [0, -1, -1, -1, 0, 1, 0, -1]).plain == "The [-old 漢-] cat {+sat+}."
    assert show.marked(text, offsets, [0.49, -0.49, 0, 0, -0.5, 0.5, 0, 0]).plain == "The old 漢 [-cat-] {+sat+}."
    assert show.marked("", [[0, 0]], [-1]).plain == ""


def test_what_is_marked_is_spelt_out_too() -> None:
    text = "a\x1b[1mb\u202ec"
    assert show.marked(text, [[0, 3], [3, 7], [7, 7]], [-1, 1, 0]).plain == r"[-a\x1b[-]{+1mb\u202e+}c"


@given(st.lists(st.tuples(st.text("ab c", min_size=1, max_size=4), st.sampled_from([-1.0, -0.6, 0.0, 0.2, 0.9]))))
def test_without_its_marks_the_text_is_the_text(tokens: list[tuple[str, float]]) -> None:
    ends = [0, *accumulate(len(piece) for piece, _ in tokens)]
    text = "".join(piece for piece, _ in tokens)
    plain = show.marked(text, [list(pair) for pair in pairwise(ends)], [value for _, value in tokens]).plain
    assert re.sub(r"\[-|-\]|\{\+|\+\}", "", plain) == text
    assert ("[-" in plain) == any(value <= -0.5 for _, value in tokens)
    assert ("{+" in plain) == any(value >= 0.5 for _, value in tokens)


@pytest.mark.parametrize("folder", [p for p in sorted(DATA.iterdir()) if (p / "data.jsonl").is_file()], ids=str)
def test_every_text_of_a_row_is_shown(shown: Any, folder: Path) -> None:
    row = json.loads((folder / "data.jsonl").read_text().splitlines()[2])
    text = shown(folder, id=row["id"])
    assert "\x1b" not in text
    assert text.count("── ") == 1
    assert f"── {row['id']}\n" in text
    assert all(squeezed(value) in squeezed(text) for value in row.values() if isinstance(value, str))


def test_labels_are_shown_as_removed_and_added_text(shown: Any) -> None:
    with pa.ipc.open_stream((DATA / "labels" / "data.arrow").read_bytes()) as stream:
        rows = stream.read_all().to_pylist()[:20]
    texts = shown(DATA / "labels", limit=20).split("── ")[1:]
    for row, text in zip(rows, texts, strict=True):
        for side, label, mark in (("original", -1, r"\[-(.*?)-\]"), ("edited", 1, r"\{\+(.*?)\+\}")):
            tokens = zip(row[f"{side}_offsets"], row[f"{side}_labels"], strict=True)
            changed = "".join(row[side][start:end] for (start, end), z in tokens if z == label)
            assert squeezed("".join(re.findall(mark, text, re.DOTALL))) == squeezed(changed)


def test_win_rates_are_shown_as_a_table(shown: Any) -> None:
    counted = json.loads((DATA / "winrates" / "data.json").read_text())["candidates"]["good"]
    (line,) = re.findall(r"^ +good +\d+\.\d +\d+\.\d +.*$", shown(DATA / "winrates"), re.MULTILINE)
    cells = [f"{counted['win_rate']:.1f}", *(str(counted[key]) for key in ("n_wins", "n_ties", "n_losses"))]
    assert [cell for i, cell in enumerate(line.split()[1:]) if i in (0, 2, 3, 4)] == cells


def test_a_folder_of_artifacts_is_shown_as_a_list_of_them(shown: Any) -> None:
    listed = dict(re.findall(r"^ +(\S+) +(\S+/1) +\d+ +\d+\.\d *$", shown(DATA), re.MULTILINE))
    kinds = {p.parent: json.loads(p.read_text())["kind"] for p in DATA.rglob("manifest.json")}
    assert listed == {p.relative_to(DATA).as_posix(): f"{kind}/1" for p, kind in kinds.items()}


def test_limit_says_how_many_rows(shown: Any) -> None:
    assert [shown(DATA / "prompts", **knobs).count("── ") for knobs in ({}, {"limit": 2}, {"limit": 999})] == [
        5,
        2,
        200,
    ]


def test_json_prints_the_manifest_as_one_object(shown: Any) -> None:
    text = shown(DATA / "labels", json=True)
    assert text.count("\n") == 1
    assert json.loads(text) == json.loads((DATA / "labels" / "manifest.json").read_text())


def test_json_of_a_folder_of_artifacts_is_one_object_too(shown: Any) -> None:
    assert json.loads(shown(DATA, json=True))["edits"]["kind"] == "edits"


@pytest.mark.parametrize("folder", ["edits", "labels", "winrates"])
def test_an_unknown_id_is_an_error(shown: Any, folder: str) -> None:
    with pytest.raises(InputError, match="'nobody'"):
        shown(DATA / folder, id="nobody")


def test_an_unknown_id_ends_with_the_code_of_bad_input() -> None:
    line = [str(Path(sys.executable).parent / "tokalign"), "show", "data/edits", "--id", "nobody"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "nobody" in done.stderr


def test_data_is_printed_to_the_letter_or_spelt_out(shown: Any, tmp_path: Path) -> None:
    turns = [{"role": HOSTILE, "content": HOSTILE}, {"role": "user", "content": "hi"}]
    row = {"id": HOSTILE, "prompt": turns, "original": HOSTILE, "edited": HOSTILE, "categories": [HOSTILE]}
    others: list[dict[str, Any]] = [
        {"id": "b", "prompt": [{"role": "user", "content": HOSTILE}]},
        {"id": "c", "prompt": HOSTILE},
    ]
    stats = {"status": {HOSTILE: 1}, "categories": {HOSTILE: 1}, "reasons": {HOSTILE: 1}, "similarity_mean": 1.0}
    text = shown(artifact(tmp_path / "a", "edits", row, *others, **stats))
    assert all(map(is_harmless, text))
    assert squeezed(text).count(SPELT) == 10, "three in the headline, an id, two of a talk, two sides, two prompts"


FLIPS = {"accuracy": 1.0, "edits": 1, "by_category": {HOSTILE: {"accuracy": 1.0, "edits": 1}}}
PAIRS = {"mean": 1.0, "pairs": 1}
MODEL = {"flips": FLIPS, "edited_over_original": PAIRS, "chosen_over_rejected": PAIRS}


def test_a_columns_name_cannot_steer_the_terminal(shown: Any, tmp_path: Path) -> None:
    assert all(map(is_harmless, shown(artifact(tmp_path / "a", "prompts", {"id": "a", "prompt": "b", HOSTILE: "c"}))))


def test_a_flaws_name_cannot_steer_the_terminal(shown: Any, tmp_path: Path) -> None:
    assert all(map(is_harmless, shown(artifact(tmp_path / "a", "reward-model", **MODEL))))


def test_a_folders_name_cannot_steer_the_terminal(shown: Any, tmp_path: Path) -> None:
    inside = artifact(tmp_path / "a\x1b[31m\u202e" / "b", "prompts", {"id": "a", "prompt": "b"})
    assert all(map(is_harmless, shown(inside.parent)))


TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "100"}


def test_on_a_terminal_bad_and_good_differ_in_colour_and_are_marked_still(shown: Any) -> None:
    piped = shown(DATA / "labels", limit=1)
    text = shown(DATA / "labels", TERMINAL, limit=1)
    bad, good = (re.findall(rf"(\x1b\[[\d;]*m){re.escape(mark)}", text)[0] for mark in ("[-", "{+"))
    assert bad != good
    assert COLOUR.match(bad)
    assert COLOUR.match(good)
    assert re.sub(r"\x1b\[[\d;]*m", "", text).split() == piped.split()


def test_no_color_means_no_colour_and_the_marks_stay(shown: Any) -> None:
    plain = shown(DATA / "labels", {**TERMINAL, "NO_COLOR": "1"}, limit=1)
    assert not COLOUR.search(plain)
    assert "[-" in plain
    assert "{+" in plain
