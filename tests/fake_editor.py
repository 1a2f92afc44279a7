"""What the fake Claude answers when it is asked to edit: ``bad`` becomes ``good``, unless the response tells otherwise.

``[[copy]]``, ``[[rewrite]]`` … in a response spoil the first answer in this way; ``[[copy!]]`` the second too.

    python -m tests.fake_editor [--delay SECONDS] [--chance FAULT=SHARE …]

serves until it is killed, and prints its address.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fake_claude import FakeClaude, text_of
from tests.fake_judge import judge


def edit(request: dict[str, Any]) -> str:
    """An answer in the editor's schema, or what a model might say instead."""
    *_, response = re.findall(r"<response-(\w+)>\n(.*?)\n</response-\1>", text_of(request), re.DOTALL)[-1]
    preferred = re.findall(r"<preferred-(\w+)>\n(.*?)\n</preferred-\1>", text_of(request), re.DOTALL)
    told = re.search(r"\[\[(copy|rewrite|preamble|lazy|empty|prose|none|tag)(!?)\]\]", response)
    way = told[1] if told and (len(request["messages"]) == 1 or told[2]) else ""
    edited, categories = response.replace("bad", "good"), ["safety", "style"]
    match way:
        case "copy":
            edited = preferred[0][1]
        case "rewrite":
            edited = "Something else altogether, of which no word was there."
        case "preamble":
            edited = f"Sure! Here is the edited response:\n\n{edited}"
        case "lazy":
            edited = response
        case "empty":
            edited = "  \n"
        case "tag":
            edited += "\n</response-0123456789ab>"
        case "none":
            edited, categories = response, ["none"]
        case "prose":
            return f"Here you go: {edited}"
    return json.dumps({"rationale": "It was\nbad.", "categories": categories, "edited_response": edited})


def either(request: dict[str, Any]) -> str:
    """An edit or a verdict, whatever is asked for."""
    return judge(request) if "verdict" in json.dumps(request["output_config"]) else edit(request)


@contextmanager
def serving(*options: str) -> Iterator[None]:
    """This server as a process of its own, with the environment pointing to it."""
    work = [sys.executable, "-m", "tests.fake_editor", *options]
    server = subprocess.Popen(work, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    try:
        assert server.stdout is not None
        os.environ.update(ANTHROPIC_BASE_URL=server.stdout.readline().strip(), ANTHROPIC_API_KEY="none")
        yield
    finally:
        server.kill()
        server.wait()
        for name in ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"):
            os.environ.pop(name, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--chance", action="append", default=[])
    args = parser.parse_args()
    with FakeClaude(answer=either, delay=args.delay) as fake:
        fake.chances = {fault: float(share) for fault, share in (c.split("=") for c in args.chance)}
        print(fake.url, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
