"""Artifacts vouch for what they hold, are never written over by accident, and are free again after a kill."""

import dataclasses
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.manifests import change
from tokalign import errors
from tokalign.artifacts import manifest
from tokalign.artifacts.manifest import ANNOTATIONS, JOURNAL, Manifest, open_artifact
from tokalign.artifacts.workspace import LOCK, Plan
from tokalign.artifacts.writer import writing
from tokalign.config.options import StageOptions
from tokalign.config.stages import EditConfig
from tokalign.errors import ConflictError, InputError, KindError, LockedError, TokalignError
from tokalign.runtime import invocation

ROWS = [{"id": "a", "prompt": "Tell me about the sea.\u2028"}, {"id": "b", "prompt": "שלום"}]


def config(folder: Path, **options: Any) -> EditConfig:
    return EditConfig(source="rows.jsonl", out=folder / "out", **{"editor": "rules", **options})


def source(path: Path, content: str = "one") -> dict[str, dict[str, Any]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return {"source": {"kind": "preferences", "version": None, "sha256": digest, "path": str(path)}}


def make(folder: Path, kind: str = "prompts", content: str = "one", **options: Any) -> Manifest:
    """Write (or find finished) the artifact at ``folder/out``."""
    with writing(kind, config(folder, **options), source(folder / "rows.jsonl", content)) as out:
        if out.finished is not None:
            return out.finished
        n = out.jsonl("data.jsonl", ROWS)
        return out.commit({"in": 3, "out": n, "skipped": 1, "reasons": {"dull": 1}}, {"mean": 0.5})


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What lies there: bytes and time of change. The lock is not content: it says who held it last."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != LOCK]
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_what_was_written_is_verified_and_read_back(tmp_path: Path) -> None:
    written, out = make(tmp_path, min_similarity=0.25), tmp_path / "out"
    assert open_artifact(out, "prompts").manifest == Manifest.read(out) == written
    data = (out / "data.jsonl").read_bytes()
    assert [json.loads(line) for line in data.decode().split("\n") if line] == ROWS
    digest = hashlib.sha256(data).hexdigest()
    assert written.files == [{"name": "data.jsonl", "sha256": digest, "bytes": len(data), "rows": 2}]
    assert written.rows == {"in": 3, "out": 2, "skipped": 1, "failed": 0, "reasons": {"dull": 1}}
    assert sorted(p.name for p in out.iterdir()) == [".lock", "data.jsonl", "manifest.json"]


def test_manifest_records_who_made_it_how_and_from_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with invocation.of(["tokalign", "edit", "rows.jsonl"]):
        m = make(tmp_path, min_similarity=0.25, seed=7, quiet=True)
    assert (m.kind, m.version, m.seed, m.status, m.stats) == ("prompts", 1, 7, "complete", {"mean": 0.5})
    assert m.command == ["tokalign", "edit", "rows.jsonl"]
    assert m.config["min_similarity"] == 0.25
    assert m.config["quiet"] is True
    assert m.config["source"] == "rows.jsonl"
    assert set(m.config) == {f.name for f in EditConfig.__dataclass_fields__.values()}, "every option"
    digest = hashlib.sha256(b"one").hexdigest()
    expected = {"name": "source", "kind": "preferences", "version": None, "sha256": digest, "path": "../rows.jsonl"}
    assert m.inputs == [expected], "relative, so that a tree of artifacts can be moved"
    assert m.lineage() == {"kind": "prompts", "version": 1, "sha256": m.digest, "rows": 2}


def test_digest_depends_on_content_alone(tmp_path: Path) -> None:
    here, there = make(tmp_path / "here", seed=1), make(tmp_path / "there", seed=2, content="two")
    assert here.digest == there.digest
    assert here.config_hash != there.config_hash
    with writing("prompts", config(tmp_path / "other"), {}) as out:
        out.jsonl("data.jsonl", ROWS[:1])
        assert out.commit({"in": 1, "out": 1}).digest != here.digest


def test_making_the_same_again_touches_nothing(tmp_path: Path) -> None:
    first, before = make(tmp_path), contents(tmp_path / "out")
    with writing("prompts", config(tmp_path), source(tmp_path / "rows.jsonl")) as out:
        assert out.finished == first
    assert contents(tmp_path / "out") == before


def test_how_the_work_is_done_or_spelt_is_no_change(tmp_path: Path) -> None:
    first, before = make(tmp_path), contents(tmp_path / "out")
    assert make(tmp_path, quiet=True, json=True) == first
    moved = replace(config(tmp_path), source="else/where.jsonl", out=tmp_path / "else" / ".." / "out")
    with writing("prompts", moved, source(tmp_path / "else" / "where.jsonl")) as out:
        assert out.finished == first, "the same content by another path"
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"min_similarity": 0.5}, ["--min-similarity 0.3 → 0.5"]),
        ({"limit": 10}, ["--limit None → 10"]),
        ({"editor": "recorded", "seed": 3}, ["--seed 0 → 3", "--editor 'rules' → 'recorded'"]),
        ({"content": "two"}, ["input source (sha256 7692c3ad3540 → 3fc4ccfe7458)"]),
        ({"kind": "preferences"}, ["kind prompts → preferences"]),
    ],
)
def test_another_run_is_refused_by_what_changed_and_fresh_rewrites(
    tmp_path: Path, changes: dict[str, Any], named: list[str]
) -> None:
    make(tmp_path)
    before = contents(tmp_path / "out")
    with pytest.raises(ConflictError) as caught:
        make(tmp_path, **changes)
    assert str(caught.value).endswith(f"changed: {', '.join(named)}")
    assert "--fresh" in caught.value.remedy
    assert contents(tmp_path / "out") == before
    rewritten = make(tmp_path, fresh=True, **changes)
    assert open_artifact(tmp_path / "out").manifest == rewritten
    assert make(tmp_path, **changes) == rewritten


