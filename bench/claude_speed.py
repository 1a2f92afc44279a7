"""``edit --editor claude`` against a bare loop over the SDK, on one local server, in turns; and its memory.

The bare loop sends the very same requests, as many at a time, and keeps nothing: no journal, no retries, no gates.
Writes docs/results/claude_speed.json.

    python bench/claude_speed.py [--rows 2000] [--delay 0.2] [--concurrency 50] [--runs 3]
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokalign import __version__

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = str(Path(sys.executable).parent / "tokalign")
EDIT = "edit world/preferences --editor claude --model m --allow-unpriced --no-re-ask --quiet"


@contextmanager
def serving(delay: float) -> Iterator[None]:
    """A local server that takes so long for every answer."""
    work = [sys.executable, "-m", "tests.fake_editor", "--delay", str(delay)]
    server = subprocess.Popen(work, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        os.environ.update(ANTHROPIC_BASE_URL=server.stdout.readline().strip(), ANTHROPIC_API_KEY="none")
        yield
    finally:
        server.kill()
        server.wait()


def measure(command: list[str], folder: Path) -> tuple[float, int]:
    """Seconds and peak resident memory (MB) of a command."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return time.perf_counter() - began, usage.ru_maxrss // 1024


def bare(folder: Path, rows: int, concurrency: int) -> None:
    """The loop that one writes first."""
    import anthropic

    from tokalign import sources
    from tokalign.config import EditConfig
    from tokalign.editors.claude import ClaudeEditor
    from tokalign.schemas import Preference

    source = str(folder / "world" / "preferences")
    editor = ClaudeEditor(EditConfig(source=source, out=folder, editor="claude", model="m"))
    requests = [editor.request(row) for row in sources.read_rows(source, Preference, "preferences", limit=rows)]

    async def go() -> None:
        client, places = anthropic.AsyncAnthropic(), asyncio.Semaphore(concurrency)

        async def one(request: dict[str, object]) -> None:
            async with places:
                await client.messages.create(**request)  # type: ignore[call-overload]

        await asyncio.gather(*(one(r) for r in requests))

    asyncio.run(go())


def main() -> None:
    """Measure both in turns, then memory at two sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--delay", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        return bare(args.bare, args.rows, args.concurrency)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        world = f"playground --out world --sft 1 --prompts 1 --heldout 1 --test 1 --preferences {10 * args.rows}"
        measure([PROGRAM, *world.split(), "--quiet"], folder)
        edit = [PROGRAM, *EDIT.split(), "--concurrency", str(args.concurrency)]
        loop = [sys.executable, __file__, "--bare", temporary, "--rows", str(args.rows)]
        ours, theirs = [], []
        with serving(args.delay):
            for run in range(args.runs):
                theirs.append(measure([*loop, "--concurrency", str(args.concurrency)], folder))
                ours.append(measure([*edit, "--limit", str(args.rows), "--out", f"edits-{run}"], folder))
                print(f"bare loop {theirs[-1][0]:.1f} s, edit {ours[-1][0]:.1f} s", flush=True)
        with serving(0.0):
            peaks = [
                measure([*edit, "--limit", str(n), "--out", f"m-{n}"], folder)[1] for n in (args.rows, 10 * args.rows)
            ]
    seconds = [statistics.median(s for s, _ in found) for found in (ours, theirs)]
    result = {
        "command": "python bench/claude_speed.py",
        "tokalign": __version__,
        "cores": os.cpu_count(),
        "rows": args.rows,
        "delay": args.delay,
        "concurrency": args.concurrency,
        "edit_seconds": round(seconds[0], 2),
        "bare_loop_seconds": round(seconds[1], 2),
        "ratio": round(seconds[0] / seconds[1], 3),
        "peak_mb": {str(n): peak for n, peak in zip((args.rows, 10 * args.rows), peaks, strict=True)},
        "memory_ratio": round(peaks[1] / peaks[0], 3),
    }
    (ROOT / "docs" / "results" / "claude_speed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
