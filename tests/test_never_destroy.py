"""Whatever lies in and around an output folder, and wherever a run is killed: what is the user's stays as it is.

Every tree is drawn at random: an artifact in some state, foreign files inside and around it. Commands are then run on
it, each in a fork that may be killed at any touch of the file system.
"""

import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tokalign.artifacts import checkpoints
from tokalign.artifacts.manifest import MANIFEST, PLAN, open_artifact
from tokalign.artifacts.metrics import MetricsLog
from tokalign.artifacts.writer import writing
from tokalign.config.options import StageOptions
from tokalign.config.stages import (
    DiffConfig,
    EditConfig,
    EvalWinrateConfig,
    ExportConfig,
    PlaygroundConfig,
    ReportConfig,
)
from tokalign.errors import ConflictError, TokalignError
from tokalign.report import page
from tokalign.stages import diff, edit, export, playground, winrate

DATA = ROOT / "data"
TREES = int(os.environ.get("TOKALIGN_TEST_TREES", "80"))
"""`make soak` draws 500."""
FOREIGN = (
    "thesis.txt", ".git/config", "src/app.py", "deep/er/notes.md", "data.jsonl", "data-00001.arrow", "data.arrow",
    "manifest.json", "progress.json", ".replaced/old", "replaced-20260101-000000/x", "README.md", "metrics.jsonl",
    "checkpoints/notes.txt", "checkpoints/checkpoint-old/state.pt", "checkpoints/checkpoint-2/mine", "samples/mine",
    "tokenizer/mine.txt", "judgements/mine.txt", "judgements/data.jsonl", "responses/mine/data.jsonl",
    ".data.jsonl.tmp", ".00000.data.jsonl.part", "journal.jsonl", "annotations.jsonl", "test/mine", "prompts/mine",
    "unfinished.json", "config.json", "../out.replaced-20260101-000000/manifest.json", "../rows.jsonl", "../.out.tmp",
)  # fmt: skip
"""Names of foreign files, relative to the output folder; those that are taken already are not drawn."""
WATCHED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "shutil.rmtree"}


def run_edit(out: Path, fresh: bool, seed: int) -> None:
    source = str(DATA / "preferences")
    edit.run(EditConfig(source=source, editor="rules", out=out, limit=3 + seed, fresh=fresh, quiet=True))


def run_diff(out: Path, fresh: bool, seed: int) -> None:
    options = {"tokenizer": "tiny", "vocab": 300, "limit": 3 + seed, "workers": 1}
    diff.run(DiffConfig(edits=str(DATA / "edits"), out=out, fresh=fresh, quiet=True, **options))  # type: ignore[arg-type]


def run_winrate(out: Path, fresh: bool, seed: int) -> None:
    winrate.run(
        EvalWinrateConfig(
            prompts=str(DATA / "responses-plain" / "data.jsonl"),
            candidate=[f"good={DATA / 'responses-good'}"],
            reference=str(DATA / "responses-plain"),
            judge="playground",
            limit=3 + seed,
            out=out,
            fresh=fresh,
            quiet=True,
        )
    )


def run_playground(out: Path, fresh: bool, seed: int) -> None:
    sizes = dict.fromkeys(("preferences", "sft", "prompts", "heldout", "test"), 2)
    playground.run(PlaygroundConfig(out=out, seed=seed, fresh=fresh, quiet=True, **sizes))  # type: ignore[arg-type]


def run_training(out: Path, fresh: bool, seed: int) -> None:
    """What the trainings do with their folder, without a model."""
    with writing("policy", StageOptions(out=out, seed=seed, fresh=fresh, quiet=True), {}) as made:
        if made.finished is not None:
            return
        space = made.space
        found = checkpoints.newest(space, lambda _: None)
        done = checkpoints.step_of(found) if found else 0
        with MetricsLog(space, after=done) as log:
            for step in range(done + 1, 4):
                log.write(step, {"loss": 1.0})
                scratch = space.folder / space.scratch
                scratch.mkdir()
                (scratch / "state.pt").write_text(f"{seed} {step}")
                checkpoints.keep(space, scratch, step)
                scratch.rmdir()
                space.write(f"samples/step-{step}.jsonl", "")
        with space.saving() as scratch:
            (scratch / "config.json").write_text("{}")
            (scratch / "model.safetensors").write_text(f"weights {seed}")
        checkpoints.keep_last(space)
        made.commit({"in": 1, "out": 1}, {"steps": 3, "final_loss": 1.0, "weights": 1})