def test_fresh_rewrites_the_same_run_too_and_leaves_what_is_the_users(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert [f["name"] for f in make(tmp_path, fresh=True).files] == ["data.jsonl"]
    assert sorted(contents(tmp_path / "out")) == ["data.jsonl", "manifest.json", "notes.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "rows.jsonl"], "nothing is left beside"


def rows_until(interrupt: bool) -> Iterator[dict[str, str]]:
    yield ROWS[0]
    if interrupt:
        raise KeyboardInterrupt


@pytest.mark.parametrize("in_a_row", [True, False])
@pytest.mark.parametrize("rewrite", [True, False])
def test_an_interrupted_run_leaves_no_manifest_and_no_half_file_and_can_be_run_again(
    tmp_path: Path, in_a_row: bool, rewrite: bool
) -> None:
    inputs = source(tmp_path / "rows.jsonl")
    if rewrite:
        make(tmp_path)
    with pytest.raises(KeyboardInterrupt), writing("prompts", config(tmp_path, fresh=rewrite), inputs) as out:
        out.jsonl("data.jsonl", rows_until(in_a_row))
        raise KeyboardInterrupt
    assert not manifest.is_artifact(tmp_path / "out")
    assert (tmp_path / "out" / "data.jsonl").exists() != in_a_row
    open_artifact(tmp_path / "out", make(tmp_path).kind)
    assert sorted(contents(tmp_path / "out")) == ["data.jsonl", "manifest.json"]


def test_the_time_of_a_cut_run_counts_until_it_last_wrote_something(tmp_path: Path) -> None:
    inputs = source(tmp_path / "rows.jsonl")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), writing("prompts", config(tmp_path), inputs) as out:
            out.jsonl("data.jsonl", ROWS)
            raise KeyboardInterrupt
        plan = Plan.read(tmp_path / "out")
        assert plan is not None
        began = plan.began - 1000
        path = tmp_path / "out" / manifest.PLAN
        path.write_text(dataclasses.replace(plan, began=began).text)
        for written, at in ((tmp_path / "out" / "data.jsonl", began + 60), (path, began)):
            os.utime(written, (at, at))
    assert 120 <= make(tmp_path).seconds < 180, "a minute each, and not the time between"


@pytest.mark.parametrize("renames", range(2))
@pytest.mark.parametrize("then", ["the old run", "the new run", "the new run, fresh"])
def test_a_rewrite_that_is_killed_while_it_makes_room_is_taken_back_or_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int, then: str
) -> None:
    first, before = make(tmp_path), contents(tmp_path / "out")
    rename, left = Path.rename, [renames]

    def some(path: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", some)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, fresh=True, content="two")
    assert (tmp_path / "out" / manifest.PLAN).exists()
    if then == "the old run":
        assert make(tmp_path) == first
        assert contents(tmp_path / "out") == before
    else:
        made = make(tmp_path, content="two", fresh=then.endswith("fresh"))
        assert open_artifact(tmp_path / "out").manifest == made
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "rows.jsonl"], "nothing is left beside"


