"""What is shown is what lies there, in marks that need no colour, and nothing in it can steer the terminal."""

import json
import re
import unicodedata
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import forked
from tests.conftest import ROOT
from tests.manifests import vouch
from tests.test_terminal import on_a_terminal
from tokalign.artifacts import token_labels as label_tables
from tokalign.artifacts.manifest import Manifest
from tokalign.config.stages import ShowConfig
from tokalign.errors import InputError, UsageError
from tokalign.report import show
from tokalign.report.rows import heat, marked
from tokalign.report.show import _sorted
from tokalign.report.summary import bars
from tokalign.report.text import safe

DATA = ROOT / "data"
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
HOSTILE = "[bold]\x1b[31m[/x]\x1b]0;title\x07\u202e\x9b2J\r\ud800:smile:"
NAME = HOSTILE.replace("\ud800", "")  # what an artifact may hold: no half characters
SPELT = r"[bold]\x1b[31m[/x]\x1b]0;title\x07\u202e\x9b2J\r\ud800:smile:"
SPELT_NAME = SPELT.replace(r"\ud800", "")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9[0-7]|10[0-7])[;m]")


def is_harmless(c: str) -> bool:
    return c in "\n\t\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call ``show`` as if piped, or with these environment variables; what it printed."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def call(artifact: Path, env: dict[str, str] | None = None, **options: Any) -> str:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        show.run(ShowConfig(artifact=artifact, **options))
        return capsys.readouterr().out

    return call


def artifact(folder: Path, kind: str, *rows: dict[str, Any], **stats: Any) -> Path:
    """An artifact as somebody else might send it: whole, but with what they like in it."""
    folder.mkdir(parents=True)
    (folder / "data.jsonl").write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())
    return vouch(folder, kind, rows={"out": len(rows)}, **({"stats": stats} if stats else {}))


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
    assert marked(text, offsets, [0, -1, -1, -1, 0, 1, 0, -1]).plain == "The [-old 漢-] cat {+sat+}.[-end-]"
    assert marked(text, offsets, [0.49, -0.49, 0, 0, -0.5, 0.5, 0, 0]).plain == "The old 漢 [-cat-] {+sat+}."
    assert marked("", [[0, 0]], [-1]).plain == "[-end-]", "EOS stands on nothing"
    assert marked("ab", [[0, 1], [1, 1], [1, 2]], [0, -1, 0]).plain == "ab", "neither does an empty token"


def test_what_is_marked_is_spelt_out_too() -> None:
    text = "a\x1b[1mb\u202ec"
    assert marked(text, [[0, 3], [3, 7], [7, 7]], [-1, 1, 0]).plain == r"[-a\x1b[-]{+1mb\u202e+}c"


@given(st.lists(st.tuples(st.text("ab c", min_size=1, max_size=4), st.sampled_from([-1.0, -0.6, 0.0, 0.2, 0.9]))))
def test_without_its_marks_the_text_is_the_text(tokens: list[tuple[str, float]]) -> None:
    ends = [0, *accumulate(len(piece) for piece, _ in tokens)]
    text = "".join(piece for piece, _ in tokens)
    plain = marked(text, [list(pair) for pair in pairwise(ends)], [value for _, value in tokens]).plain
    assert re.sub(r"\[-|-\]|\{\+|\+\}", "", plain) == text
    assert ("[-" in plain) == any(value <= -0.5 for _, value in tokens)
    assert ("{+" in plain) == any(value >= 0.5 for _, value in tokens)


def test_the_ground_is_the_deeper_the_larger_the_reward() -> None:
    text, offsets = "The old cat sat.", [[0, 3], [3, 7], [7, 11], [11, 15], [15, 16], [16, 16]]
    made = heat(text, offsets, [0.05, -1.0, -0.3, 0.6, 0.0, 0.2])
    assert made.plain == "The [-old-] cat {+sat+}."
    grounds = {made.plain[s.start : s.end]: str(s.style) for s in made.spans if "on" in str(s.style).split()}
    assert list(grounds) == ["old", "cat", "sat"]
    colours = [[int(style[-6:][k : k + 2], 16) for k in (0, 2, 4)] for style in grounds.values()]
    assert sum(colours[0]) < sum(colours[1]), "deeper"
    assert colours[0][0] > colours[0][2], "orange"
    assert colours[2][2] > colours[2][0], "blue"