def run_export(out: Path, fresh: bool, seed: int) -> None:
    export.run(
        ExportConfig(
            source=str(DATA / "edits"), to="trl", out=out / "file.jsonl", limit=3 + seed, fresh=fresh, quiet=True
        )
    )


def run_report(out: Path, fresh: bool, seed: int) -> None:
    page.run(ReportConfig(folders=[DATA / "edits"], out=out / "page.html", fresh=fresh, quiet=True))


RUNS: list[Callable[[Path, bool, int], None]] = [run_edit, run_diff, run_winrate, run_training]
OTHERS: list[Callable[[Path, bool, int], None]] = [run_playground, run_export, run_report]


def forked(work: Callable[[], None], die_after: int | None) -> str:
    """Do the work in a fork; how it ended. It dies at its ``die_after``-th touch of the file system."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            if die_after is not None:
                left = [die_after]

                def hook(event: str, _: object) -> None:
                    if event in WATCHED:
                        left[0] -= 1
                        if left[0] <= 0:
                            os._exit(9)

                sys.addaudithook(hook)
            work()
            code = 0
        except ConflictError:
            code = 2
        except TokalignError:
            code = 5
        except BaseException as e:
            print(f"{type(e).__name__}: {e}", file=sys.stderr)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {0: "done", 2: "refused", 5: "bad input", 9: "killed"}.get(code, f"exit {code}")


def scatter(out: Path, draw: random.Random) -> dict[Path, bytes | str]:
    """Put foreign files where nothing is yet; what each holds, or where it points."""
    made: dict[Path, bytes | str] = {}
    for name in draw.sample(FOREIGN, draw.randint(1, 5)):
        path = Path(os.path.normpath(out / name))
        parents = [p for p in path.parents if out.parent in p.parents or p == out]
        if os.path.lexists(path) or any(p.is_symlink() or p.is_file() for p in parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if draw.random() < 0.15:
            path.symlink_to(out.parent / "secret")
            made[path] = "link"
        else:
            content = draw.choice([b"years of work", b"{}", b"", b'{"name": "app"}', b'{"kind": "edits"}', b"[\n1]"])
            path.write_bytes(content)
            made[path] = content
    return made


def untouched(made: dict[Path, bytes | str], secret: Path) -> list[str]:
    """Foreign files that are not as they were."""

    def is_as_it_was(path: Path, was: bytes | str) -> bool:
        return path.is_symlink() if was == "link" else path.is_file() and path.read_bytes() == was

    wrong = [str(path) for path, was in made.items() if not is_as_it_was(path, was)]
    return wrong + ([str(secret)] if secret.read_text() != "secret" else [])


def damage(out: Path, draw: random.Random) -> None:
    """Change a byte of a document of ours, or cut it."""
    path = out / draw.choice([MANIFEST, PLAN])
    if path.is_file() and not path.is_symlink() and (raw := bytearray(path.read_bytes())):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(7)
        path.write_bytes(raw if draw.random() < 0.7 else raw[: len(raw) // 2])


def try_tree(folder: Path, seed: int, ends: Counter[str]) -> list[str]:
    """One tree; what was destroyed."""
    draw = random.Random(seed)
    folder.mkdir()
    (folder / "secret").write_text("secret")
    out, work = folder / "out", draw.choice(RUNS)
    state = draw.choice(["absent", "unfinished", "whole", "whole", "damaged"])
    if state != "absent":
        forked(lambda: work(out, False, 0), draw.randint(15, 90) if state == "unfinished" else None)
    made = scatter(out, draw)
    if state == "damaged":
        damage(out, draw)
    made = {
        p: was for p, was in made.items() if p.name not in (MANIFEST, PLAN) or p.parent != out or state != "damaged"
    }
    for _ in range(draw.randint(1, 3)):
        now = draw.choice([work, work, work, *RUNS, *OTHERS])
        fresh, which = draw.random() < 0.6, draw.randrange(2)
        end = forked(lambda: now(out, fresh, which), draw.randint(1, 150) if draw.random() < 0.5 else None)  # noqa: B023
        ends[f"{state}: {end}"] += 1
        if end.startswith("exit"):
            return [f"seed {seed}: {now.__name__} ended with {end}"]
        if wrong := untouched(made, folder / "secret"):
            return [f"seed {seed}: {state}, {now.__name__}, fresh {fresh}, {end}: {wrong}"]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_whatever_is_the_users_survives_every_command_and_every_kill(tmp_path: Path, part: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ends: Counter[str] = Counter()
    for seed in range(part, TREES, 4):
        assert not try_tree(tmp_path / str(seed), seed, ends)
        shutil.rmtree(tmp_path / str(seed))
    for end in ("done", "killed", "refused"):
        assert ends[f"whole: {end}"], f"no run on a whole artifact was {end}: {ends}"
    for state in ("absent", "unfinished"):
        assert ends[f"{state}: done"], f"no run on a folder that was {state} came to its end: {ends}"


def test_what_is_refused_is_named(tmp_path: Path) -> None:
    web = tmp_path / "web"
    for name in (".git/config", "src/app.js"):
        (web / name).parent.mkdir(parents=True)
        (web / name).write_text("mine")
    (web / "manifest.json").write_text('{"name": "a web app"}')
    for fresh in (False, True):
        with pytest.raises(ConflictError, match=r"\.git, manifest\.json, src"):
            run_edit(web, fresh, 0)
    assert sorted(p.name for p in web.iterdir()) == [".git", "manifest.json", "src"]


@pytest.mark.parametrize("name", ["unfinished.json", ".replaced"])
def test_a_name_of_ours_is_no_leave_to_empty_a_folder(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    if name == ".replaced":
        (out / name).mkdir()
    else:
        (out / name).write_text("{}")
    for fresh in (False, True):
        with pytest.raises(ConflictError):
            run_edit(out, fresh, 0)
    assert (out / "thesis.txt").read_text() == "years"
    assert sorted(p.name for p in out.iterdir()) == sorted([name, "thesis.txt"])


def test_a_flipped_character_in_a_plan_is_told_and_nothing_is_begun_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert forked(lambda: run_training(out, False, 0), 120) == "killed"
    whole = (out / PLAN).read_bytes()
    kept = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1
        (out / PLAN).write_bytes(changed)
        for fresh in (False, True):
            with pytest.raises(ConflictError, match=r"unfinished\.json"):
                run_training(out, fresh, 0)
    (out / PLAN).write_bytes(whole)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"} == kept


def test_a_lock_that_is_a_link_truncates_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "thesis").write_text("years")
    for link in (lambda p: p.symlink_to(tmp_path / "thesis"), lambda p: p.hardlink_to(tmp_path / "thesis")):
        lock = tmp_path / "out" / ".lock"
        link(lock)
        with pytest.raises(ConflictError, match="not a lock file of tokalign"):
            run_edit(tmp_path / "out", True, 0)
        assert (tmp_path / "thesis").read_text() == "years"
        lock.unlink()


def test_a_rewrite_moves_what_was_there_and_keeps_what_the_user_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run_training(out, False, 0)
    (out / "model.safetensors").write_text("tuned by hand")
    with writing("policy", StageOptions(out=out, seed=1, fresh=True), {}) as made:
        beside = next(p for p in tmp_path.iterdir() if p.name.startswith("out.replaced-"))
        assert beside.name in capsys.readouterr().err
        assert (beside / MANIFEST).is_file()
        made.space.write("config.json", "{}")
        made.commit({"in": 1, "out": 1}, {"steps": 1, "final_loss": 1.0, "weights": 1})
    assert open_artifact(out).manifest.seed == 1
    assert (beside / "model.safetensors").read_text() == "tuned by hand"
    assert "keeping " in capsys.readouterr().err


def test_an_artifact_of_the_users_inside_another_is_not_a_part_of_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_training(out, False, 0)
    run_edit(out / "edits", False, 0)
    before = {p: p.read_bytes() for p in (out / "edits").rglob("*")}
    run_training(out, True, 1)
    assert {p: p.read_bytes() for p in (out / "edits").rglob("*")} == before