def test_a_rewrite_that_is_refused_leaves_what_was_there(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "out" / "parts").mkdir()
    (tmp_path / "out" / "parts" / "one").write_text("1")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError), writing("prompts", config(tmp_path, fresh=True), {}) as out:
        out.jsonl("data.jsonl", [])
        raise InputError("no good")
    assert contents(tmp_path / "out") == before


def test_a_kill_while_the_plan_is_written_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).write_text("12")
    (tmp_path / "out" / f".{manifest.PLAN}.0123abcd.tmp").write_text("{")
    assert open_artifact(tmp_path / "out", make(tmp_path).kind).manifest
    left = f".{manifest.PLAN}.0123abcd.tmp"  # no plan names it
    assert sorted(contents(tmp_path / "out")) == [left, "data.jsonl", "manifest.json"]


@pytest.mark.parametrize("name", ["notes.txt", JOURNAL, ANNOTATIONS])  # also one that a run of ours could have
def test_a_folder_of_other_things_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    for theirs in ("thesis.tex", name):
        (tmp_path / "out" / theirs).write_text("years of work")
    before = contents(tmp_path / "out")
    for fresh in (False, True):
        with pytest.raises(ConflictError, match="not empty"):
            make(tmp_path, fresh=fresh)
    assert contents(tmp_path / "out") == before


def test_nothing_is_put_into_a_folder_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConflictError):
        make(tmp_path)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_out_that_is_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(ConflictError, match="is a file, not a folder"),
        writing("prompts", config(tmp_path), {}, tmp_path / "out" / below),
    ):
        pass
    assert (tmp_path / "out").read_text() == "mine"