def test_the_ground_lies_on_the_token_and_not_on_a_mark_that_looks_like_it() -> None:
    text, offsets = "x - y [ z {", [[0, 1], [1, 3], [3, 5], [5, 7], [7, 9], [9, 11]]
    made = heat(text, offsets, [-1.0, 0.3, 0.0, 0.3, 0.0, 0.3])
    grounds = [(s.start, made.plain[s.start : s.end]) for s in made.spans if "on" in str(s.style).split()]
    assert made.plain == "[-x-] - y [ z {"
    assert grounds == [(2, "x"), (6, "-"), (10, "["), (14, "{")]


def test_what_has_no_number_is_sorted_last(tmp_path: Path) -> None:
    rows: list[Any] = [(row, dict) for row in ({"id": "a", "n": None}, {"id": "b", "n": 2}, {"id": "c", "n": 1})]
    for by, expected in (("n", "cba"), ("-n", "bca")):
        assert "".join(row["id"] for row, _ in _sorted(rows, tmp_path, by, 9)) == expected


TOKEN_MODEL = {
    "level": "token",
    "flips": {"accuracy": 0.9, "edits": 9, "by_category": {"fact": {"accuracy": 0.8, "edits": 5}}},
    "edited_over_original": {"mean": 0.98, "pairs": 9},
    "chosen_over_rejected": {"mean": 0.91, "pairs": 9},
    "classes": {z: {"precision": 0.11, "recall": 0.22, "f1": 0.33} for z in ("bad", "neutral", "good")},
    "auroc": {z: {"value": 0.44} for z in ("bad", "good")},
    "calibration": {"ece": 0.055, "bins": [{"confidence": 0.95, "accuracy": 0.66, "n": 77}]},
    "recall": {"fact": {"bad": {"recall": 0.88}, "good": {"recall": None}}},
    "length": {"mean": -0.12, "sum": 0.5},
}


def test_a_token_model_is_shown_with_its_classes_kinds_and_reliability(shown: Any, tmp_path: Path) -> None:
    text = shown(artifact(tmp_path / "rm", "reward-model", **TOKEN_MODEL))
    for said in ("0.110   0.220    0.330     0.440", "0.055", "-0.12", "0.880 / –", "0.66 (77)", "0.980", "0.910"):
        assert said in text
    assert "precision" not in shown(artifact(tmp_path / "sequence", "reward-model", **MODEL)), (
        "it has no tokens to tell"
    )


WORD = [f"w{k}" for k in range(60)]


def folded(*changed: int, context: int | None = 3) -> str:
    offsets = [(m.start(), m.end()) for m in re.finditer(r" ?\S+", " ".join(WORD))]
    return marked(" ".join(WORD), offsets, [-float(k in changed) for k in range(60)], context).plain


def test_what_is_far_from_every_edit_is_folded_away() -> None:
    assert folded(20) == "[… 17 words …] w17 w18 w19 [-w20-] w21 w22 w23 [… 36 words …]"
    assert folded(0, 59) == "[-w0-] w1 w2 w3 [… 52 words …] w56 w57 w58 [-w59-]"
    assert folded(20, 32) == folded(20)[: -len("[… 36 words …]")] + " ".join(WORD[24:32]) + (
        " [-w32-] w33 w34 w35 [… 24 words …]"
    ), "eleven words between are not worth it"
    assert folded(20, 33).count("[… 6 words …]") == 1
    assert folded() == "w0 w1 w2 [… 57 words …]"
    assert folded(20, context=None).replace("[-", "").replace("-]", "") == " ".join(WORD)


@given(st.lists(st.sampled_from(["a", " b", "漢", "字 ", "\n"]), max_size=60), st.integers(1, 5), st.data())
def test_a_folded_text_is_the_text_without_what_it_says_is_missing(
    pieces: list[str], context: int, data: st.DataObject
) -> None:
    text, ends = "".join(pieces), [0, *accumulate(map(len, pieces))]
    values = [data.draw(st.sampled_from([0.0, 0.0, 0.0, 0.0, -1.0, 1.0])) for _ in pieces]
    plain = re.sub(r"\[-|-\]|\{\+|\+\}", "", marked(text, list(pairwise(ends)), values, context).plain)
    kept = re.split(r" \[… \d+ words …\]", plain)
    at = 0
    for part in kept:
        at = text.index(part, at) + len(part)
    assert text.endswith(kept[-1])
    assert text.startswith(kept[0])


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


