"""Kill a stage at random moments, run it again, and compare what it writes with an uninterrupted run.

    python -m tests.soak [--runs 100] [--stage edit]

Every run is a process of its own, forked from one that has imported everything, and is killed by SIGKILL up to
three times before it is left to end. ``make test`` does ten runs a stage. Stages that are paid ask a local server,
which loses some of its answers and keeps a ledger of what it charged.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from tests.fake_editor import serving
from tests.forked import load_everything
from tokalign import editors
from tokalign.artifacts import resumable
from tokalign.artifacts.manifest import JOURNAL
from tokalign.artifacts.workspace import PROGRESS
from tokalign.claude import batches, retry
from tokalign.claude.journal import Journal
from tokalign.cli import UNRESOLVED
from tokalign.models import sampler
from tokalign.stages import diff, edit, generate, score, winrate

SETTINGS = "--batch-size 4 --save-every 1"
PPO = f"{SETTINGS} --steps 4 --max-new-tokens 12 --lr 1e-3 --eval-prompts heldout --eval-every 2"
PAID = "--model m --prices prices.toml --concurrency 4"
BATCH = f"{PAID} --batch --poll 0.02 --resend-lost"
PRICES = "[m]\ninput = 1.0\noutput = 5.0\ncache_write_5m = 1.25\ncache_write_1h = 2.0\ncache_read = 0.1\n"
JUDGED = "eval-winrate --prompts prompts --reference plain.jsonl --candidate a=edited.jsonl --judge claude"
STAGES = {
    "edit": "edit preferences",
    "diff": "diff edits --tokenizer policy",
    "train-rm": f"train-rm labels --model policy --level token --steps 6 {SETTINGS}",
    "train-ppo": f"train-ppo prompts --policy policy --reward-model rm {PPO}",
    "train-sft": f"train-sft sft --model tiny --vocab 500 --steps 6 {SETTINGS}",
    "generate": "generate prompts --sampler builtin --policy policy --max-new-tokens 12 --n 2 --reward-model rm",
    "score": "score edits --reward-model rm",
    "edit-claude": f"edit preferences --limit 30 --editor claude {PAID}",
    "edit-claude-batch": f"edit preferences --limit 30 --editor claude {BATCH}",
    "judge-claude": f"{JUDGED} {PAID}",
    "judge-claude-batch": f"{JUDGED} {BATCH}",
    "eval-winrate": "eval-winrate --prompts prompts --reference policy --candidate a=policy --max-new-tokens 12"
    " --sampler builtin",
}
"""Each stage but for ``--out``, in a folder that :func:`prepare` has filled."""

PREPARE = (
    "playground --out . --preferences 60 --sft 60 --prompts 24 --heldout 8 --test 1",
    "edit preferences --out edits",
    "train-sft sft --model tiny --vocab 500 --steps 3 --batch-size 8 --out policy",
    "diff edits --tokenizer policy --out labels",
    "train-rm labels --model policy --level token --steps 2 --out rm",
)


class Outcome(NamedTuple):
    """What became of the runs of one stage."""

    runs: int
    kills: int
    """Runs that a kill met while they were at work."""
    went_on: int
    """Kills that left something to go on from."""
    unequal: list[str]
    """Files that differ from the uninterrupted run's, and runs that paid for other answers than that one."""


