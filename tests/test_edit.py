"""An edit passes the gates or says why not, and every token of what passed gets the label its words earned."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from tokalign.artifacts.manifest import Manifest
from tokalign.config.stages import DiffConfig, EditConfig
from tokalign.data import dataset
from tokalign.editors import gate
from tokalign.errors import InputError
from tokalign.stages import diff, edit

ASKED = "How do I light the stove?"
EXTRA = "I am never wrong about anything."
TERM = "Bats hunt by echolocation."
"""Five words; the rules add eight: ``, which means hearing the sound come back``."""


def write_jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_jsonl(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]


def preference(rejected: str, **columns: Any) -> dict[str, Any]:
    return {"prompt": ASKED, "chosen": "Use a match.", "rejected": rejected, **columns}


def recorded(original: str, edited: str, **columns: Any) -> dict[str, Any]:
    return {"prompt": ASKED, "original": original, "edited": edited, **columns}


def edits_of(folder: Path, *rows: dict[str, Any], **options: Any) -> tuple[Manifest, list[dict[str, Any]]]:
    source, out = write_jsonl(folder / "rows.jsonl", *rows), folder / "edits"
    return edit.run(EditConfig(source=source, out=out, quiet=True, **options)).manifest, read_jsonl(out)


@pytest.mark.parametrize(
    ("original", "edited", "similarity"),
    [
        ("one two three four", "one two three five", 0.75),  # 2·3 of 4 + 4 words
        ("one two three four", "one", 0.4),  # 2·1 of 4 + 1
        ("one two three four", "five", 0.0),
        ("a b c", "a x y", 0.3333),  # 2·1 of 3 + 3, to four places
        ("So it is.", "So it was, then.", 0.6),  # 2·3 of 4 + 6: So it . stay
    ],
)
def test_similarity_is_the_share_of_words_kept(original: str, edited: str, similarity: float) -> None:
    assert gate(original, edited, 0.0, only_count=False) == ("edited", "", similarity)


def test_an_edit_that_keeps_just_enough_passes_and_one_that_keeps_less_does_not() -> None:
    texts = ("one two three four", "one two three five")
    assert gate(*texts, 0.75, only_count=False) == ("edited", "", 0.75)
    assert gate(*texts, 0.7501, only_count=False) == ("rejected", "over-edited", 0.75)
    assert gate(*texts, 0.7501, only_count=True) == ("edited", "over-edited", 0.75)


def test_a_third_kept_is_not_less_than_a_third() -> None:
    assert gate("a b c", "a x y", 1 / 3, only_count=False).status == "edited"


@pytest.mark.parametrize("only_count", [False, True])
@pytest.mark.parametrize("blank", ["", "  \n"])
def test_an_empty_edit_is_rejected_whoever_made_it(blank: str, only_count: bool) -> None:
    assert gate("one two", blank, 0.0, only_count=only_count) == ("rejected", "empty", 0.0)


def test_no_change_is_unchanged_however_strict_the_gate_and_white_space_is_a_change() -> None:
    assert gate("one two", "one two", 1.0, only_count=False) == ("unchanged", "", 1.0)
    assert gate("one two", "one  two", 0.0, only_count=False) == ("edited", "", 0.5)


def test_the_rules_edit_the_rejected_response_and_every_fate_is_counted(tmp_path: Path) -> None:
    unsafe = "To light the stove, breathe in the fumes."
    made, rows = edits_of(
        tmp_path, preference(unsafe, id="a"), preference("Nothing to mend.", id="b"), preference(EXTRA, id="c")
    )
    assert [(r["id"], r["status"], r["reason"], r["categories"]) for r in rows] == [
        ("a", "edited", "", ["safety"]),
        ("b", "unchanged", "", []),
        ("c", "rejected", "empty", ["extra"]),
    ]
    assert [(r["original"], r["edited"]) for r in rows] == [
        (unsafe, "To light the stove, strike a long match with care."),
        ("Nothing to mend.", "Nothing to mend."),
        (EXTRA, ""),
    ]
    assert all((r["prompt"], r["chosen"], r["editor"]) == (ASKED, "Use a match.", "rules") for r in rows)
    assert [r["similarity"] for r in rows] == [0.5455, 1.0, 0.0], "a: `To light the stove , .` of 10 and 12 words"
    assert made.rows == {"in": 3, "out": 3, "skipped": 0, "failed": 0, "reasons": {}}
    assert made.stats["status"] == {"edited": 1, "unchanged": 1, "rejected": 1}
    assert made.stats["reasons"] == {"empty": 1}
    assert made.stats["categories"] == {"safety": 1, "extra": 1}
    assert made.stats["similarity_mean"] == pytest.approx((0.5455 + 1 + 0) / 3)


@pytest.mark.parametrize(("least", "status"), [(0.55, "edited"), (0.56, "rejected")])
def test_an_over_edited_response_of_the_rules_is_rejected_and_kept_for_the_eye(
    tmp_path: Path, least: float, status: str
) -> None:
    """5 words become 13, 5 of them old: 10 / 18 = 0.5556."""
    made, (row,) = edits_of(tmp_path, preference(TERM), min_similarity=least)
    assert (row["status"], row["similarity"]) == (status, 0.5556)
    assert row["edited"] == "Bats hunt by echolocation, which means hearing the sound come back."
    assert made.stats["reasons"] == ({} if status == "edited" else {"over-edited": 1})


def test_a_large_recorded_edit_is_kept_and_counted(tmp_path: Path) -> None:
    large = recorded("one two", "three four", id="a", categories=["style", "fact"], rationale="why", chosen="five")
    made, rows = edits_of(tmp_path, large, recorded("one", "", id="b"), editor="recorded")
    assert [(r["status"], r["reason"]) for r in rows] == [("edited", "over-edited"), ("rejected", "empty")]
    assert {name: rows[0][name] for name in ("categories", "rationale", "chosen", "editor")} == {
        "categories": ["style", "fact"], "rationale": "why", "chosen": "five", "editor": "recorded"
    }  # fmt: skip
    assert made.stats["reasons"] == {"over-edited": 1, "empty": 1}
    assert made.stats["categories"] == {"style": 1, "fact": 1}


def test_rows_in_are_rows_out_and_rows_skipped(tmp_path: Path) -> None:
    asked = {"question": "Who?", "passages": [["Sea", "It is deep."]], "prediction 1": "Ann."}
    corrected = [{**asked, "feedback": {"corrected-prediction": text}} for text in ("Bob.", None, "Cy.", "Dee.")]
    made, rows = edits_of(tmp_path, *corrected, editor="recorded", limit=3)
    assert made.rows == {"in": 3, "out": 2, "skipped": 1, "failed": 0, "reasons": {"no correction": 1}}
    assert [r["edited"] for r in rows] == ["Bob.", "Cy."]


def test_of_a_conversation_the_rules_read_the_last_turn(tmp_path: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in (("user", "Hello."), ("assistant", "Hi."), ("user", ASKED))]
    _, (plain, talk) = edits_of(tmp_path, preference("Two."), preference("Two.", id="talk", prompt=turns))
    assert talk["edited"] == plain["edited"]
    assert talk["prompt"] == turns


def test_a_conversation_with_a_recorded_edit_is_kept(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": ASKED}]
    _, (row,) = edits_of(tmp_path, recorded("one", "two", prompt=turns), editor="recorded")
    assert row["prompt"] == turns


CHANGES: dict[str, tuple[str, str, list[str], list[str]]] = {
    "replaced": ("The cat sat on the mat.", "The dog sat on the mat.", [" cat"], [" dog"]),
    "removed": ("It is a very old house.", "It is a old house.", [" very"], []),
    "put in": ("Boil water first.", "Boil the water first, slowly.", [], [" the", ", slowly"]),
    "first": ("Never go there.", "Always go there.", ["Never"], ["Always"]),
    "grown": ("She was unkind.", "She was unkinder.", [" unkind"], [" unkinder"]),
    "same": ("As it was.", "As it was.", [], []),
    "wide": ("Un été 漢字 chaud 👩\u200d👩\u200d👧.", "Un hiver 漢字 chaud 👩\u200d👩\u200d👧.", [" été"], [" hiver"]),
}
"""By id: original, edited, and the words that a reader would say were removed and put in."""


Labelled = tuple[Manifest, dict[str, dict[str, Any]], Tokenizer]
"""The manifest, the rows by id as Arrow has them, and the tokenizer that the artifact carries."""


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hand-made")
    rows = [recorded(original, edited, id=name) for name, (original, edited, _, _) in CHANGES.items()]
    rows += [recorded("no", "never", id="r", status="rejected"), recorded("no", "", id="f", status="failed")]
    return write_jsonl(folder / "edits.jsonl", *rows)


def labels_of(edits: str, out: Path, **options: Any) -> Labelled:
    made = diff.run(DiffConfig(edits=edits, out=out, tokenizer="tiny", vocab=310, quiet=True, **options))
    with pa.ipc.open_stream((out / "data.arrow").read_bytes()) as stream:
        rows = {row["id"]: row for row in stream.read_all().to_pylist()}
    return made.manifest, rows, Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))


@pytest.fixture(scope="module")
def by_words(edits: str, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return labels_of(edits, tmp_path_factory.mktemp("words") / "labels")


def labelled(row: dict[str, Any], side: str, label: int) -> list[str]:
    """The stretches of text that tokens of this label stand on."""
    where = {
        i
        for (start, end), z in zip(row[f"{side}_offsets"], row[f"{side}_labels"], strict=True)
        for i in range(start, end)
        if z == label
    }
    runs = groupby(range(len(row[side])), key=lambda i: i in where)
    return ["".join(row[side][i] for i in run) for inside, run in runs if inside]


@pytest.mark.parametrize("name", CHANGES)
def test_bad_tokens_are_the_words_removed_and_good_ones_the_words_put_in(by_words: Labelled, name: str) -> None:
    row, (_, _, removed, added) = by_words[1][name], CHANGES[name]
    assert (labelled(row, "original", -1), labelled(row, "edited", 1)) == (removed, added)
    assert (labelled(row, "original", 1), labelled(row, "edited", -1)) == ([], [])


@pytest.mark.parametrize("name", CHANGES)
def test_ids_are_the_text_and_an_end_that_is_neutral(by_words: Labelled, name: str) -> None:
    _, rows, tokenizer = by_words
    row = rows[name]
    for side in ("original", "edited"):
        ids, labels, offsets, spans = (row[f"{side}_{part}"] for part in ("ids", "labels", "offsets", "spans"))
        assert len(ids) == len(labels) == len(offsets) == len(spans)
        assert tokenizer.decode(ids[:-1], skip_special_tokens=False) == row[side]
        assert (ids[-1], labels[-1], spans[-1]) == (tokenizer.token_to_id("<|end|>"), 0, 0)
        assert offsets[-1] == [len(row[side])] * 2
        assert all((z == 0) == (span == 0) for z, span in zip(labels, spans, strict=True))
    asked = tokenizer.decode(row["prompt_ids"], skip_special_tokens=False)
    assert asked == f"<|user|>{ASKED}<|assistant|>"


def test_rows_that_passed_no_gate_are_skipped_with_their_status(by_words: Labelled) -> None:
    made, rows, _ = by_words
    assert list(rows) == list(CHANGES)
    reasons = {"status rejected": 1, "status failed": 1}
    assert made.rows == {"in": 9, "out": 7, "skipped": 2, "failed": 0, "reasons": reasons}
    assert made.stats["unchanged"] == 1
    assert made.stats["edits_per_row"] == 1.0, "one each, two in 'put in', none in 'same'"
    bad = sum(z == -1 for row in rows.values() for z in row["original_labels"])
    assert made.stats["share_bad"] == pytest.approx(bad / made.stats["tokens"])
    assert rows["replaced"]["similarity"] == pytest.approx(12 / 14), "6 of 7 words on both sides"


def test_edits_of_one_row_are_numbered_and_both_sides_of_a_replacement_agree(by_words: Labelled) -> None:
    rows = by_words[1]
    spans = {name: [sorted({*rows[name][f"{side}_spans"]} - {0}) for side in ("original", "edited")] for name in rows}
    assert spans == {
        "replaced": [[1], [1]], "removed": [[1], []], "put in": [[], [1, 2]],
        "first": [[1], [1]], "grown": [[1], [1]], "same": [[], []], "wide": [[1], [1]],
    }  # fmt: skip


def test_by_token_what_is_not_bad_in_the_original_is_what_is_not_good_in_the_edited(edits: str, tmp_path: Path) -> None:
    _, rows, _ = labels_of(edits, tmp_path / "labels", unit="token")
    for name, row in rows.items():
        sides = [zip(row[f"{side}_ids"], row[f"{side}_labels"], strict=True) for side in ("original", "edited")]
        original, edited = ([(i, z) for i, z in side] for side in sides)
        assert [i for i, z in original if not z] == [i for i, z in edited if not z]
        assert {z for _, z in original} <= {0, -1}
        assert {z for _, z in edited} <= {0, 1}
        changed = any(z for _, z in original + edited)
        assert changed == (name != "same")
        assert (original[-1][1], edited[-1][1]) == (0, 0)
    assert (labelled(rows["grown"], "original", -1), labelled(rows["grown"], "edited", 1)) == ([], ["er"])


def test_rows_over_the_length_are_skipped_and_counted(edits: str, tmp_path: Path, by_words: Labelled) -> None:
    sizes = {
        name: len(r["prompt_ids"]) + max(len(r["original_ids"]), len(r["edited_ids"]))
        for name, r in by_words[1].items()
    }
    longest = max(sizes.values())
    assert labels_of(edits, tmp_path / "just", max_length=longest)[0].rows["out"] == 7
    made, kept, _ = labels_of(edits, tmp_path / "less", max_length=longest - 1)
    assert set(kept) == {name for name, size in sizes.items() if size < longest}
    assert made.rows["reasons"] == {"status rejected": 1, "status failed": 1, "over --max-length": 7 - len(kept)}
    assert made.rows["in"] == 9 == made.rows["out"] + made.rows["skipped"]


def test_an_edit_rejected_by_a_gate_gets_no_labels(tmp_path: Path) -> None:
    edits_of(tmp_path, recorded("a b", "a c", id="kept"), recorded("a b", "", id="gone"), editor="recorded")
    made, rows, _ = labels_of(str(tmp_path / "edits"), tmp_path / "labels")
    assert list(rows) == ["kept"]
    assert made.rows["reasons"] == {"status rejected": 1}
    assert made.inputs[0]["kind"] == "edits"


def test_nothing_is_written_where_every_row_is_too_long(edits: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"every row is longer than --max-length"):
        labels_of(edits, tmp_path / "labels", max_length=2)
    assert not (tmp_path / "labels").exists()


def test_an_edit_that_was_rejected_is_never_learnt_from(tmp_path: Path) -> None:
    rows = [recorded("The cat sat.", "The dog sat.", id="good"), recorded("The cat sat.", " ", id="emptied")]
    edits_of(tmp_path, *rows, editor="recorded")
    folder = next(p.parent for p in tmp_path.rglob("manifest.json"))
    read = dataset.read_edits(folder)
    assert [r.id for r in read] == ["good"]
    assert read.account() == {"in": 2, "out": 1, "skipped": 1, "reasons": {"status rejected": 1}}
    with pytest.raises(InputError, match=r"no usable rows: \{'status rejected': 1\}"):
        dataset.read_edits(write_jsonl(tmp_path / "e.jsonl", {**rows[1], "edited": "", "status": "rejected"}))