def test_prompts_are_shown_by_how_far_candidates_lie_apart(shown: Any) -> None:
    text = shown(DATA / "winrates")
    first = json.loads((DATA / "responses-good" / "data.jsonl").read_text().splitlines()[0])
    rows = [json.loads(line) for line in (DATA / "winrates" / "judgements" / "data.jsonl").read_text().splitlines()]
    assert text.count("\n── ") == 5
    of_first = next(r for r in rows if r["id"] == first["id"])
    one = shown(DATA / "winrates", id=first["id"], full=True)
    assert " ".join(first["response"].split()) in " ".join(one.split())
    assert f'"good": {of_first["preference"]}' in one


def test_win_rates_are_shown_as_a_table(shown: Any) -> None:
    counted = json.loads((DATA / "winrates" / "data.json").read_text())["candidates"]["good"]
    (line,) = re.findall(r"^ +good +\d+\.\d +\d+\.\d +.*$", shown(DATA / "winrates"), re.MULTILINE)
    cells = [f"{counted['win_rate']:.1f}", *(str(counted[key]) for key in ("n_wins", "n_ties", "n_losses"))]
    assert [cell for i, cell in enumerate(line.split()[1:]) if i in (0, 6, 7, 8)] == cells


def test_a_folder_of_artifacts_is_shown_as_a_list_of_them(shown: Any) -> None:
    listed = dict(re.findall(r"^ +(\S+) +(\S+/1) +\d+ +\d+\.\d *$", shown(DATA), re.MULTILINE))
    kinds = {p.parent: json.loads(p.read_text())["kind"] for p in DATA.rglob("manifest.json")}
    assert listed == {p.relative_to(DATA).as_posix(): f"{kind}/1" for p, kind in kinds.items()}


def test_limit_says_how_many_rows(shown: Any) -> None:
    assert [shown(DATA / "prompts", **options).count("── ") for options in ({}, {"limit": 2}, {"limit": 999})] == [
        5,
        2,
        200,
    ]


def ids(text: str) -> list[str]:
    return re.findall(r"^── (\S+)$", text, re.MULTILINE)


def labelled() -> list[dict[str, Any]]:
    with pa.ipc.open_stream((DATA / "labels" / "data.arrow").read_bytes()) as stream:
        found: list[dict[str, Any]] = stream.read_all().to_pylist()
    return found


def test_rows_are_chosen_by_a_text_in_them(shown: Any) -> None:
    expected = [
        r["id"] for r in labelled() if re.search("[Oo]ven", " ".join((str(r["prompt"]), r["original"], r["edited"])))
    ]
    assert 5 < len(expected) < 200
    assert ids(shown(DATA / "labels", grep="[Oo]ven", limit=200)) == expected
    assert ids(shown(DATA / "prompts", grep="oven", limit=1))
    assert ids(shown(DATA / "edits", grep="^safety$", limit=1)), "lists of texts are looked into"


def test_a_text_that_is_nowhere_and_a_pattern_that_is_none_are_errors(shown: Any) -> None:
    with pytest.raises(InputError, match="no row matches 'zebra'"):
        shown(DATA / "labels", grep="zebra")
    with pytest.raises(UsageError, match="not a regular expression"):
        shown(DATA / "labels", grep="(")


@pytest.mark.parametrize("folder", ["labels", "edits"])
def test_rows_come_in_the_order_of_a_column(shown: Any, folder: str) -> None:
    kept = {r["id"]: r["similarity"] for r in labelled()}
    up, down = (ids(shown(DATA / folder, sort=by, limit=200)) for by in ("similarity", "-similarity"))
    assert sorted(up) == sorted(down) == sorted(kept)
    assert [kept[name] for name in up] == sorted(kept.values())
    assert [kept[name] for name in down] == sorted(kept.values(), reverse=True)
    assert ids(shown(DATA / folder, sort="similarity", limit=3, skip=4)) == up[4:7]


def test_a_column_that_is_no_number_is_an_error_that_names_those_that_are(shown: Any) -> None:
    with pytest.raises(InputError, match="not a numeric column: 'editor'") as caught:
        shown(DATA / "edits", sort="editor")
    assert caught.value.remedy == "numeric columns: similarity, attempts"
    with pytest.raises(InputError) as caught:
        shown(DATA / "prompts", sort="similarity")
    assert caught.value.remedy == "rows of this kind cannot be sorted"


def test_what_follows_is_said(shown: Any) -> None:
    text = shown(DATA / "prompts", skip=190, limit=5)
    assert len(ids(text)) == 5
    assert text.endswith("more rows: --skip 195\n")
    assert "more rows" not in shown(DATA / "prompts", skip=195, limit=5)


