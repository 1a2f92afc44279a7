"""Files and datasets give the same rows whatever they are written in, one by one, each with its place."""

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from csv import DictWriter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.forked import PROGRAM
from tokalign.artifacts.migrations import MIGRATIONS
from tokalign.artifacts.schemas import KINDS, Edit, Judgement, Kind, Preference, PromptRow, RecordedEdit, ResponseRow
from tokalign.artifacts.writer import writing
from tokalign.config.options import ReadOptions, StageOptions
from tokalign.data import dataset, readers
from tokalign.errors import InputError

ROWS = [
    {"id": "a", "prompt": "One,\n\"two\"", "chosen": "שלום", "rejected": "x\r\ny"},
    {"id": "b", "prompt": "Drei", "chosen": "👩\u200d👩\u200d👧", "rejected": "[not a list]"},
]  # fmt: skip


def save(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    if path.name == "datasets.arrow":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(path.parent / "saved"))
        (found,) = (path.parent / "saved").glob("*.arrow")
        return found
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".csv":
        datasets.Dataset.from_list(ROWS).to_csv(str(path))
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        new = pa.ipc.new_file if path.name == "file.arrow" else pa.ipc.new_stream
        with new(str(path), table.schema) as out:
            out.write_table(table, max_chunksize=1)
    return path


NAMES = ["a.jsonl", "a.json", "a.csv", "a.parquet", "file.arrow", "stream.arrow", "datasets.arrow"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_same_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    rows = dataset.read_rows(save(tmp_path / name), Preference, "preferences")
    assert [r.model_dump(exclude={"source"}) for r in rows] == ROWS
    assert [r.id for r in rows] == ["a", "b"], "and may be read again"


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow"])
def test_a_file_that_is_cut_short_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name)
    for keep in (0, 20, path.stat().st_size - 30):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(InputError, match=rf"{name}: (not a complete|there are no rows)"):
            dataset.read_rows(path, Preference, "preferences")


def test_a_bad_row_of_a_table_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([*ROWS, {"id": "c", "prompt": "x", "chosen": None, "rejected": "y"}]), path)
    with pytest.raises(InputError, match=r"a\.parquet: row 2: field 'chosen'"):
        dataset.read_rows(path, Preference, "preferences")


