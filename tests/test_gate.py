"""One gate for reading: what is damaged, unlisted or somebody else's is told, and never read."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import forked
from tests.conftest import ROOT
from tests.manifests import change
from tokalign.artifacts.manifest import MANIFEST, open_artifact
from tokalign.artifacts.model_files import check_model
from tokalign.artifacts.schemas import Preference
from tokalign.artifacts.token_labels import read_labels
from tokalign.data import dataset
from tokalign.errors import InputError
from tokalign.runtime import sandbox

DATA = ROOT / "data"


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(DATA / name, folder / name))


def remade(name: str, folder: Path) -> Path:
    """A committed sample with a manifest of today's version."""
    made = copied(name, folder)
    change(made, tokalign=__import__("tokalign").__version__)
    return made


@pytest.mark.parametrize("name", ["preferences", "labels", "winrates"])
def test_every_flipped_byte_of_a_manifest_is_noticed(tmp_path: Path, name: str) -> None:
    folder = remade(name, tmp_path)
    path = folder / MANIFEST
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 120)):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        with pytest.raises(InputError):
            open_artifact(folder)
    path.write_bytes(whole)
    open_artifact(folder)


def test_data_that_no_manifest_lists_is_not_read(tmp_path: Path) -> None:
    folder = remade("preferences", tmp_path)
    change(folder, files=[])
    (folder / "data.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="lists no data"):
        dataset.read_rows(folder, Preference, "preferences")
    labels = remade("labels", tmp_path)
    shutil.copy(labels / "data.arrow", labels / "data-00001.arrow")
    assert len(read_labels(open_artifact(labels))) == 200


def test_a_win_rate_that_is_not_the_datas_is_told(tmp_path: Path) -> None:
    folder = remade("winrates", tmp_path)
    change(folder, lambda m: m["stats"]["candidates"]["good"].update(win_rate=99.9))
    with pytest.raises(InputError, match="does not lie within its interval"):
        open_artifact(folder)
    change(folder, lambda m: m["stats"]["candidates"]["good"].update(win_rate=80.0))
    with pytest.raises(InputError, match="win rates differ from those in data"):
        open_artifact(folder)


@pytest.mark.parametrize("version", [0, -1, True, 1.5])
def test_versions_that_are_none_are_refused(tmp_path: Path, version: object) -> None:
    folder = remade("prompts", tmp_path)
    change(folder, version=version)
    with pytest.raises(InputError, match="version"):
        open_artifact(folder)


def test_a_nul_in_a_name_and_deep_nesting_are_refused(tmp_path: Path) -> None:
    folder = remade("prompts", tmp_path)
    change(folder, lambda m: m["files"].append({**m["files"][0], "name": "a\0b"}))
    with pytest.raises(InputError, match="outside"):
        open_artifact(folder)
    (folder / MANIFEST).write_text('{"kind": "prompts", "config": ' + "[" * 5000 + "]" * 5000 + "}")
    with pytest.raises(InputError, match="nested too deeply"):
        open_artifact(folder)


def test_a_report_does_not_wait_for_a_pipe_or_follow_a_link(tmp_path: Path) -> None:
    copied("edits", tmp_path)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / MANIFEST)
    (tmp_path / "all").symlink_to("/")
    done = forked.run(tmp_path, "report", ".", "--out", "page.html")
    assert done.returncode == 0, done.stderr
    assert "1 artifacts" in done.stderr


def test_verify_names_what_is_not_what_it_says(tmp_path: Path) -> None:
    for name in ("preferences", "edits"):
        copied(name, tmp_path)
    assert forked.run(tmp_path, "verify", ".").returncode == 0
    (tmp_path / "edits" / "data.jsonl").write_text("{}\n")
    done = forked.run(tmp_path, "verify", ".", "--json")
    assert done.returncode == 5
    assert "1 of 2 artifacts" in done.stderr
    assert json.loads(done.stdout)["preferences"]["content"] == "ok"


def test_a_small_table_that_stands_for_a_large_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox._Current, "limits", sandbox.Limits(megabytes=256))
    path = tmp_path / "bomb.parquet"
    column = ["x" * 20_000_000] * 16
    pq.write_table(pa.table({"prompt": column}), path, compression="zstd")
    with pytest.raises(InputError, match="more than 256 MB"):
        sandbox.check_table(path, "parquet")
    with pa.OSFile(str(tmp_path / "nulls.arrow"), "wb") as file:
        batch = pa.RecordBatch.from_arrays([pa.nulls(5_000_000)], names=["prompt"])
        with pa.ipc.new_stream(file, batch.schema) as stream:
            stream.write_batch(batch)
    with pytest.raises(InputError, match="too many rows for the size"):
        sandbox.check_table(tmp_path / "nulls.arrow", "arrow")


@pytest.mark.slow
def test_a_damaged_table_ends_nobody(tmp_path: Path) -> None:
    whole = (DATA / "labels" / "data.arrow").read_bytes()
    path = tmp_path / "rows.arrow"
    for k in range(12):
        changed = bytearray(whole)
        for at in range(k * 97, len(whole), 1511):
            changed[at] ^= 0xFF
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"rows\.arrow"):
            sandbox.check_table(path, "arrow")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "chat_template.jinja",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "of CPU time",
        ),
        ("config.json", '{"num_hidden_layers": 1000000000}', "num_hidden_layers is 1000000000"),
        ("config.json", '{"hidden_size": -1}', "hidden_size is -1"),
        ("config.json", "[" * 100_000, "not a valid configuration"),
        ("tokenizer.json", "{}", "not a valid tokenizer"),
    ],
)
def test_the_folder_of_a_model_that_would_hang_or_flood_is_refused(
    tmp_path: Path, name: str, content: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox._Current, "limits", sandbox.Limits(seconds=1.0))
    from safetensors.numpy import save_file

    save_file({"w": __import__("numpy").zeros((2, 2))}, tmp_path / "model.safetensors")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=problem):
        check_model(tmp_path)


def test_a_file_that_would_redirect_a_model_is_refused(tmp_path: Path) -> None:
    labels = remade("labels", tmp_path)
    (labels / "notes.txt").write_text("mine")
    open_artifact(labels)
    (labels / "tokenizer" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="not listed in the manifest"):
        open_artifact(labels)
