"""Win rates: tables for the terminal and for papers, and the prompts on which candidates differ most."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from rich.table import Table

from tokalign.artifacts.manifest import Artifact, Manifest
from tokalign.artifacts.schemas import Compared
from tokalign.data.dataset import check_row
from tokalign.data.readers import read_file
from tokalign.data.spreadsheet import quoted
from tokalign.report import tables
from tokalign.report.text import safe

Rows = list[list[str]]


def table(manifest: Manifest, name: str = "") -> Table:
    """Create the table for the terminal. ``name``: name of the artifact for the title; "": none."""
    columns, rows = cells(manifest)
    made = tables.table("Win rate over the reference, percent" + (f": {name}" if name else ""), *columns)
    for row in rows:
        tables.add(made, *row)
    return made


def cells(manifest: Manifest) -> tuple[list[str], Rows]:
    """Return the columns and rows of the table: candidates, then pairs of candidates. Empty columns are left out."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("win rate", lambda c: _number(c["win_rate"])),
        ("± s.e.", lambda c: _number(c["standard_error"])),
        ("95 %", lambda c: _range(c.get("ci95"))),
        ("length-controlled", lambda c: _number(c.get("length_controlled_winrate"))),
        ("wins", lambda c: str(c["n_wins"])),
        ("ties", lambda c: str(c["n_ties"])),
        ("losses", lambda c: str(c["n_losses"])),
        ("unjudged", lambda c: str(c.get("n_unjudged") or "")),
        ("agreement", lambda c: _number(c.get("agreement"))),
        ("prefers first", lambda c: _number(c.get("prefers_first"))),
        ("length", lambda c: _number(c.get("avg_length"), 0)),
    ]
    found = manifest.stats["candidates"]
    used = [(name, cell) for name, cell in columns if any(cell(c) for c in found.values())]
    rows = [[name, *(cell(c) for _, cell in used)] for name, c in found.items()]
    if not manifest.stats["paired"]:
        return ["candidate", *(name for name, _ in used)], rows
    for row in rows:
        row.append("")
    for pair in manifest.stats["paired"]:
        judged = {found[pair[side]]["n_total"] for side in ("a", "b")}
        common = "" if "n" not in pair or judged == {pair["n"]} else f" ({pair['n']} judged for both)"
        cells_by_column = {
            "win rate": f"{pair['difference']:+.1f}",
            "± s.e.": f"{pair['standard_error']:.1f}",
            "95 %": _range(pair.get("ci95"), "+"),
        }
        values = [cells_by_column.get(name, "") for name, _ in used]
        rows.append([f"{pair['a']} minus {pair['b']}{common}", *values, f"{pair['p_value']:.2g}"])
    return ["candidate", *(name for name, _ in used), "p"], rows


def rendered(manifest: Manifest, layout: str) -> str:
    """Render the table as ``markdown``, ``latex`` or ``csv``. CSV has all statistics of the candidates, unrounded."""
    if layout == "csv":
        return _csv(manifest)
    columns, rows = cells(manifest)
    if layout == "markdown":
        lines = [
            columns,
            ["---", *["---:"] * (len(columns) - 1)],
            *([_plain(c).replace("|", "\\|") for c in r] for r in rows),
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    body = [" & ".join(_latex(c) for c in line) + r" \\" for line in (columns, *rows)]
    frame = [r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*frame, *body[1:], r"\bottomrule", r"\end{tabular}"])


def _csv(manifest: Manifest) -> str:
    found = manifest.stats["candidates"]
    names = list(dict.fromkeys(key for c in found.values() for key in c))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["candidate", *names])
    for name, c in found.items():
        values = (c.get(key) for key in names)
        writer.writerow([quoted(name), *(json.dumps(v) if isinstance(v, list) else v for v in values)])
    return out.getvalue().rstrip("\n")


def _range(ends: list[float] | None, sign: str = "") -> str:
    return "" if ends is None else " to ".join(f"{end:{sign}.1f}" for end in ends)


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _plain(text: str) -> str:
    return " ".join(safe(text).split())


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in _plain(text))


def disputed(artifact: Artifact) -> Iterator[dict[str, Any]]:
    """Yield the compared prompts on which the candidates' preferences differ, the largest differences first.

    With one candidate, all prompts are returned in order.
    """
    rows = []
    for at, row in (placed for path in artifact.find("compared.jsonl") for placed in read_file(path)):
        check_row(at, row, Compared)
        known = [p for p in row["preferences"].values() if p is not None]
        apart = max(known) - min(known) if known else 0.0
        if apart or len(row["preferences"]) == 1:
            texts = {k: v for k, v in row.items() if k not in ("id", "prompt", "preferences")}
            shown = {
                "id": row["id"],
                "prompt": row["prompt"],
                "apart": round(apart, 4),
                "preferences": row["preferences"],
            }
            rows.append({**shown, **texts})
    yield from sorted(rows, key=lambda row: -row["apart"])