def csv(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_cells_take_the_types_of_their_columns(tmp_path: Path) -> None:
    header = "id,prompt,original,edited,chosen,attempts,similarity,categories\n"
    turns = json.dumps([{"role": "user", "content": "Q?"}]).replace('"', '""')
    path = csv(tmp_path / "a.csv", f'\ufeff{header}a,"{turns}",x,,,2,0.5,"[""fact""]"\nb,[Q],x,y,z,,,\n')
    first, second = dataset.read_rows(path, Edit, "edits")
    assert (first.prompt, first.edited, first.chosen) == ([{"role": "user", "content": "Q?"}], "", None)
    assert (first.attempts, first.similarity, first.categories) == (2, 0.5, ["fact"])
    assert (second.prompt, second.chosen, second.attempts, second.categories) == ("[Q]", "z", 1, [])


def table(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as f:
        out = DictWriter(f, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def test_a_response_in_csv_is_text_whatever_it_looks_like(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "assistant", "content": "x"}])
    texts = ["[1, 2]", "[]", '["a"]', "{}", "null", "2.0", turns, "Plain."]
    rows = [{"prompt": t, "original": t, "edited": f"{t}."} for t in texts]
    read = list(dataset.read_rows(table(tmp_path / "a.csv", *rows), RecordedEdit, "edits"))
    assert [(r.original, r.edited) for r in read] == [(t, f"{t}.") for t in texts]
    assert [r.prompt for r in read] == [json.loads(t) if t == turns else t for t in texts], "but a prompt may be turns"
    pairs = [{"prompt": "Q?", "chosen": t, "rejected": "Bad."} for t in texts]
    pairs_read = dataset.read_rows(table(tmp_path / "b.csv", *pairs), Preference, "preferences")
    assert [r.chosen for r in pairs_read] == texts
    assert pairs_read.lineage["kind"] == "preferences"


def test_messages_in_csv_are_spelt_out_as_json(tmp_path: Path) -> None:
    def one(role: str, text: str) -> str:
        return json.dumps([{"role": role, "content": text}])

    rows = [{"prompt": one("user", "Q?"), "chosen": one("assistant", f"{i}"), "rejected": one("assistant", "Bad.")}
            for i in range(2)]  # fmt: skip
    read = dataset.read_rows(table(tmp_path / "a.csv", *rows), Preference, "preferences")
    assert [(r.prompt, r.chosen, r.rejected) for r in read] == [("Q?", f"{i}", "Bad.") for i in range(2)]
    assert read.lineage["kind"] == "trl"


def test_numbers_in_csv_are_numbers_however_they_are_written(tmp_path: Path) -> None:
    rows = [{"instruction": "Q?", "input": "", "output_1": "Bad.", "output_2": "Good.", "preference": p}
            for p in ("2.0", "2", " 2")]  # fmt: skip
    read = dataset.read_rows(table(tmp_path / "a.csv", *rows), Preference, "preferences")
    assert [r.chosen for r in read] == ["Good."] * 3
    judged = [{"id": "a", "candidate": "c", "order": "reference_first", "preference": "2.0"}]
    (one,) = dataset.read_rows(table(tmp_path / "b.csv", *judged), Judgement, "judgements")
    assert one.preference == 2
    samples = [{"id": "a", "sample": "1.0", "prompt": "Q?", "response": "[1]"}]
    (response,) = dataset.read_rows(table(tmp_path / "c.csv", *samples), ResponseRow, "responses")
    assert (response.sample, response.response) == (1, "[1]")


def test_a_table_of_structs_has_nulls_that_count_for_nothing(tmp_path: Path) -> None:
    plain = {"role": "user", "content": "Q?"}
    rows = [
        {"prompt": [{**plain, "tool_calls": None}], "original": "x", "edited": "y", "chosen": None, "rationale": None},
        {"prompt": [plain, {**plain, "tool_calls": "t"}], "original": "x", "edited": "y", "chosen": "z"},
    ]
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    (read,) = dataset.read_rows(tmp_path / "a.parquet", RecordedEdit, "edits")
    assert (read.prompt, read.chosen, read.rationale) == ([plain], None, "")


BAD_CSV = [
    ("id,prompt\n1,a\n\n2,b,c\n", ":4: 3 cells, but 2 columns"),
    ('id,prompt\n1,"a\nb"\n1,c\n', ":4: field 'id': duplicate key '1', first at .*:2"),
    ("id,id,prompt\n1,2,a\n", ":1: duplicate column names"),
    ("id,prompt\n1,caf\xe9\n".encode("latin-1"), ": not UTF-8"),
    ('id,prompt\n1,"a', "not valid CSV"),
    ("id,question\n1,a\n", r":2: field 'prompt': missing"),
    ("", "there are no rows"),
    ("id,prompt\n", "there are no rows"),
]


@pytest.mark.parametrize(("text", "match"), BAD_CSV)
def test_bad_csv_is_refused_by_its_place(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(InputError, match=match):
        dataset.read_rows(csv(tmp_path / "a.csv", text), PromptRow, "prompts")


def test_an_endless_line_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LONGEST", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "x"}\n' + json.dumps({"prompt": "y" * 2000}))
    with pytest.raises(InputError, match=r"a\.jsonl:2: the line is longer") as caught:
        dataset.read_rows(path, PromptRow, "prompts")
    assert ".json" in caught.value.remedy


def test_rows_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "x"}\nnot JSON')
    rows = readers.read_file(path)
    assert next(rows) == (f"{path}:1", {"prompt": "x"})
    with pytest.raises(InputError, match=":2"):
        next(rows)


def test_an_id_that_stands_twice_is_found_among_many(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"id": f"r{i}", "prompt": "x"}) for i in range(5000)]
    lines[4321] = lines[17]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"a\.jsonl:4322: field 'id': duplicate key 'r17', first at .*a\.jsonl:18"):
        dataset.read_rows(path, PromptRow, "prompts")