HOLD = """
import sys
from pathlib import Path
from tokalign.artifacts.writer import writing
from tokalign.config.options import StageOptions
with writing("prompts", StageOptions(out=Path(sys.argv[1]), fresh=True), {}) as out:
    out.space.write("half", "half")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that writes the folder until it is killed."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_folder_in_use_is_refused_by_pid_and_free_after_a_kill(tmp_path: Path) -> None:
    make(tmp_path)
    with held(tmp_path / "out") as process:
        before = contents(tmp_path / "out")
        with pytest.raises(LockedError, match=rf"process {process.pid} is writing") as caught:
            make(tmp_path, fresh=True)
        assert caught.value.exit_code == 6
        assert contents(tmp_path / "out") == before
        process.kill()
        process.wait()
        with pytest.raises(ConflictError, match="another unfinished run"):  # the holder was given no options
            make(tmp_path)
        open_artifact(tmp_path / "out", make(tmp_path, fresh=True).kind)
    assert sorted(contents(tmp_path / "out")) == ["data.jsonl", "manifest.json"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_run_that_is_refused_half_way_leaves_nothing(tmp_path: Path, existed: bool) -> None:
    folder = tmp_path / "out"
    if existed:
        folder.mkdir()
    with pytest.raises(InputError), writing("prompts", StageOptions(out=folder), {}) as out:
        out.space.write("half", "half")
        raise InputError("no good")
    assert folder.exists() == existed
    assert not existed or sorted(p.name for p in folder.iterdir()) == [".lock"]


@pytest.mark.parametrize("fresh", [False, True])
def test_where_a_broken_manifest_says_nothing_nothing_is_removed(tmp_path: Path, fresh: bool) -> None:
    make(tmp_path)
    (tmp_path / "out" / "manifest.json").write_text("{")
    before = contents(tmp_path / "out")
    with pytest.raises(ConflictError, match="not a readable manifest"):
        make(tmp_path, fresh=fresh)
    assert contents(tmp_path / "out") == before


def test_another_kind_is_refused_with_the_command_that_makes_the_right_one(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(KindError, match="holds prompts, not edits or sft") as caught:
        open_artifact(tmp_path / "out", "edits", "sft")
    assert "tokalign edit" in caught.value.remedy
    assert caught.value.where == str(tmp_path / "out")


def test_a_newer_artifact_is_refused_with_both_versions(tmp_path: Path) -> None:
    make(tmp_path)
    change(tmp_path / "out", version=2, tokalign="9.9.9")
    with pytest.raises(InputError, match="prompts/2 is newer than prompts/1") as caught:
        open_artifact(tmp_path / "out")
    assert "9.9.9" in caught.value.remedy
    with pytest.raises(InputError, match="newer"):
        make(tmp_path)


@pytest.mark.parametrize(
    "attempt", [lambda folder: open_artifact(folder / "out").manifest, make], ids=["read", "made again"]
)
def test_a_changed_or_missing_file_is_named(tmp_path: Path, attempt: Callable[[Path], Manifest]) -> None:
    make(tmp_path)
    path = tmp_path / "out" / "data.jsonl"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(f"{path}: the content is not what the manifest says")):
        attempt(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=re.escape(f"{path}: the file is missing")):
        attempt(tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "sub/../../secret", "link", "self", "linked/secret", "."]
)
def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    (tmp_path / "secret").write_text("s")
    (tmp_path / "out" / "sub").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "out" / "self").symlink_to(tmp_path / "out" / "data.jsonl")
    (tmp_path / "out" / "linked").symlink_to(tmp_path)
    data = (tmp_path / "out" / "data.jsonl").read_bytes() if name == "self" else b"s"
    entry = {"name": name, "sha256": hashlib.sha256(data).hexdigest()}
    change(tmp_path / "out", lambda m: m["files"].append(entry))
    with pytest.raises(InputError, match=re.escape(repr(name))):
        open_artifact(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"kind": "prompts"}', '{"kind": "dreams"}', "half", "\udcff"])
def test_a_manifest_that_is_not_one_is_refused_by_its_path(tmp_path: Path, text: str) -> None:
    make(tmp_path)
    path = tmp_path / "out" / "manifest.json"
    whole = path.read_text()
    path.write_bytes((whole[: len(whole) // 2] if text == "half" else text).encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=re.escape(str(path))):
        open_artifact(tmp_path / "out")


@pytest.mark.parametrize("changes", [{"version": "1"}, {"kind": []}, {"files": [{}]}, {"files": None}, {"rows": []}])
def test_a_manifest_with_fields_of_another_type_is_refused_by_its_path(tmp_path: Path, changes: dict[str, Any]) -> None:
    make(tmp_path)
    change(tmp_path / "out", **changes)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "out"))):
        open_artifact(tmp_path / "out").manifest.lineage()


def test_an_artifact_inside_another_vouches_for_itself(tmp_path: Path) -> None:
    inputs = source(tmp_path / "rows.jsonl")
    with writing("winrates", config(tmp_path), inputs) as outer:
        with outer.part("judgements", config(tmp_path), inputs, "parts/judgements") as inner:
            inner.jsonl("data.jsonl", ROWS)
            inner.commit({"in": 2, "out": 2})
        (outer.folder / "parts" / "notes.txt").write_text("mine")
        outer.space.write("parts/plain.txt", "ours")
        outer.space.write("data.json", '{"candidates": {}}')
        written = outer.commit({"in": 2, "out": 2}, {"candidates": {}, "paired": []})
    assert [f["name"] for f in written.files] == ["data.json", "parts/plain.txt"]
    assert written.parts == ["parts/judgements"]
    assert [f["name"] for f in open_artifact(tmp_path / "out" / "parts" / "judgements").manifest.files] == [
        "data.jsonl"
    ]
    open_artifact(tmp_path / "out", "winrates")


def test_every_error_stands_in_the_tree_of_the_docstring_below_its_parent_with_its_exit_code() -> None:
    classes = {n: c for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, TokalignError)}
    assert not [n for n, c in vars(errors).items() if inspect.isclass(c) and n not in classes]
    drawn = re.findall(r"^( {4}[│├└─ ]*)(\w+Error) +([\d/]+)  ", errors.__doc__ or "", re.MULTILINE)
    assert sorted(name for _, name, _ in drawn) == sorted(classes)
    above: list[tuple[int, str]] = []
    for stem, name, code in drawn:
        above = [(depth, parent) for depth, parent in above if depth < len(stem)]
        assert classes[name].__base__ is (classes[above[-1][1]] if above else Exception)
        assert str(classes[name].exit_code) == code or name == "StoppedError"
        above.append((len(stem), name))


def test_an_error_carries_place_field_and_remedy() -> None:
    error = InputError("got 5", where="rows.jsonl:3", field="prompt", remedy="mend it")
    assert (str(error), error.remedy, error.exit_code) == ("rows.jsonl:3: field 'prompt': got 5", "mend it", 5)
    assert str(InputError("got 5", field="prompt")) == "field 'prompt': got 5"
    assert (str(InputError("got 5")), TokalignError("x").remedy) == ("got 5", "")
