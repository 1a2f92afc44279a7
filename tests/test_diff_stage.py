"""Labels of a whole file: for any fast tokenizer, in any number of processes and files, whatever was cut off."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.texts import PIECES, TEXT, WAY, compare
from tokalign.artifacts import token_labels
from tokalign.artifacts.schemas import Edit
from tokalign.config.stages import DiffConfig
from tokalign.core import diff as core
from tokalign.core.diff import AlignOptions
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer
from tokalign.playground.world import World
from tokalign.stages import diff

CORPUS = ["The sea shines like glass, and the unkind words were said!", "漢字 e\u0301 שלום"] * 5


def byte_level() -> Tokenizer:
    return train_tiny(CORPUS, 400)


def wrapped(tokenizer: Backend, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>"))


def unigram() -> Tokenizer:
    """As SentencePiece has it: white space becomes part of the word that follows."""
    tokenizer = Backend(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return wrapped(
        tokenizer,
        trainers.UnigramTrainer(
            vocab_size=80, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )


def byte_fallback() -> Tokenizer:
    """As Llama has it: what is unknown becomes several tokens on one character."""
    vocab = {"<unk>": 0, "</s>": 1, "▁": 2, **{f"<0x{b:02X}>": 3 + b for b in range(256)}}
    vocab |= {c: len(vocab) + k for k, c in enumerate("abcdehinorstuT.,")}
    tokenizer = Backend(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>"))


def word_piece() -> Tokenizer:
    """As BERT has it: white space belongs to no token, letters are folded."""
    tokenizer = Backend(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return wrapped(
        tokenizer, trainers.WordPieceTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"], show_progress=False)
    )


CODECS = {make.__name__: make() for make in (byte_level, unigram, byte_fallback, word_piece)}


def edits(*pairs: tuple[str, str]) -> list[Edit]:
    """Not validated: an empty text is no edit, but harmless."""
    fields: Any = {"prompt": "Say it.", "status": "edited", "similarity": None, "chosen": None, "categories": []}
    return [Edit.model_construct(id=str(k), original=a, edited=b, **fields) for k, (a, b) in enumerate(pairs)]


def config(out: Path | str = "-", source: str = "-", **options: Any) -> DiffConfig:
    return DiffConfig(edits=source, out=Path(out), tokenizer="tiny", vocab=320, quiet=True, **options)


def read(folder: Path) -> list[dict[str, Any]]:
    return [r for path in sorted(folder.glob("data*.arrow")) for b in token_labels.batches(path) for r in b.to_pylist()]


def labelled(tokenizer: Tokenizer, pairs: list[tuple[str, str]], folder: Path, **options: Any) -> list[dict[str, Any]]:
    made = diff.label(edits(*pairs), tokenizer, config(**options))
    (folder / "data.arrow").write_bytes(token_labels.HEAD + made.data + token_labels.TAIL)
    return read(folder)


# Any fast tokenizer.


@settings(max_examples=60)
@given(st.sampled_from(list(CODECS)), st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), WAY)
def test_a_token_is_marked_if_it_touches_what_changed_and_else_not(
    tmp_path_factory: pytest.TempPathFactory, name: str, pairs: list[tuple[str, str]], way: AlignOptions
) -> None:
    options = {"align": way.align, "merge": way.merge, "whole_sentence": way.whole}
    rows = labelled(CODECS[name], pairs, tmp_path_factory.mktemp("labels"), **options)
    assert len(rows) == len(pairs)
    for row, (original, edited) in zip(rows, pairs, strict=True):
        changed = core.spans(compare(original, edited, way))
        for side, text, spans, label in zip(("original", "edited"), (original, edited), changed, (-1, 1), strict=True):
            ids, labels, offsets, numbers = (row[f"{side}_{part}"] for part in ("ids", "labels", "offsets", "spans"))
            assert len(ids) == len(labels) == len(offsets) == len(numbers)
            for z, number, (start, end) in zip(labels, numbers, offsets, strict=True):
                solid = [i for i in range(start, end) if not text[i].isspace()]
                first = next((spans[i] for i in solid or range(start, end) if spans[i]), 0)
                assert (z, number) == (label if first else 0, first)
            assert (ids[-1], labels[-1], list(offsets[-1])) == (CODECS[name].eos_id, 0, [len(text)] * 2)


@settings(max_examples=40)
@given(st.sampled_from(list(CODECS)), TEXT, TEXT, WAY)
def test_by_token_what_is_neutral_on_either_side_are_the_same_tokens(
    tmp_path_factory: pytest.TempPathFactory, name: str, original: str, edited: str, way: AlignOptions
) -> None:
    options = {"align": way.align, "merge": way.merge, "unit": "token"}
    [row] = labelled(CODECS[name], [(original, edited)], tmp_path_factory.mktemp("labels"), **options)
    neutral = [
        [i for i, z in zip(row[f"{side}_ids"], row[f"{side}_labels"], strict=True) if not z]
        for side in ("original", "edited")
    ]
    assert neutral[0] == neutral[1]


@pytest.mark.parametrize("name", CODECS)
def test_one_word_of_a_sentence(name: str, tmp_path: Path) -> None:
    [row] = labelled(CODECS[name], [("The unkind words.", "The kind words.")], tmp_path)
    for side, label, word in (("original", -1, "unkind"), ("edited", 1, "kind")):
        text = row[side]
        marked = [text[i:j] for (i, j), z in zip(row[f"{side}_offsets"], row[f"{side}_labels"], strict=True) if z]
        assert "".join(marked).strip() == word
        assert set(row[f"{side}_labels"]) == {0, label}


def test_several_tokens_on_one_character_are_all_marked(tmp_path: Path) -> None:
    [row] = labelled(CODECS["byte_fallback"], [("a 漢 b", "a 字 b")], tmp_path)
    assert row["original_labels"] == [0, -1, -1, -1, -1, 0, 0, 0], "a, ▁, three bytes, ▁, b, EOS"
    assert row["edited_labels"] == [0, 1, 1, 1, 1, 0, 0, 0]


def composing() -> Tokenizer:
    """As many have it: letters are composed before they are cut, and offsets are those of the text as it was."""
    tokenizer = train_tiny(CORPUS, 400)
    tokenizer.hf_tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, composing])
def test_letters_that_are_composed_otherwise_are_no_edit(tmp_path: Path, make: Any) -> None:
    nfd, nfc = "Le cafe\u0301 est bon.", "Le café est bon."
    same, other, changed = labelled(make(), [(nfd, nfc), (nfc, nfd), (nfd, "Le café est froid.")], tmp_path)
    for row in (same, other):
        assert not any(row["original_labels"] + row["edited_labels"] + row["original_spans"] + row["edited_spans"])
        assert row["similarity"] == 1
    for side, word in (("original", "bon"), ("edited", "froid")):
        where = zip(changed[f"{side}_offsets"], changed[f"{side}_labels"], strict=True)
        assert "".join(changed[side][i:j] for (i, j), z in where if z).strip() == word


def test_the_token_after_an_omission_can_be_bad(tmp_path: Path) -> None:
    pairs = [("The sea shines.", "The calm sea shines."), ("The sea", "The sea shines"), ("The sea", "The sky")]
    plain, marked = (labelled(CODECS["byte_level"], pairs, tmp_path, omissions=on) for on in (False, True))
    assert [any(row["original_labels"]) for row in plain] == [False, False, True]
    assert plain[2] == marked[2], "nothing was left out"
    for row, missing in zip(marked, (" sea", ""), strict=False):
        text, where = row["original"], zip(row["original_offsets"], row["original_labels"], strict=True)
        assert "".join(text[i:j] for (i, j), z in where if z == -1) == missing
    assert marked[1]["original_labels"][-1] == -1, "EOS came too early"
    assert marked[0]["original_spans"][1:] != plain[0]["original_spans"][1:]


# Many rows.


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("edits") / "edits.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for k, row in enumerate(World(0).preferences(60)):
            pair = {"original": row["rejected"], "edited": row["chosen"]}
            file.write(json.dumps({"id": f"row-{k}", "prompt": row["prompt"], **pair}) + "\n")
    return str(path)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "CHUNK", 7)


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_two_processes_write_what_one_writes(many: str, tmp_path: Path) -> None:
    one, two = (diff.run(config(tmp_path / str(n), many, workers=n)) for n in (1, 2))
    assert (tmp_path / "1" / "data.arrow").read_bytes() == (tmp_path / "2" / "data.arrow").read_bytes()
    assert (one.rows, one.stats) == (two.rows, two.stats)
    assert "workers" not in one.manifest.config or one.manifest.config["workers"] != two.manifest.config["workers"]


@pytest.mark.usefixtures("small_chunks")
def test_files_of_so_many_rows_are_read_as_one(many: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = diff.run(config(tmp_path / "whole", many))
    monkeypatch.setattr(diff, "SHARD", 20)
    made = diff.run(config(tmp_path / "shards", many))
    names = [f"data-0000{k}-of-00003.arrow" for k in range(3)]
    assert {f["name"]: f["rows"] for f in made.manifest.files if "rows" in f} == dict(
        zip(names, (21, 21, 18), strict=True)
    )
    assert read(tmp_path / "shards") == read(tmp_path / "whole")
    assert [row["id"] for row in read(tmp_path / "shards")] == [f"row-{k}" for k in range(60)]
    assert made.stats == whole.stats


def test_what_the_manifest_says_is_what_the_rows_say(many: str, tmp_path: Path) -> None:
    stats, rows = diff.run(config(tmp_path / "labels", many, max_length=80)).stats, read(tmp_path / "labels")
    labels = [z for row in rows for side in ("original", "edited") for z in row[f"{side}_labels"]]
    shares = [labels.count(z) / len(labels) for z in (-1, 0, 1)]
    assert [stats[f"share_{name}"] for name in ("bad", "neutral", "good")] == pytest.approx(shares)
    per_row = [max(*row["original_spans"], *row["edited_spans"]) for row in rows]
    assert stats["edits_per_row"] == pytest.approx(np.mean(per_row))
    assert stats["rows_by_edits"] == {str(n): per_row.count(n) for n in sorted(set(per_row))}
    histogram, _ = np.histogram([row["similarity"] for row in rows], bins=10, range=(0, 1))
    assert stats["similarity_histogram"] == histogram.tolist()
    longest = {}
    for row in rows:
        spans = [s for side in ("original", "edited") for s in row[f"{side}_spans"] if s]
        longest[row["id"]] = max(map(spans.count, spans), default=0)
    assert list(stats["longest_edits"].values()) == sorted(longest.values(), reverse=True)[:10]
    assert all(longest[name] == n for name, n in stats["longest_edits"].items())
    assert stats["over_length"] == 60 - len(rows) > 0


def test_every_script_goes_through_the_stage(tmp_path: Path) -> None:
    source = tmp_path / "edits.jsonl"
    lines = [
        {"id": str(k), "prompt": "p", "original": p, "edited": p + " x"} for k, p in enumerate(PIECES) if p.strip()
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = diff.run(config(tmp_path / "labels", str(source)))
    assert made.rows["out"] == len(lines)
    assert all(sum(row["edited_labels"]) >= 1 and not any(row["original_labels"]) for row in read(tmp_path / "labels"))