HUB_IDS = {
    "owner/name": True,
    "o.w-n_er/na.me": True,
    "name": False,
    "a/b/c": False,
    "a/b.jsonl": False,
    "here/it": False,
}


@pytest.mark.parametrize(("source", "is_id"), HUB_IDS.items())
def test_what_names_a_dataset_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, is_id: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "it").mkdir(parents=True)
    assert readers.is_hub_id(source) == is_id


def test_a_dataset_is_streamed_at_the_commit_its_revision_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append((args, options))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(readers, "hub_commit", lambda name, revision: f"commit of {revision}")
    options = ReadOptions(revision="v1", subset="main", split="test")
    rows = dataset.read_rows("owner/name", Preference, "preferences", options=options)
    assert [r.id for r in rows] == ["a", "b"]
    assert rows.lineage["sha256"] == "hub:commit of v1:main:test"
    assert asked[-1] == (("owner/name", "main"), {"split": "test", "revision": "commit of v1", "streaming": True})


@contextmanager
def hub(status: int, code: str) -> Iterator[str]:
    """A hub that answers every request alike."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "no")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "says", "remedy"),
    [
        (403, "GatedRepo", "the dataset is gated", "request access at"),
        (404, "RepoNotFound", "no such file, artifact or dataset", "check the name"),
        (404, "RevisionNotFound", "no such revision", "--revision"),
        (0, "", "the hub cannot be reached", "give a file"),
    ],
)
def test_a_dataset_that_cannot_be_had_is_refused_with_what_to_do(
    tmp_path: Path, status: int, code: str, says: str, remedy: str
) -> None:
    with hub(status or 500, code) as address:
        endpoint = address if status else "http://127.0.0.1:9"
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        command = [PROGRAM, "edit", "owner/name", "--out", "edits"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 5, done.stderr
    assert says in done.stderr
    assert remedy in done.stderr.splitlines()[-1]
    assert not (tmp_path / "edits").exists()


def test_an_older_artifact_is_brought_up_to_date_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing("responses", StageOptions(out=tmp_path / "r"), {}) as out:
        out.commit({"in": 1, "out": out.jsonl("data.jsonl", [{"id": "a", "prompt": "x", "answer": "y"}])})
    data = (tmp_path / "r" / "data.jsonl").read_bytes()
    monkeypatch.setitem(KINDS, "responses", Kind(3, ResponseRow, "tokalign generate"))
    monkeypatch.setitem(MIGRATIONS, ("responses", 1), lambda row: {**row, "reply": row["answer"]})
    monkeypatch.setitem(MIGRATIONS, ("responses", 2), lambda row: {**row, "response": row["reply"]})
    (row,) = dataset.read_rows(tmp_path / "r", ResponseRow, "responses")
    assert row.response == "y"
    assert (tmp_path / "r" / "data.jsonl").read_bytes() == data


def test_every_step_between_versions_is_there_and_every_version_has_a_sample() -> None:
    steps = {(kind, v) for kind, k in KINDS.items() for v in range(1, k.version)}
    assert set(MIGRATIONS) == steps
    samples = (Path(__file__).resolve().parent.parent / "data").glob("**/manifest.json")
    there = {(m["kind"], m["version"]) for m in (json.loads(p.read_text()) for p in samples)}
    models = {"policy", "reward-model", "token-rewards", "reward-metrics"}  # by a model: test_pipeline, test_eval_rm
    assert {(kind, v) for kind, k in KINDS.items() for v in range(1, k.version + 1) if kind not in models} <= there
