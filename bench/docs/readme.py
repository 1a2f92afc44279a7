"""Writes the tables of README and docs from the result files, the command reference, and the pictures.

Tests fail if README or docs differ from the files in ``docs/results/``: in the tables, or in the sentences with
numbers (``SENTENCES``).

    python bench/docs/readme.py
"""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

import real_picture
import real_tables
import tables
from tables import Result, load, table

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README, PICTURE, CLI_DOC = ROOT / "README.md", DOCS / "labels.svg", DOCS / "cli.md"
REAL_PICTURE = DOCS / "real-model.svg"

TABLES: dict[Path, dict[str, tuple[str, Callable[[Result], str]]]] = {
    README: {
        "real": ("real", real_tables.headline),
        "make-all": ("make_all", tables.make_all),
        "headline": ("paper", tables.headline),
    },
    DOCS / "real-model.md": {
        "real-judge": ("real", real_tables.judge),
        "real-arms": ("real", real_tables.arms),
        "real-pairs": ("real", real_tables.pairs),
        "real-speed": ("real", real_tables.speed),
        "real-reward-models": ("real", real_tables.reward_models),
        "real-trials": ("real_trials", real_tables.trials),
        "real-samples": ("real", real_tables.samples),
    },
    DOCS / "results.md": {"arms": ("paper", tables.arms), "reward-models": ("paper", tables.reward_models)},
    DOCS / "labels.md": {
        "human-spans": ("human_spans", tables.human_spans),
        "alignments": ("alignments", tables.alignments),
        "diff-speed": ("diff_speed", tables.diff_speed),
    },
    DOCS / "reward-models.md": {
        "reward-models-test": ("reward_models", tables.reward_models_test),
        "recall": ("reward_models", tables.recall),
        "human-rewards": ("human_rewards", tables.human_rewards),
        "reward-speed": ("reward_speed", tables.reward_speed),
    },
    DOCS / "ppo.md": {
        "ppo-memory": ("ppo_memory", tables.ppo_memory),
        "ppo-speed": ("ppo_speed", tables.ppo_speed),
        "ablations": ("ablations", tables.ablations),
        "long-runs": ("paper", tables.long_runs),
    },
    DOCS / "claude.md": {
        "edits-shown": ("paper", tables.edits_shown),
        "claude-speed": ("claude_speed", tables.claude_speed),
    },
    DOCS / "artifacts.md": {"kinds": ("paper", tables.kinds)},
    DOCS / "recipes" / "qa-feedback.md": {"qa-recipe": ("human_rewards", tables.qa_recipe)},
    DOCS / "human.md": {"human": ("human", tables.human)},
    DOCS / "benchmarks.md": {"benchmarks": ("paper", tables.benchmarks), "size": ("size", tables.size)},
}
"""For each file and table name: name of the result file, and the function that makes the table."""

SENTENCES: dict[Path, list[tuple[str, Callable[[Result], str]]]] = {
    README: [("paper", lambda r: f"**SFT on the same edits has {tables.sft_over_ppo(r)}**")],
    DOCS / "concepts.md": [
        ("paper", tables.sequence_accuracy),
        ("paper", tables.still_flawed),
        ("paper", lambda r: f"on held-out prompts in {tables.chosen_with(r, 'normalise')} seeds"),
        ("human_rewards", lambda r: f"with the {tables.corrections_seen(r)} answers it was trained on"),
    ],
    DOCS / "ppo.md": [
        ("paper", lambda r: f"in {tables.chosen_with(r, 'normalise')} seeds of `make paper`"),
        ("ablations", lambda r: tables.effects(r, segment="`segment`", paid_at_the_end="`sequence`")),
        ("ablations", lambda r: tables.effects(r, discrete="`discrete`")),
        ("ablations", lambda r: tables.effects(r, span="`span`")),
        ("ablations", lambda r: tables.effects(r, value_lr="`--value-lr` 3e-3")),
        ("ablations", lambda r: tables.effects(r, shared="`shared`")),
        ("ablations", lambda r: tables.effects(r, **{"kl-0.1": "0.1:", "kl-0.4": "0.4:"})),
        ("ablations", lambda r: tables.effects(r, no_scale="without σ", no_centre="without centring")),
        (
            "ablations",
            lambda r: tables.effects(r, sequence_chosen="chosen", sequence_edited="edited", sequence_both="both pairs"),
        ),
        (
            "ablations",
            lambda r: tables.effects(
                r, weights_1="class weights of 1", unit_token="labels by token", omissions="omissions labelled"
            ),
        ),
    ],
    DOCS / "labels.md": [
        (
            "human_spans",
            lambda r: (
                "`blocks` improves F1 over Levenshtein by "
                f"{100 * r['ways'][r['default']]['above_levenshtein']:.1f} points"
            ),
        ),
    ],
    DOCS / "reward-models.md": [
        ("human_rewards", lambda r: f"corrections of {tables.corrections_seen(r)} answers tell"),
    ],
}
"""For each file, texts with numbers that it must contain: name of the result file, and the function that makes the
text."""


