"""Writes the README's tables and picture from what was measured.

``docs/results/playground.json`` is taken from a finished ``make all``, ``docs/results/headline.json`` from
``make headline``. A test fails when the README says anything else.

    python bench/readme.py [--collect runs/playground]
"""

import argparse
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
POLICIES = {
    "reference": "the one PPO starts from",
    "ppo-sequence": "sequence-level PPO",
    "ppo-token": "token-level PPO",
}
MODELS = {"rm-sequence": "sequence-level", "rm-token": "token-level"}

Result = dict[str, Any]


def collect(folder: Path) -> Result:
    """The numbers of a finished ``make all`` that the README shows."""
    stats = {p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*/manifest.json"))}
    verdict = stats["winrates"]["stats"]
    taken = ("edited_over_original", "chosen_over_rejected", "flips")
    return {
        "command": "make all",
        "tokalign": stats["winrates"]["tokalign"],
        "seed": stats["winrates"]["seed"],
        "candidates": verdict["candidates"],
        "paired": verdict["paired"],
        "flawed": {name: judged["flawed"] for name, judged in verdict["judge"].items()},
        "reward_models": {name: {key: stats[name]["stats"][key] for key in taken} for name in MODELS},
    }


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def policies(result: Result) -> str:
    """Win rates and flaws of one ``make all``."""
    rows = []
    for key, name in POLICIES.items():
        c = result["candidates"].get(key)
        won = [f"{c['win_rate']:.1f}", f"{c['standard_error']:.1f}"] if c else ["", ""]
        rows.append([name, *won, f"{result['flawed'][key]:.1%}"])
    return table(["policy", "win rate, %", "± s.e.", "requests answered with a flaw"], rows)


def reward_models(result: Result) -> str:
    """Accuracy of the two reward models of one ``make all``."""
    kinds = sorted(result["reward_models"]["rm-token"]["flips"]["by_category"])
    rows = []
    for key, name in MODELS.items():
        m = result["reward_models"][key]
        shares = [m["edited_over_original"]["mean"], m["chosen_over_rejected"]["mean"], m["flips"]["accuracy"]]
        shares += [m["flips"]["by_category"][kind]["accuracy"] for kind in kinds]
        rows.append([name, *(f"{share:.3f}" for share in shares)])
    columns = ["reward model, share right", "edited over original", "chosen over rejected", "one edit undone", *kinds]
    return table(columns, rows)


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
    playground = json.loads((RESULTS / "playground.json").read_text(encoding="utf-8"))
    made = {"policies": policies(playground), "reward-models": reward_models(playground)}
    made["headline"] = headline(json.loads((RESULTS / "headline.json").read_text(encoding="utf-8")))
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collect", type=Path, help="folder of a finished `make all`")
    args = parser.parse_args()
    if args.collect:
        RESULTS.mkdir(parents=True, exist_ok=True)
        found = json.dumps(collect(args.collect), indent=2)
        (RESULTS / "playground.json").write_text(found + "\n", encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
