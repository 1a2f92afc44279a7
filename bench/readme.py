"""Writes the README's tables and picture from what was measured.

``docs/results/headline.json`` comes from ``make headline``. A test fails when the README says anything else.

    python bench/readme.py
"""

import io
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS, PICTURE = ROOT / "README.md", ROOT / "docs" / "results", ROOT / "docs" / "labels.svg"
Result = dict[str, Any]


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def headline(result: Result) -> str:
    """Both arms over the seeds."""
    rows = []
    for s in result["seeds"]:
        won, error = s["win_rate"], s["standard_error"]
        arms = [f"{won[arm]:.1f} ± {error[arm]:.1f}" for arm in ("sequence", "token")]
        pairs = s["edited_over_original"]
        best = max(value for name, value in pairs.items() if name != "token")
        rows.append(
            [str(s["seed"]), *arms, f"{won['token'] - won['sequence']:+.1f}", f"{best:.3f}", f"{pairs['token']:.3f}"]
        )
    means = [statistics.mean(s["win_rate"][arm] for s in result["seeds"]) for arm in ("sequence", "token")]
    gap = f"**{result['gap_mean']:+.1f}** ± {result['gap_standard_error']:.1f}"
    rows.append(["mean", *(f"{mean:.1f}" for mean in means), gap, "", ""])
    columns = ["seed", "sequence-level PPO, %", "token-level PPO, %", "difference"]
    return table([*columns, "best sequence RM, edited over original", "token RM, edited over original"], rows)


def render(text: str) -> str:
    """The README with every ``<!-- name -->`` table made anew."""
    made = {"headline": headline(json.loads((RESULTS / "headline.json").read_text(encoding="utf-8")))}
    for name, markdown in made.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
        text, n = re.subn(pattern, lambda m, new=markdown: m[1] + new + m[2], text, flags=re.DOTALL)  # type: ignore[misc]
        if n != 1:
            raise SystemExit(f"{README.name} has {n} places for {name!r}")
    return text


def picture() -> str:
    """What ``tokalign show`` prints of a labelled row, as SVG; no font is fetched from anywhere."""
    program = str(Path(sys.executable).parent / "tokalign")
    env = {**os.environ, "FORCE_COLOR": "1", "COLORTERM": "truecolor", "COLUMNS": "100"}
    command = [program, "show", "data/labels", "--id", "pref-3"]
    shown = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(Text.from_ansi(shown.strip()))
    svg = console.export_svg(title="tokalign show data/labels --id pref-3", unique_id="labels")
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def main() -> None:
    """Rewrite what is generated."""
    PICTURE.write_text(picture(), encoding="utf-8")
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
