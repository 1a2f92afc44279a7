"""Win rates: the table, in the terminal and for papers, and the prompts on which candidates differ most."""

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
    """The table for the terminal; ``name`` of the artifact, where there are several."""
    columns, rows = cells(manifest)
    made = tables.table("Win rate over the reference, percent" + (f": {name}" if name else ""), *columns)
    for row in rows:
        tables.add(made, *row)
    return made


def cells(manifest: Manifest) -> tuple[list[str], Rows]:
    """Every candidate, then every two of them; columns that say nothing are left out."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("win rate", lambda c: _number(c["win_rate"])),
        ("± s.e.", lambda c: _number(c["standard_error"])),
        ("95 %", lambda c: _range(c.get("ci95"))),
        ("at equal length", lambda c: _number(c.get("length_controlled_winrate"))),
        ("wins", lambda c: str(c["n_wins"])),
        ("ties", lambda c: str(c["n_ties"])),
        ("losses", lambda c: str(c["n_losses"])),
        ("unjudged", lambda c: str(c.get("n_unjudged") or "")),
        ("agrees with itself", lambda c: _number(c.get("agreement"))),
        ("prefers the first", lambda c: _number(c.get("prefers_first"))),
        ("length", lambda c: _number(c.get("avg_length"), 0)),
    ]
    found = manifest.stats["candidates"]
    told = [(name, of) for name, of in columns if any(of(c) for c in found.values())]
    rows = [[name, *(of(c) for _, of in told)] for name, c in found.items()]
    if not manifest.stats["paired"]:
        return ["candidate", *(name for name, _ in told)], rows
    for row in rows:
        row.append("")
    for pair in manifest.stats["paired"]:
        judged = {found[pair[side]]["n_total"] for side in ("a", "b")}
        some = "" if "n" not in pair or judged == {pair["n"]} else f" ({pair['n']} judged for both)"
        said = {
            "win rate": f"{pair['difference']:+.1f}",
            "± s.e.": f"{pair['standard_error']:.1f}",
            "95 %": _range(pair.get("ci95"), "+"),
        }
        between = [said.get(name, "") for name, _ in told]
        rows.append([f"{pair['a']} less {pair['b']}{some}", *between, f"{pair['p_value']:.2g}"])
    return ["candidate", *(name for name, _ in told), "p"], rows


def rendered(manifest: Manifest, layout: str) -> str:
    """The table as text: ``markdown``, ``csv`` (unrounded, with all that is known of each candidate) or ``latex``."""
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
    """What was compared, by how far the candidates' preferences lie apart; with one candidate, as it stands."""
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