def start(command: str, folder: Path) -> int:
    """Run a command in a child process; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    os.chdir(folder)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    errors = os.open(folder / "stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    # Tiny inputs: cut and save as often as large ones would be.
    resumable.EVERY = 0.0
    for stage in (edit, diff, generate, score, winrate):
        vars(stage)["CHUNK"] = 4
    editors.CHUNK = sampler.CHUNK = 4
    batches.COUNT = 25
    retry.random.uniform = lambda *_: 0.01  # type: ignore[attr-defined]  # between retries
    sys.argv = ["tokalign", *command.split()]
    from tokalign.cli import app

    code = 1
    try:
        app()
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException as e:
        print(repr(e), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(command: str, folder: Path) -> float:
    """Run a command to its end; returns the seconds it took."""
    began = time.monotonic()
    _, status = os.waitpid(start(command, folder), 0)
    if os.waitstatus_to_exitcode(status) not in (0, UNRESOLVED):
        raise RuntimeError(f"{command}: status {status}: {(folder / 'stderr.txt').read_text()[-2000:]}")
    return time.monotonic() - began


def prepare(folder: Path) -> None:
    """The inputs of all stages."""
    load_everything()  # so that a fork need not
    for command in PREPARE:
        finish(command, folder)
    (folder / "prices.toml").write_text(PRICES)
    prompts = [json.loads(line) for line in (folder / "prompts" / "data.jsonl").read_text().splitlines()]
    for name, said in (("plain", "It is a thing."), ("edited", "It is a good thing.")):
        rows = [{**row, "response": f"{said} {k}"} for k, row in enumerate(prompts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def result(out: Path) -> dict[str, str]:
    """What must be equal: rows and weights, by hash."""
    kept = [p for p in sorted(out.rglob("*")) if p.name.startswith("data.") or p.name == "model.safetensors"]
    final = [p for p in kept if not any(part.startswith("checkpoint-") for part in p.parts)]
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in final}


def soak(stage: str, runs: int, folder: Path, seed: int = 0, kills_at_least: int = 3) -> Outcome:
    """Kill and resume ``runs`` runs of a stage in a prepared folder.

    Where a stage is over so soon that few kills met it at work, or none left anything to go on from, there are
    up to twenty times as many runs.
    """
    if "claude" in stage and "ANTHROPIC_BASE_URL" not in os.environ:
        # Slow enough to be killed meanwhile, and it loses answers.
        chances = ["drop-after=0.02", "drop-before=0.01", "529=0.02", "html=0.01"]
        with serving("--delay", "0.01", *(part for c in chances for part in ("--chance", c))):
            return soak(stage, runs, folder, seed, kills_at_least)
    rng = random.Random(f"{stage} {seed}")
    seconds = finish(f"{STAGES[stage]} --out {stage}-whole-0", folder)
    expected = result(folder / f"{stage}-whole-0")
    done = kills = went_on = 0
    unequal: list[str] = []
    while done < runs or ((kills < kills_at_least or not went_on) and done < 20 * runs):
        charged = ledger()
        out = f"{stage}-{done}"
        command = f"{STAGES[stage]} --out {out}"
        for _ in range(rng.randint(1, 3)):
            pid = start(command, folder)
            time.sleep(rng.uniform(0.02, seconds))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status) and not (folder / out / "manifest.json").exists():
                kills += 1
                went_on += has_state(folder / out)
        finish(command, folder)
        got = result(folder / out)
        unequal += [f"{out}/{name}" for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)]
        unequal += paid_amiss(folder / f"{stage}-whole-0", folder / out, ledger() - charged)
        done += 1
    return Outcome(done, kills, went_on, unequal)


def ledger() -> int:
    """Answers that the server has charged so far."""
    if "ANTHROPIC_BASE_URL" not in os.environ:
        return 0
    with urllib.request.urlopen(f"{os.environ['ANTHROPIC_BASE_URL']}/ledger") as found:
        return int(json.load(found)["charged"])


def paid_amiss(whole: Path, out: Path, charged: int) -> list[str]:
    """What is wrong with what a run paid for, ``charged`` by the server, beside the uninterrupted one."""
    if not (out / JOURNAL).exists():
        return []
    with Journal(whole / JOURNAL) as expected, Journal(out / JOURNAL) as found:
        counted = found.charged == expected.charged <= charged <= found.charged + found.lost
        told = json.loads((out / "manifest.json").read_text())["usage"]["usd"]
        counted &= abs(found.spent - expected.spent) < 1e-9 and abs(told - found.spent) < 1e-5
        return [] if counted else [f"{out}: {charged} charged, {found.charged} answered, {found.lost} lost"]


def has_state(out: Path) -> bool:
    """Whether an unfinished run left something to go on from."""
    return any(out.rglob(PROGRESS)) or any(out.glob(JOURNAL)) or any(out.glob("checkpoints/checkpoint-*/sealed.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--stage", choices=list(STAGES), action="append")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        failed = False
        for stage in args.stage or STAGES:
            o = soak(stage, args.runs, folder)
            failed |= bool(o.unequal)
            print(
                f"{stage:>10}: {o.runs} runs, {o.kills} kills at work, {o.went_on} with something to go on from, ",
                end="",
            )
            print(f"{len(o.unequal)} files differ {o.unequal[:3]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
