"""Speed of ``edit --editor claude`` and ``eval-winrate --judge claude`` relative to a bare loop over the SDK.

Both use a local fake server and alternate. The bare loop sends the same requests with the same concurrency, without a
journal, retries or gates. Also measures the peak memory of ``edit``. Writes docs/results/claude_speed.json.

    python bench/speed/claude_speed.py [--rows 2000] [--delay 0.2] [--concurrency 50] [--runs 3]
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tokalign import __version__

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for the tests' fake server

from tests.fake_editor import serving  # noqa: E402

PROGRAM = str(Path(sys.executable).parent / "tokalign")
PAID = "--model m --allow-unpriced --quiet"
EDIT = f"edit world/preferences --editor claude --no-re-ask {PAID}"
PROMPTS, CANDIDATES = 805, 5
"""Prompts (as many as AlpacaEval has) and candidates to judge, each pair in both orders."""
JUDGE = f"eval-winrate --prompts world/test --reference reference.jsonl --judge claude {PAID}"


def measure(command: list[str], folder: Path) -> tuple[float, int]:
    """Run a command. Returns its seconds and its peak resident memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return time.perf_counter() - began, usage.ru_maxrss // 1024


def edits(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Requests of ``edit``."""
    from tokalign.artifacts.schemas import Preference
    from tokalign.config.methods import EditOptions
    from tokalign.data import dataset
    from tokalign.editors.claude import ClaudeEditor

    source = str(folder / "world" / "preferences")
    editor = ClaudeEditor(EditOptions(editor="claude", model="m"), folder)
    return [editor.request(row) for row in dataset.read_rows(source, Preference, "preferences", limit=rows)]


def judgements(folder: Path) -> list[dict[str, Any]]:
    """Requests of ``eval-winrate``."""
    from tokalign.config.methods import JudgeOptions
    from tokalign.judges import ORDERS, Answer, Pairing
    from tokalign.judges.claude import ClaudeJudge, Pairings

    sides = {name: read(folder / f"{name}.jsonl") for name in ("reference", *map(str, range(CANDIDATES)))}
    reference = sides.pop("reference")
    pairs = [
        Pairing(r["id"], r["prompt"], name, Answer(r["response"]), Answer(c["response"]))
        for name, rows in sides.items()
        for r, c in zip(reference, rows, strict=True)
    ]
    judge = ClaudeJudge(JudgeOptions(judge="claude", model="m"), folder)
    return [judge.request(shown) for shown in Pairings(pairs, ORDERS)]


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def respond(folder: Path) -> None:
    """Write responses of the reference and of the candidates to the test prompts."""
    prompts = read(folder / "world" / "test" / "data.jsonl")
    for name in ("reference", *range(CANDIDATES)):
        rows = [
            {**p, "response": f"Response {name} to this, which is {'good ' * (k % 3)}{k}."}
            for k, p in enumerate(prompts)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def bare(requests: list[dict[str, Any]], concurrency: int) -> None:
    """Send all requests in a bare loop over the SDK."""
    import anthropic

    async def send_all() -> None:
        client, semaphore = anthropic.AsyncAnthropic(), asyncio.Semaphore(concurrency)

        async def send(request: dict[str, Any]) -> None:
            async with semaphore:
                await client.messages.create(**request)

        await asyncio.gather(*(send(r) for r in requests))

    asyncio.run(send_all())


def compare(ours: list[str], theirs: list[str], requests: int, runs: int, folder: Path) -> dict[str, Any]:
    """Alternate the command (``ours``) and the bare loop (``theirs``); return the medians of both and their ratio."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for run in range(runs):
        seconds["theirs"].append(measure(theirs, folder)[0])
        seconds["ours"].append(measure([*ours, "--out", f"{ours[1]}-{run}"], folder)[0])
        print(f"{ours[1]}: bare loop {seconds['theirs'][-1]:.1f} s, command {seconds['ours'][-1]:.1f} s", flush=True)
    mine, loop = (statistics.median(seconds[side]) for side in ("ours", "theirs"))
    return {
        "requests": requests,
        "seconds": round(mine, 2),
        "bare_loop_seconds": round(loop, 2),
        "ratio": round(mine / loop, 3),
    }


def main() -> None:
    """Measure both commands, then the memory of ``edit`` at two sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="rows to edit")
    parser.add_argument("--delay", type=float, default=0.2, help="response time of the server in seconds")
    parser.add_argument("--concurrency", type=int, default=50, help="concurrent requests")
    parser.add_argument("--runs", type=int, default=3, help="runs of each command and loop")
    parser.add_argument("--bare", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        folder = Path(args.bare[1])
        return bare(edits(folder, args.rows) if args.bare[0] == "edit" else judgements(folder), args.concurrency)

    with tempfile.TemporaryDirectory() as temporary:
        folder, many = Path(temporary), 10 * args.rows
        world = f"playground --out world --sft 1 --prompts 1 --heldout 1 --test {PROMPTS} --preferences {many} --quiet"
        measure([PROGRAM, *world.split()], folder)
        respond(folder)
        concurrency = ["--concurrency", str(args.concurrency)]
        edit, judge = [PROGRAM, *EDIT.split(), *concurrency], [PROGRAM, *JUDGE.split(), *concurrency]
        judge += [part for k in range(CANDIDATES) for part in ("--candidate", f"c{k}={k}.jsonl")]
        loops = {
            what: [sys.executable, __file__, "--bare", what, temporary, "--rows", str(args.rows), *concurrency]
            for what in ("edit", "judge")
        }
        with serving("--delay", str(args.delay)):
            edited = compare([*edit, "--limit", str(args.rows)], loops["edit"], args.rows, args.runs, folder)
            judged = compare(judge, loops["judge"], 2 * PROMPTS * CANDIDATES, args.runs, folder)
        with serving():
            sizes = (args.rows, many)
            peaks = [measure([*edit, "--limit", str(n), "--out", f"m-{n}"], folder)[1] for n in sizes]
    result = {
        "command": "python bench/speed/claude_speed.py",
        "tokalign": __version__,
        "cores": os.cpu_count(),
        "delay": args.delay,
        "concurrency": args.concurrency,
        "edit": edited,
        "judge": judged,
        "peak_mb": {str(n): peak for n, peak in zip(sizes, peaks, strict=True)},
        "memory_ratio": round(peaks[1] / peaks[0], 3),
    }
    (ROOT / "docs" / "results" / "claude_speed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
