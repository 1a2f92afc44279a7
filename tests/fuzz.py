"""Damaged and hostile files, made from good ones by chance: only errors of ours may come of them.

    python -m tests.fuzz [--inputs 50000] [--minutes 5] [--seed 0] [--only labels]

An input passes if it is read, or refused with an error of ours, within time and memory, and if nothing is half-written
or lost by it. Workers do many inputs each; one that dies takes its input along as a finding. Every finding names the
number of its input: ``--first N --inputs 1`` tries it again.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tests.conftest import ROOT
from tests.manifests import change
from tokalign import editors
from tokalign.annotation.store import AnnotationStore, Task
from tokalign.artifacts import model_files, resumable
from tokalign.artifacts.manifest import MANIFEST, PLAN, open_artifact
from tokalign.artifacts.schemas import Edit, Judgement, Preference, PromptRow, RecordedEdit, ResponseRow, Sft
from tokalign.artifacts.token_labels import iter_labels
from tokalign.claude.journal import Journal
from tokalign.config.options import Format, ReadOptions
from tokalign.config.stages import EditConfig, ReportConfig, ShowConfig, VerifyConfig
from tokalign.data import dataset
from tokalign.errors import TokalignError
from tokalign.models.tokenizer import Tokenizer
from tokalign.report import page, show, verify
from tokalign.runtime.disk import SEAL, sealed, sha256
from tokalign.stages import edit

DATA = ROOT / "data"
SECONDS, MEGABYTES = 5.0, 1024
"""What an input may take."""
BATCH = 100
"""Inputs a worker does before it is followed by another."""
Draw = random.Random

NASTY: tuple[Any, ...] = (
    None, True, 0, -1, 2**63, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", " ", "\0", "a\0b", "\ud800",
    "\x1b[31m", "\u202e", "../../etc/passwd", "/etc/passwd", "=1+1", "[bold]", "{{7*7}}", "<script>", "x" * 5000,
    [], {}, [[]], [None], {"role": "user"}, {"": None}, [{"role": "user", "content": None}], "1e400", "checkpoint-old",
)  # fmt: skip
BYTES = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"NaN", b"Infinity", b"1e400", b"-", b"[" * 3000, b'{"a":' * 3000, b"]" * 100,
    b'"', b"\\", b"\\ud800", b"\n", b"\r", b",", b"\xef\xbb\xbf", b"9" * 5000, b"\x1b", b"\xe2\x80\xae", b"{}", b"null",
)  # fmt: skip
LAYOUTS: dict[Format, dict[str, Any]] = {
    "tokalign": {"id": "a", "prompt": "Q?", "chosen": "Good.", "rejected": "Bad.", "original": "Bad.",
                 "edited": "Good.", "response": "Good.", "candidate": "a", "order": "reference_first",
                 "preference": 1.5},
    "trl": {"prompt": [{"role": "user", "content": "Q?"}], "chosen": [{"role": "assistant", "content": "Good."}],
            "rejected": [{"role": "assistant", "content": "Bad."}]},
    "hh-rlhf": {"chosen": "\n\nHuman: Q?\n\nAssistant: Good.", "rejected": "\n\nHuman: Q?\n\nAssistant: Bad."},
    "alpaca-farm": {"instruction": "Q?", "input": "", "output_1": "Good.", "output_2": "Bad.", "preference": 1},
    "ultrafeedback": {"instruction": "Q?", "completions": [{"response": "Good.", "overall_score": 9.0},
                                                          {"response": "Bad.", "overall_score": 1.0}]},
    "qa-feedback": {"question": "Q?", "passages": [["T", "p"]], "prediction 1": "Bad.",
                    "feedback": {"corrected-prediction": "Good."}},
    "alpaca-eval": {"instruction": "Q?", "output": "Good.", "generator": "g"},
    "orca": {"system": "S", "question": "Q?", "chosen": "Good.", "rejected": "Bad."},
    "llama-factory": {"conversations": [{"from": "human", "value": "Q?"}], "system": "S",
                      "chosen": {"from": "gpt", "value": "Good."}, "rejected": {"from": "gpt", "value": "Bad."}},
    "sharegpt": {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "Good."}]},
    "argilla": {"instruction": "Q?", "chosen_response": "Good.", "rejected_response": "Bad."},
    "nectar": {"prompt": "\n\nHuman: Q?\n\nAssistant: ", "answers": [{"answer": "Good.", "rank": 1.0},
                                                                   {"answer": "Bad.", "rank": 2.0}]},
    "shp": {"history": "Q?", "human_ref_A": "Good.", "human_ref_B": "Bad.", "labels": 1},
    "pku-saferlhf": {"prompt": "Q?", "response_0": "Good.", "response_1": "Bad.", "better_response_id": 0},
    "helpsteer": {"prompt": "Q?", "response_1": "Good.", "response_2": "Bad.", "preference_strength": -1},
}  # fmt: skip
ROWS = (Preference, RecordedEdit, Edit, Sft, PromptRow, ResponseRow, Judgement)


def mutated(raw: bytes, draw: Draw) -> bytes:
    """Some bytes changed, put in, taken out, repeated."""
    found = bytearray(raw)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at, options = draw.randrange(len(found) + 1), draw.randrange(6)
        end = min(len(found), at + draw.choice([1, 2, 8, 100]))
        if options == 0 and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif options == 1:
            found[at:end] = b""
        elif options == 2:
            found[at:at] = draw.choice(BYTES)
        elif options == 3:
            found[at:end] = bytes(draw.randrange(256) for _ in range(end - at))
        elif options == 4:
            found[at:at] = found[at:end] * draw.choice([1, 3, 50])
        elif draw.random() < 0.3:
            del found[at:]
    return bytes(found)


def changed(value: Any, draw: Draw) -> Any:
    """A JSON value with something in it replaced, taken out, renamed or put deep inside."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        options = draw.random()
        if options < 0.12:
            return {k: v for k, v in value.items() if k != key}
        if options < 0.2:
            return {**value, str(draw.choice(NASTY)): value[key]}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], changed(value[at], draw), *value[at + 1 + (draw.random() < 0.1) :]]
    if draw.random() < 0.05:
        for _ in range(draw.choice([10, 70, 500])):
            value = [value]
        return value
    return draw.choice(NASTY)


