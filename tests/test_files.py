"""Files are told by what they hold; packed, in folders and from standard input they give the same rows."""

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.forked import run, stand_in
from tokalign.artifacts.schemas import Preference, PromptRow
from tokalign.config.options import ReadOptions
from tokalign.data import dataset, files, readers
from tokalign.errors import InputError, KindError, UsageError

ROWS = [{"id": str(i), "prompt": f"Q{i}?", "chosen": "Good.", "rejected": f"Bad {i}."} for i in range(6)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS, indent=1).encode()
CSV = b"id,prompt,chosen,rejected\n" + "".join(f"{','.join(row.values())}\n" for row in ROWS).encode()


def parquet(rows: list[dict[str, str]] = ROWS) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def zstd(raw: bytes) -> bytes:
    packed: bytes = pa.compress(raw, "zstd", asbytes=True)
    return packed


def read(path: Path | str, **options: Any) -> list[dict[str, Any]]:
    rows = dataset.read_rows(path, Preference, "preferences", options=ReadOptions(**options))
    return [r.model_dump(exclude={"source"}) for r in rows]


FILES: list[tuple[str, bytes]] = [
    ("a.json", LINES), ("a.ndjson", LINES), ("a.JSONL", LINES), ("a.jsonl", ARRAY), ("rows", LINES), ("a.txt", LINES),
    ("a.json", b"\xef\xbb\xbf\n  " + ARRAY), ("a.csv", LINES), ("a.CSV", CSV), ("a.jsonl", parquet()), ("a.dat", ARRAY),
    ("a.jsonl.gz", gzip.compress(LINES)), ("a.jsonl.zst", zstd(LINES)), ("a.json.gz", gzip.compress(ARRAY)),
    ("a.csv.gz", gzip.compress(CSV)), ("a.csv.zst", zstd(CSV)), ("a.jsonl", gzip.compress(LINES)),
    ("a.gz", zstd(LINES)),
    ("a.jsonl.gz", gzip.compress(LINES[:200]) + gzip.compress(LINES[200:])),
    ("a.jsonl.zst", zstd(LINES[:200]) + zstd(LINES[200:])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), FILES)
