"""``tokalign show``: an artifact in the terminal, or the tables of a whole folder of them.

Colour is blue for good and orange for bad, which colour-blind readers tell apart; without colour the marks
``[-bad-]`` and ``{+good+}`` say the same.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tokalign import artifacts
from tokalign.artifacts import Manifest
from tokalign.config import ShowConfig
from tokalign.errors import InputError
from tokalign.report import tables
from tokalign.report.summary import headline
from tokalign.report.text import safe

BAD, GOOD = "bold #d55e00", "bold #0072b2"
MARKED = 0.5
"""A reward at least this strong is marked in the text."""


def run(config: ShowConfig) -> None:
    """Print rows of an artifact, or the overview of a folder."""
    folder = config.artifact
    if not artifacts.is_artifact(folder):
        if not folder.is_dir():
            raise InputError("there is no such artifact", where=str(folder), remedy="give an artifact's folder")
        _overview(folder, config)
        return
    manifest = artifacts.verify(folder)
    if config.json:
        print(json.dumps(asdict(manifest), ensure_ascii=False))
        return
    console = tables.console()
    console.print(Text(f"{manifest.kind}/{manifest.version}  {manifest.rows.get('out')} rows  {safe(str(folder))}"))
    for line in headline(manifest):
        console.print(Text(safe(line)))
    if manifest.kind == "reward-model":
        console.print(tables.reward_models({folder.name: manifest}))
    elif manifest.kind == "winrates":
        console.print(tables.win_rates(manifest))
        console.print(*tables.flaws(manifest))
    found = 0
    for row in islice(_rows(folder, manifest, config.id), config.limit):
        found += 1
        console.print()
        _row(console, manifest.kind, row)
    if config.id is not None and not found:
        raise InputError(f"no row has this id: {config.id!r}", where=str(folder), field="id")


def _overview(folder: Path, config: ShowConfig) -> None:
    found = {
        path.parent.relative_to(folder).as_posix(): Manifest.read(path.parent)
        for path in sorted(folder.glob("**/manifest.json"))
        if "checkpoints" not in path.parts
    }
    if not found:
        raise InputError("no artifact here or below", where=str(folder))
    if config.json:
        print(json.dumps({name: asdict(m) for name, m in found.items()}, ensure_ascii=False))
        return
    console = tables.console()
    console.print(tables.stages(folder, found))
    models = {name: m for name, m in found.items() if m.kind == "reward-model"}
    if models:
        console.print(tables.reward_models(models))
    for manifest in (m for m in found.values() if m.kind == "winrates"):
        console.print(tables.win_rates(manifest))
        console.print(*tables.flaws(manifest))


def _rows(folder: Path, manifest: Manifest, wanted: str | None) -> Iterator[dict[str, Any]]:
    rows: Iterator[dict[str, Any]]
    if manifest.kind == "token-labels":
        from tokalign.tables import iter_labels

        rows = (row._asdict() for row in iter_labels(folder))
    elif (folder / "data.jsonl").is_file():
        rows = map(json.loads, (folder / "data.jsonl").open(encoding="utf-8"))
    else:
        return
    yield from (row for row in rows if wanted is None or row["id"] == wanted)


def _row(console: Console, kind: str, row: dict[str, Any]) -> None:
    console.print(Text(safe(f"── {row['id']}" + (f" · sample {row['sample']}" if row.get("sample") else "")), "dim"))
    if "prompt" in row:
        _say(console, "prompt", Text(_clip(_flat(row["prompt"]))))
    if kind == "token-labels":
        for side in ("original", "edited"):
            text = marked(row[side], row[f"{side}_offsets"], row[f"{side}_labels"])
            _say(console, side, text)
    elif kind == "token-rewards":
        _say(console, "reward", marked(row["response"], row["offsets"], row["reward"]))
        _say(console, "score", Text(f"mean {row['score_mean']:+.4f}   sum {row['score_sum']:+.3f}"))
        if row["p_bad"] is not None:
            _say(console, "worst", Text(_extremes(row)))
    else:
        for key, value in row.items():
            if key not in ("id", "prompt", "sample") and value not in (None, "", []):
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                _say(console, key, Text(safe(shown)))


def marked(text: str, offsets: list[list[int]], values: list[float]) -> Text:
    """The text with every run of bad or good tokens marked and coloured by its values (-1 … 1)."""
    out, at = Text(), 0
    runs = _runs(offsets, values)
    for start, end, sign, strength in runs:
        out.append(safe(text[at:start]))
        piece = text[start:end]
        lead = len(piece) - len(piece.lstrip())
        out.append(safe(piece[:lead]))
        open_, close, style = ("[-", "-]", BAD) if sign < 0 else ("{+", "+}", GOOD)
        out.append(f"{open_}{safe(piece[lead:])}{close}", style if strength > 0.75 else style.removeprefix("bold "))
        at = end
    out.append(safe(text[at:]))
    return out


def _runs(offsets: list[list[int]], values: list[float]) -> list[tuple[int, int, int, float]]:
    """Neighbouring tokens of one sign, as (start, end, sign, strongest value)."""
    runs: list[tuple[int, int, int, float]] = []
    for (start, end), value in zip(offsets, values, strict=True):
        if abs(value) < MARKED or start == end:
            continue
        sign = 1 if value > 0 else -1
        if runs and runs[-1][1] >= start and runs[-1][2] == sign:
            first, last, _, strength = runs[-1]
            runs[-1] = (first, max(last, end), sign, max(strength, abs(value)))
        elif not runs or start >= runs[-1][1]:
            runs.append((start, end, sign, abs(value)))
    return runs


def _extremes(row: dict[str, Any]) -> str:
    order = sorted(range(len(row["reward"])), key=lambda i: row["reward"][i])[:3]
    return "  ".join(f"{safe(row['tokens'][i])!r} {row['reward'][i]:+.2f}" for i in order)


def _say(console: Console, label: str, text: Text) -> None:
    console.print(Text(f"{safe(label):>9}", "dim"))
    console.print(Padding(text, (0, 0, 0, 4)))


def _flat(prompt: Any) -> str:
    if isinstance(prompt, str):
        return safe(prompt)
    if len(prompt) == 1:
        return safe(prompt[0]["content"])
    return "\n".join(f"{safe(t['role'])}: {safe(t['content'])}" for t in prompt)


def _clip(text: str, most: int = 800) -> str:
    return (
        text if len(text) <= most else f"{text[: most // 2]}\n[… {len(text) - most} characters …]\n{text[-most // 2 :]}"
    )