def quietly(work: Callable[[], Any]) -> None:
    """Do it, whatever it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        work()


def rows(folder: Path, draw: Draw) -> None:
    """A file of rows in some layout."""
    name = draw.choice(list(LAYOUTS))
    made = [dict(LAYOUTS[name], id=f"r{k}") for k in range(3)]
    if draw.random() < 0.6:
        made[draw.randrange(3)] = changed(made[0], draw)
    suffix = draw.choice([".jsonl", ".jsonl", ".json", ".csv"])
    text = "\n".join(json.dumps(r) for r in made) if suffix == ".jsonl" else json.dumps(made)
    if suffix == ".csv":
        cells = [",".join('"' + str(v if isinstance(v, str) else json.dumps(v)).replace('"', '""') + '"'
                          for v in (r.values() if isinstance(r, dict) else [r])) for r in made]  # fmt: skip
        text = "\n".join([",".join(LAYOUTS[name] | {"id": ""}), *cells])
    raw = text.encode(errors="surrogatepass")
    if draw.random() < 0.1:
        raw = gzip.compress(raw) if draw.random() < 0.5 else pa.compress(raw, "zstd", asbytes=True)
    (folder / f"rows{suffix}").write_bytes(mutated(raw, draw) if draw.random() < 0.5 else raw)
    options = ReadOptions(format=draw.choice(["auto", "auto", name]), strict=draw.random() < 0.2)
    row, kind = draw.choice(ROWS), draw.choice(["preferences", "edits", "sft", "prompts", "responses"])
    list(dataset.read_rows(folder / f"rows{suffix}", row, kind, options=options))


def manifests(folder: Path, draw: Draw) -> None:
    """An artifact whose manifest was damaged, or written anew by a stranger; shown, verified, reported."""
    name = draw.choice(["preferences", "edits", "labels", "winrates", "responses-good", "prompts", "sft"])
    art = Path(shutil.copytree(DATA / name, folder / name))
    if draw.random() < 0.4:
        (art / MANIFEST).write_bytes(mutated((art / MANIFEST).read_bytes(), draw))
    else:
        whole = json.loads((art / MANIFEST).read_text())
        whole.pop(SEAL, None)
        for _ in range(draw.choice([1, 1, 2])):
            part = draw.choice(["stats", "stats", "files", "inputs", "rows", "usage", ""])
            whole = {**whole, part: changed(whole[part], draw)} if part in whole else changed(whole, draw)
            if not isinstance(whole, dict):
                break
        try:
            text = sealed(whole, indent=2) if isinstance(whole, dict) else json.dumps(whole)
        except ValueError:
            text = json.dumps(whole)
        (art / MANIFEST).write_bytes(text.encode(errors="surrogatepass"))
    which = draw.random()
    if which < 0.4:
        quietly(lambda: show.run(ShowConfig(artifact=art, limit=2, pager=False)))
    elif which < 0.6:
        quietly(lambda: show.run(ShowConfig(artifact=folder, pager=False)))
    elif which < 0.8:
        quietly(lambda: verify.run(VerifyConfig(folders=[folder])))
    else:
        reported(folder)


def reported(folder: Path) -> None:
    """A page of all that lies there; nothing of one that comes to nothing."""
    out = folder.parent / f"{folder.name}.html"
    try:
        quietly(lambda: page.run(ReportConfig(folders=[folder], out=out, quiet=True)))
    except TokalignError:
        assert not out.exists()
        raise
    finally:
        out.unlink(missing_ok=True)


def refit(art: Path, *names: str) -> None:
    """A stranger makes the manifest fit what they changed."""

    def by(manifest: dict[str, Any]) -> None:
        for entry in manifest["files"]:
            if entry["name"] in names:
                entry.update(sha256=sha256(art / entry["name"]), bytes=(art / entry["name"]).stat().st_size)

    change(art, by)


def labels(folder: Path, draw: Draw) -> None:
    """Damaged labels whose hash fits."""
    art = Path(shutil.copytree(DATA / "labels", folder / "labels"))
    path = art / "data.arrow"
    path.write_bytes(mutated(path.read_bytes(), draw))
    refit(art, "data.arrow")
    for _ in iter_labels(open_artifact(art)):
        pass


def data(folder: Path, draw: Draw) -> None:
    """An artifact whose data is damaged and whose hash fits; shown, and edited."""
    name, file = draw.choice([("edits", "data.jsonl"), ("preferences", "data.jsonl"), ("winrates", "data.json"),
                              ("winrates", "compared.jsonl"), ("responses-good", "data.jsonl")])  # fmt: skip
    art = Path(shutil.copytree(DATA / name, folder / name))
    (art / file).write_bytes(mutated((art / file).read_bytes(), draw))
    refit(art, file)
    if name == "preferences":
        edited(art, folder / "out")
    else:
        quietly(lambda: show.run(ShowConfig(artifact=art, limit=3, pager=False)))


def edited(source: Path, out: Path) -> None:
    """Edits by rules; a run that is refused leaves nothing."""
    try:
        edit.run(EditConfig(source=str(source), editor="rules", out=out, limit=20, quiet=True))
    except TokalignError:
        assert not (out / MANIFEST).exists() and not list(out.glob(".*.tmp"))
        raise
    open_artifact(out, "edits")


def plans(folder: Path, draw: Draw) -> None:
    """An unfinished run whose plan or progress was damaged: nothing is begun anew in silence, or thrown away."""
    out = folder / "out"
    config = EditConfig(source=str(DATA / "preferences"), editor="rules", out=out, limit=20, quiet=True)
    chunk, every, editors.CHUNK, resumable.EVERY = editors.CHUNK, resumable.EVERY, 5, 0.0
    kept, taken = edit._keep, [0]

    def cut(edits: list[Edit], file: Any) -> None:
        taken[0] += 1
        if taken[0] == 3:
            raise KeyboardInterrupt
        kept(edits, file)

    try:
        edit._keep = cut
        with contextlib.suppress(KeyboardInterrupt):
            edit.run(config)
        edit._keep = kept
        path = out / draw.choice([PLAN, "progress.json"])
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, draw))
        own = {".lock", *({PLAN} if path.name != PLAN else ())}  # when a run goes on, its plan says since when
        before = {p.name: p.read_bytes() for p in out.iterdir() if p.name not in own}
        try:
            edit.run(config)
        except TokalignError:
            assert {p.name: p.read_bytes() for p in out.iterdir() if p.name not in own} == before
            raise
        assert before[path.name] == whole, "damage was not noticed"
    finally:
        edit._keep, editors.CHUNK, resumable.EVERY = kept, chunk, every


LOG = [
    {"event": "sent", "key": "k", "most": 0.5},
    {"event": "answered", "key": "k", "cost": 0.25, "answer": {"content": [], "usage": {"input_tokens": 1}}},
    {"event": "planned", "key": "p", "keys": ["a"], "most": 1.0, "rates": {}, "at": "2026-01-01T00:00:00+00:00"},
    {"event": "created", "key": "p", "batch": "b"},
    {"event": "closed", "key": "p"},
    {"event": "discarded", "key": ""},
]
WORK = {"text": "t", "categories": ["style"], "rationale": "r"}
NOTES = [
    {"event": "draft", "key": "k", "work": WORK},
    {"event": "decided", "key": "k", "verdict": "edited", "work": WORK, "annotator": "", "version": 1},
]


def journals(folder: Path, draw: Draw) -> None:
    """What was paid, or done by a person; a file that is refused stays as it is."""
    paid = draw.random() < 0.6
    entries: list[Any] = list(LOG if paid else NOTES)
    if draw.random() < 0.6:
        at = draw.randrange(len(entries))
        entries[at] = changed(entries[at], draw)
    raw = "".join(json.dumps(e) + "\n" for e in entries).encode()
    path = folder / "log.jsonl"
    path.write_bytes(raw := mutated(raw, draw) if draw.random() < 0.6 else raw)
    try:
        if paid:
            with Journal(path) as journal:
                assert 0 <= journal.committed < float("inf")
        else:
            with AnnotationStore([Task("a", "Q?", "o", "o", None)], path, "me"):
                pass
    except TokalignError:
        assert path.read_bytes() == raw
        raise


def models(folder: Path, draw: Draw) -> None:
    """The folder of a model."""
    art = Path(shutil.copytree(DATA / "labels" / "tokenizer", folder / "model"))
    config: dict[str, Any] = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "vocab_size": 500,
        "id2label": {"0": "a"},
    }
    (art / "config.json").write_text(json.dumps(config))
    of = {"dtype": "F32", "shape": [1, 500]}
    tensors = {"a": {**of, "data_offsets": [0, 2000]}, "b": {**of, "data_offsets": [2000, 4000]}}
    header = json.dumps(tensors).encode()
    (art / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4000))
    path = draw.choice(sorted(p for p in art.iterdir() if p.is_file()))
    if path.name == "config.json" and draw.random() < 0.5:
        path.write_text(json.dumps(changed(config, draw)))
    else:
        path.write_bytes(mutated(path.read_bytes(), draw))
    model_files.check_model(art)
    tokenizer = Tokenizer.load(art)
    tokenizer.prompts(["Q?", [{"role": "system", "content": "S"}, {"role": "user", "content": "Q?"}]])
    tokenizer.responses(["An answer."])


def tables(folder: Path, draw: Draw) -> None:
    """Arrow and Parquet of somebody else's."""
    import pyarrow.parquet as pq

    suffix = draw.choice([".arrow", ".parquet"])
    path = folder / f"rows{suffix}"
    made = pa.Table.from_pylist([LAYOUTS[draw.choice(["tokalign", "trl", "hh-rlhf"])]] * 5)
    if suffix == ".parquet":
        pq.write_table(made, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(made)
    path.write_bytes(mutated(path.read_bytes(), draw))
    list(dataset.read_rows(path, Preference, "preferences"))


TARGETS: dict[str, tuple[Callable[[Path, Draw], None], float]] = {
    "rows": (rows, 40), "manifests": (manifests, 20), "labels": (labels, 8), "data": (data, 8), "plans": (plans, 6),
    "journals": (journals, 15), "models": (models, 1.5), "tables": (tables, 1.5),
}  # fmt: skip
"""What is tried, and how often beside the others."""


class Finding(NamedTuple):
    """An input of which something else came than it may."""

    number: int
    target: str
    problem: str


def try_one(number: int, seed: int, only: str, folder: Path) -> tuple[str, str, str]:
    """One input: its target, how it ended (read, refused), and what is wrong, if anything is."""
    draw = random.Random(f"{seed} {number}")
    names = [only] if only else list(TARGETS)
    target = draw.choices(names, [TARGETS[name][1] for name in names])[0]
    folder.mkdir()
    began, end, problem = time.monotonic(), "read", ""
    try:
        TARGETS[target][0](folder, draw)
    except TokalignError as e:
        end = "refused"
        if not str(e).strip():
            problem = "an error without words"
    except BaseException as e:
        problem = f"{type(e).__name__}: {str(e)[:200]}"
    took = time.monotonic() - began
    if not problem and took > SECONDS:
        problem = f"{took:.1f} s"
    shutil.rmtree(folder, ignore_errors=True)
    return target, end, problem


def work(numbers: range, seed: int, only: str, folder: Path, log: Path) -> None:
    """Some inputs, in a process of its own: a line before each, and one of what came of it."""
    with log.open("w") as told:
        for number in numbers:
            told.write(f"{number}\n")
            told.flush()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            target, end, problem = try_one(number, seed, only, folder / f"x{number}")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if peak > before and peak >> 10 > MEGABYTES:
                problem = problem or f"{peak >> 10} MB"
            told.write(json.dumps([number, target, end, problem]) + "\n")
            told.flush()


def fuzz(
    inputs: int, seconds: float, seed: int = 0, first: int = 0, only: str = "", jobs: int = 2
) -> tuple[Counter[str], list[Finding]]:
    """Try inputs until there are enough or the time is up; how they ended, and the findings."""
    ends: Counter[str] = Counter()
    findings: list[Finding] = []
    Tokenizer.load(DATA / "labels" / "tokenizer")  # what takes long to import is imported before workers are forked
    until, at, running = time.monotonic() + seconds, first, dict[int, tuple[range, Path]]()
    with tempfile.TemporaryDirectory() as temporary:
        while running or (at < first + inputs and time.monotonic() < until):
            while len(running) < jobs and at < first + inputs and time.monotonic() < until:
                numbers = range(at, min(at + BATCH, first + inputs))
                at = numbers.stop
                log = Path(temporary) / f"log-{numbers.start}"
                if not (pid := os.fork()):
                    try:
                        work(numbers, seed, only, Path(temporary), log)
                    finally:
                        os._exit(0)
                running[pid] = (numbers, log)
            pid, status = os.wait()
            numbers, log = running.pop(pid)
            lines = log.read_text().splitlines() if log.exists() else []
            for line in (line for line in lines if line.startswith("[")):
                number, target, end, problem = json.loads(line)
                ends[f"{target} {end}"] += 1
                findings += [Finding(number, target, problem)] if problem else []
            if os.WIFSIGNALED(status) or (lines and not lines[-1].startswith("[")):
                lost = int(lines[-1]) if lines and not lines[-1].startswith("[") else numbers.start
                findings.append(Finding(lost, "?", f"the process ended: status {status}"))
                at = min(at, lost + 1) if not running else at
    return ends, findings


def main() -> None:
    """See the module."""

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=list(TARGETS), default="")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    began = time.monotonic()
    ends, findings = fuzz(args.inputs, 60 * args.minutes, args.seed, args.first, args.only, args.jobs)
    for name, n in sorted(ends.items()):
        print(f"{name:>20} {n}")
    for f in findings[:40]:
        print(f"input {f.number} ({f.target}): {f.problem}")
    print(f"{sum(ends.values())} inputs, {len(findings)} findings, {time.monotonic() - began:.0f} s")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