def test_a_file_is_told_by_its_content(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == ROWS


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_bad_line_of_a_packed_file_has_its_place(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(pack(LINES + b'{"id": "x"}\n'))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz:7: field 'prompt': missing"):
        read(path)
    whole = pack(LINES * 500)
    for damaged in (whole[: len(whole) // 2], whole[:-4], whole[:9] + b"xxxxxxxx" + whole[17:]):
        path.write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"a\.jsonl\.gz(:\d+)?: (cannot be decompressed|not valid JSON|field|not UTF-8|'0)"
        ):
            read(path)


def test_what_unpacks_to_too_much_is_refused_before_it_fills_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LONGEST", 10_000)
    monkeypatch.setattr(readers, "_ARRAY", 10_000)
    for name, raw, match in [
        ("a.jsonl", b'{"prompt": "' + b"x" * 10**6, ":1: the line is longer"),
        ("a.json", b"[" + b" " * 10**6 + b"]", "a compressed array of more than"),
        ("a.csv", b"prompt\n" + b"x" * 10**6, "longer than"),
    ]:
        for pack in (gzip.compress, zstd):
            (tmp_path / name).write_bytes(pack(raw))
            with pytest.raises(InputError, match=match):
                read(tmp_path / name)


def test_a_table_that_is_packed_once_more_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(parquet()))
    with pytest.raises(InputError, match="a table compressed with gzip") as caught:
        read(tmp_path / "a.parquet.gz")
    assert "gunzip" in caught.value.remedy


def test_a_folder_of_shards_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for k in (2, 0, 1):
        (tmp_path / f"part-{k}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS[2 * k : 2 * k + 2]))
    for other in ("README.md", ".hidden.jsonl", "dataset_info.json"):
        (tmp_path / other).write_text("x")
    rows = dataset.read_rows(tmp_path, Preference, "preferences")
    assert [r.id for r in rows] == [str(i) for i in range(6)]
    before = rows.lineage["sha256"]
    (tmp_path / "part-1.jsonl").write_text(json.dumps({**ROWS[2], "prompt": "Other?"}) + "\n")
    assert dataset.read_rows(tmp_path, Preference, "preferences").lineage["sha256"] != before
    (tmp_path / "part-1.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"part-1\.jsonl:1: field 'prompt'"):
        read(tmp_path)
    (tmp_path / "rows.csv").write_bytes(CSV)
    with pytest.raises(InputError, match=r"files of several formats: \.csv, \.jsonl"):
        read(tmp_path)


def test_of_several_splits_in_a_folder_one_is_read(tmp_path: Path) -> None:
    for name, rows in (("train-00000-of-00002", ROWS[:2]), ("train-00001-of-00002", ROWS[2:3]), ("test", ROWS[3:])):
        (tmp_path / f"{name}.parquet").write_bytes(parquet(rows))
    assert read(tmp_path) == ROWS[:3]
    assert read(tmp_path, split="test") == ROWS[3:]
    with pytest.raises(InputError, match="several splits, none of them 'dev'") as caught:
        read(tmp_path, split="dev")
    assert caught.value.remedy == "--split test or train"


NAMES = {
    ("train-00000-of-00002.jsonl.gz", "train-00001-of-00002.jsonl.gz"): "both",
    ("train_0.jsonl", "train_1.jsonl"): "both",
    ("part-0.JSONL", "part-1.JSONL"): "both",
    ("pairs.v1.jsonl", "pairs.v2.jsonl"): "both",
    ("train.jsonl", "train.more.jsonl"): "both",
    ("train.jsonl", "validation.jsonl"): "first",
    ("train.jsonl.zst", "test-00000-of-00001.jsonl"): "first",
    ("test.jsonl", "validation.jsonl"): "none",
    ("train_prefs.jsonl", "test_prefs.jsonl"): "none",
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_shards_of_one_split_are_told_by_their_names(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, part in zip(names, (ROWS[:3], ROWS[3:]), strict=True):
        raw = "".join(json.dumps(row) + "\n" for row in part).encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    if NAMES[names] == "none":
        with pytest.raises(InputError, match="several splits, none of them 'train'"):
            read(tmp_path)
    else:
        assert read(tmp_path) == (ROWS if NAMES[names] == "both" else ROWS[:3])


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "one"), num_shards=2)
    (tmp_path / "one" / "cache-1.arrow").write_bytes(b"x")
    assert read(tmp_path / "one") == ROWS
    datasets.DatasetDict({"train": saved, "test": saved.select(range(2))}).save_to_disk(str(tmp_path / "dict"))
    assert read(tmp_path / "dict") == ROWS
    assert read(tmp_path / "dict", split="test") == ROWS[:2]
    with pytest.raises(InputError, match="no split 'dev'"):
        read(tmp_path / "dict", split="dev")


def test_a_folder_without_rows_is_no_input(tmp_path: Path) -> None:
    for name in ("config.json", "train.jsonl"):
        (tmp_path / name).write_bytes(LINES)
    assert not dataset.is_rows(str(tmp_path)), "a model"
    with pytest.raises(KindError, match="not an artifact"):
        read(tmp_path)
    (tmp_path / "config.json").unlink()
    assert dataset.is_rows(str(tmp_path))


def test_prompts_are_lines_of_text_or_stand_on_the_command_line(tmp_path: Path) -> None:
    text = "\ufeffName a bird.\n\n  {x} is a set.\r\n[1] Sort it: 3 2\n"
    (tmp_path / "p.txt").write_bytes(text.encode())
    expected = ["Name a bird.", "  {x} is a set.", "[1] Sort it: 3 2"]
    rows = dataset.read_prompts(str(tmp_path / "p.txt"), [], ReadOptions())
    assert [(r.id, r.prompt) for r in rows] == [(f"row-{i}", t) for i, t in enumerate(expected)]
    given = dataset.read_prompts(None, expected, ReadOptions(), limit=2)
    assert [(r.id, r.prompt) for r in given] == [(f"row-{i}", t) for i, t in enumerate(expected[:2])]
    for path, texts in (("p.txt", ["x"]), (None, []), (None, [" "])):
        with pytest.raises(UsageError):
            dataset.read_prompts(path, texts, ReadOptions())
    with pytest.raises(InputError, match=r"p\.txt:1: field 'chosen': missing"):
        read(tmp_path / "p.txt")


class Piped:
    def __init__(self, raw: bytes) -> None:
        self.buffer = io.BytesIO(raw)


@pytest.mark.parametrize("raw", [LINES, ARRAY, b"Q0?\nQ1?\n\nQ2?\nQ3?\nQ4?\nQ5?", gzip.compress(LINES), parquet()])
def test_standard_input_is_read_as_a_file_is_and_more_than_once(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(raw))
    rows = dataset.read_rows("-", PromptRow, "prompts")
    for _ in range(2):
        assert [r.prompt for r in rows] == [f"Q{i}?" for i in range(6)]
    assert rows.lineage["path"] == "-"
    first = rows.lineage["sha256"]
    monkeypatch.setattr(sys, "stdin", Piped(b"Q0?\n"))
    assert dataset.read_rows("-", PromptRow, "prompts").lineage["sha256"] != first
    monkeypatch.setattr(sys, "stdin", Piped(b'{"prompt": "x"}\n{"prompt": 1}\n'))
    with pytest.raises(InputError, match=r"^stdin:2: field 'prompt'"):
        dataset.read_rows("-", PromptRow, "prompts")


@pytest.mark.slow
def test_generate_takes_prompts_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("".join(json.dumps({"prompt": "Q?", "response": "A."}) + "\n" for _ in range(2)))
    (tmp_path / "p.txt").write_text("Name a bird.\nName a fish.\n")
    made = run(tmp_path, "train-sft", "s.jsonl", "--model", "tiny", "--vocab", "300", "--steps", "1", "--out", "sft")
    assert made.returncode == 0, made.stderr
    options = ("--policy", "sft", "--max-new-tokens", "4", "--out")
    text = run(tmp_path, "generate", "p.txt", *options, "a")
    given = run(tmp_path, "generate", "--prompt", "Name a bird.", "--prompt", "Name a fish.", *options, "b")
    command = [str(stand_in(tmp_path) / "tokalign"), "generate", "-", *options, "c"]
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
    lines = b"Name a bird.\nName a fish.\n"
    piped = subprocess.run(command, cwd=tmp_path, input=lines, capture_output=True, env=env, check=False)
    for done in (text, given, piped):
        assert done.returncode == 0, done.stderr
    rows = [(tmp_path / name / "data.jsonl").read_text() for name in "abc"]
    assert rows[0] == rows[1] == rows[2]
    assert "prompts: read as layout tokalign (prompts)" in text.stderr
    again = run(tmp_path, "generate", "--prompt", "Name a cat.", *options, "b")
    assert again.returncode == 2, "another prompt is another run"
    both = run(tmp_path, "generate", "p.txt", "--prompt", "Name a cat.", *options, "d")
    assert (both.returncode, "--prompt TEXT" in both.stderr) == (2, True)


def test_names_of_files_are_no_ids_on_the_hub() -> None:
    names = ["a/b.JSONL", "a/b.ndjson", "a/b.jsonl.zst", "a/b.txt", "a/b.csv.gz"]
    assert not any(readers.is_hub_id(name) for name in names)
    assert readers.is_hub_id("a/b.v1")
    assert files.has_known_name("p.TXT")