ABOUT_COMMANDS = """\
Generated from `tokalign COMMAND --help`. Every command also takes `--config FILE.toml`. Turn an on/off option off with
`--no-…`. An option takes the first value found in this order: the flag, `TOKALIGN_<COMMAND>_<OPTION>`,
`TOKALIGN_<OPTION>`, the command's table in the config file, the default.

| exit code | |
|---|---|
| 0 | success |
| 1 | unexpected failure, for example a full disk |
| 2 | invalid or conflicting options, or the output folder holds another run |
| 3 | finished, but rows failed (run the same command again to retry them) or no edit is usable |
| 4 | budget reached; run again with a higher `--max-cost` to continue |
| 5 | bad input; the message names the place, the field, the value and a remedy |
| 6 | another process is writing this folder |
| 7 | the API rejected the request: key, credit, limits or unknown model |
| 130, 143 | stopped by Ctrl-C or SIGTERM; run the same command again to resume |"""


def cli() -> str:
    """The command reference: every command with its options, from the data behind ``--help``."""
    from dataclasses import MISSING, fields

    from tokalign.config.commands import COMMANDS
    from tokalign.config.options import is_required, option_name
    from tokalign.config.panels import OTHER, PANELS, panel

    text = f"# Commands\n\n{ABOUT_COMMANDS}\n"
    for name, command in COMMANDS.items():
        options = command.load_options()
        text += f"\n## tokalign {name}\n\n{command.about}\n\n"
        rows = []
        order = {name: k for k, name in enumerate([*PANELS, OTHER])}
        for f in sorted(fields(options), key=lambda f: (order[panel(options, f)], not is_required(f))):
            default: Any = "required" if is_required(f) else f.default
            if f.default_factory is not MISSING:
                default = f.default_factory()
            if isinstance(default, bool):
                default = ("off", "on")[default]
            about, _, default_with_lora = f.metadata["about"].replace("|", "\\|").partition("; default: ")
            shown = default_with_lora if default in (None, [], "") else str(default)
            rows.append([panel(options, f), f"`{option_name(f)}`{choices(f.type)}", shown, about])
        for k in range(len(rows) - 1, 0, -1):
            rows[k][0] *= rows[k][0] != rows[k - 1][0]  # show each heading once
        text += table(["", "option", "default", ""], rows) + "\n"
    return text


def choices(kind: Any) -> str:
    """The values of an option with a fixed set of values, as Markdown; otherwise ""."""
    parts = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    return " " + " ".join(f"`{value}`" for value in get_args(parts[0])) if parts else ""


def render(path: Path, text: str) -> str:
    """The text of a file with regenerated tables between their ``<!-- name -->`` markers."""
    for name, (source, make) in TABLES[path].items():
        made = make(load(source))
        start, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise SystemExit(f"{path.name} has no markers <!-- {name} --> and <!-- /{name} -->")
        text = before + start + made + end + after
    return text


def picture() -> str:
    """The output of ``tokalign show`` for a labelled row, as an SVG without external fonts."""
    program = str(Path(sys.executable).parent / "tokalign")
    env = {**os.environ, "FORCE_COLOR": "1", "COLORTERM": "truecolor", "COLUMNS": "100"}
    command = [program, "show", "data/labels", "--id", "pref-3"]
    shown = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(Text.from_ansi(shown.strip()))
    svg = console.export_svg(
        title=" ".join(["tokalign", *command[1:]]), unique_id="labels", theme=DEFAULT_TERMINAL_THEME
    )
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def main() -> None:
    """Rewrite all generated files and tables."""
    PICTURE.write_text(picture(), encoding="utf-8")
    REAL_PICTURE.write_text(real_picture.picture(load("real")), encoding="utf-8")
    CLI_DOC.write_text(cli(), encoding="utf-8")
    for path in TABLES:
        path.write_text(render(path, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