def test_only_the_rows_shown_are_loaded_whole(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    whole = label_tables._load

    def load(batch: Any, k: int) -> Any:
        loaded.append(k)
        return whole(batch, k)

    monkeypatch.setattr(label_tables, "_load", load)
    shown(DATA / "labels", sort="similarity", grep=".", limit=2)
    assert len(loaded) == 2


@pytest.mark.parametrize(
    ("counts", "drawn"),
    [([0, 1, 2, 4, 8, 800], " ▁▁▁▁█"), ([1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇█"), ([0, 0], "  "), ([], "")],
)
def test_bars(counts: list[int], drawn: str) -> None:
    assert bars(counts) == drawn


@pytest.mark.parametrize("pager", ["cat > paged", "head -n 1 > paged"])
def test_a_terminal_gets_pages(tmp_path: Path, pager: str) -> None:
    """``head`` leaves when it has seen enough."""
    code, sent = on_a_terminal(tmp_path, "show", str(DATA / "prompts"), "--limit", "200", PAGER=pager)
    paged = (tmp_path / "paged").read_text()
    assert (code, sent) == (0, "")
    assert paged.startswith("prompts/1  200 rows")
    assert len(ids(re.sub(r"\x1b\[[\d;]*m", "", paged))) == (200 if pager.startswith("cat") else 0)


@pytest.mark.parametrize(("flags", "pager"), [(["--no-pager"], "cat > paged"), ([], ""), ([], "no-such-pager")])
def test_a_terminal_can_do_without(tmp_path: Path, flags: list[str], pager: str) -> None:
    code, sent = on_a_terminal(tmp_path, "show", str(DATA / "prompts"), *flags, PAGER=pager)
    assert code == 0
    assert "prompts/1  200 rows" in sent
    assert not (tmp_path / "paged").exists()


def test_json_prints_the_manifest_as_one_object(shown: Any) -> None:
    text = shown(DATA / "labels", json=True)
    assert text.count("\n") == 1
    assert json.loads(text) == asdict(Manifest.read(DATA / "labels"))


def test_json_of_a_folder_of_artifacts_is_one_object_too(shown: Any) -> None:
    assert json.loads(shown(DATA, json=True))["edits"]["kind"] == "edits"


@pytest.mark.parametrize("folder", ["edits", "labels", "winrates"])
def test_an_unknown_id_is_an_error(shown: Any, folder: str) -> None:
    with pytest.raises(InputError, match="'nobody'"):
        shown(DATA / folder, id="nobody")


def test_an_unknown_id_ends_with_the_code_of_bad_input() -> None:
    done = forked.run(ROOT, "show", "data/edits", "--id", "nobody")
    assert done.returncode == 5
    assert "nobody" in done.stderr


def test_data_is_printed_to_the_letter_or_spelt_out(shown: Any, tmp_path: Path) -> None:
    turns = [{"role": NAME, "content": NAME}, {"role": "user", "content": "hi"}]
    row = {"id": NAME, "prompt": turns, "original": NAME, "edited": NAME, "categories": [NAME]}
    others: list[dict[str, Any]] = [
        {"id": "b", "prompt": [{"role": "user", "content": NAME}], "original": "x", "edited": "y"},
        {"id": "c", "prompt": NAME, "original": "x", "edited": "y"},
    ]
    stats = {"status": {NAME: 1}, "categories": {NAME: 1}, "reasons": {NAME: 1}, "similarity_mean": 1.0}
    text = shown(artifact(tmp_path / "a", "edits", row, *others, **stats))
    assert all(map(is_harmless, text))
    assert squeezed(text).count(SPELT_NAME) == 10, "three in the headline, an id, two of a talk, two sides, two prompts"


FLIPS = {"accuracy": 1.0, "edits": 1, "by_category": {NAME: {"accuracy": 1.0, "edits": 1}}}
PAIRS = {"mean": 1.0, "pairs": 1}
MODEL = {"level": "sequence", "flips": FLIPS, "edited_over_original": PAIRS, "chosen_over_rejected": PAIRS}


def test_a_columns_name_cannot_steer_the_terminal(shown: Any, tmp_path: Path) -> None:
    assert all(map(is_harmless, shown(artifact(tmp_path / "a", "prompts", {"id": "a", "prompt": "b", NAME: "c"}))))


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
