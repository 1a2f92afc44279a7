"""Speed of the annotation page's server: its live diff relative to the diff alone, and 10,000 rows relative to 10.

This process sends the requests over one connection, alternating with direct calls of the diff. Writes
docs/results/human.json.

    python bench/speed/human.py [--words 2000] [--times 200]
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tokalign import __version__
from tokalign.core import diff
from tokalign.core.words import split

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"

PROGRAM = str(Path(sys.executable).parent / "tokalign")


class Page:
    """The running command with ``rows`` rows, the first of ``words`` words, and a connection to its server."""

    def __init__(self, folder: Path, rows: int, words: int) -> None:
        rng = random.Random(0)
        text = " ".join("".join(rng.choices("abcdefgh", k=rng.randint(2, 9))) for _ in range(words))
        source = folder / f"{rows}.jsonl"
        with source.open("w", encoding="utf-8") as f:
            for k in range(rows):
                row = {
                    "id": f"r{k}",
                    "prompt": f"Q{k}?",
                    "chosen": "x",
                    "rejected": f"{k} {text if not k else 'short text'}",
                }
                f.write(json.dumps(row) + "\n")
        work = [PROGRAM, "edit", str(source), "--editor", "human", "--no-open", "--out", str(folder / f"out-{rows}")]
        self.process = subprocess.Popen(work, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = re.search(r"http://(\S+)/open\?key=(\S+)", self.process.stderr.readline())
        assert found is not None
        self.text = f"0 {text}"
        self._connection = HTTPConnection(found[1])
        self._headers = {"cookie": f"tokalign-{found[1].split(':')[1]}={found[2]}", "origin": f"http://{found[1]}"}

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """Send one request. Returns the body of the response."""
        self._connection.request(method, path, json.dumps(body) if body is not None else None, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return content


def seconds(act: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main() -> None:
    """Measure alternately, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=2000, help="words of the text for the live diff")
    parser.add_argument("--times", type=int, default=200, help="number of requests of each kind")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        few, many = (Page(Path(temporary), rows, args.words) for rows in (10, 10_000))
        words = few.text.split(" ")
        live, pure = [], []
        for k in range(args.times):
            place = 1 + (k * 37) % (len(words) - 1)
            text = " ".join([*words[:place], "changed", *words[place + 1 :]])
            live.append(seconds(lambda text=text: few.request("POST", "/api/diff", {"at": 0, "text": text})))  # type: ignore[misc]
            pure.append(
                seconds(lambda text=text: diff.compare_words(split([few.text]), split([text]), diff.AlignOptions()))  # type: ignore[misc]
            )
        steps: dict[str, list[float]] = {"few": [], "many": []}
        for k in range(args.times):
            for name, page in (("few", few), ("many", many)):
                path = "/" if k % 3 == 0 else f"/api/row?client=x&at={1 + k % 9}" if k % 3 == 1 else "/api/row?client=x"
                steps[name].append(seconds(lambda page=page, path=path: page.request("GET", path)))  # type: ignore[misc]
        for page in (few, many):
            page.process.kill()
    typical = {name: statistics.median(found) for name, found in (("live", live), ("pure", pure), *steps.items())}
    result = {
        "command": "python bench/speed/human.py",
        "tokalign": __version__,
        "words": args.words,
        "diff_ms": round(1000 * typical["pure"], 2),
        "live_ms": round(1000 * typical["live"], 2),
        "live_over_diff": round(typical["live"] / typical["pure"], 2),
        "row_ms": {"10": round(1000 * typical["few"], 2), "10000": round(1000 * typical["many"], 2)},
        "many_over_few": round(typical["many"] / typical["few"], 2),
    }
    (RESULTS / "human.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
