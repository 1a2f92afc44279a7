"""Win rates: the table, in the terminal and for papers, and the prompts on which candidates differ most."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from tokalign.artifacts import Manifest
from tokalign.report import tables
from tokalign.report.text import safe

Rows = list[list[str]]


def table(manifest: Manifest) -> Table:
    """The table for the terminal."""
    columns, rows = cells(manifest)
    made = tables.table("Win rate over the reference, percent", *columns)
    for row in rows:
        tables.add(made, *row)
    return made


def cells(manifest: Manifest) -> tuple[list[str], Rows]:
    """Every candidate, then every two of them; columns that say nothing are left out."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("win rate", lambda c: f"{c['win_rate']:.1f}"),
        ("± s.e.", lambda c: f"{c['standard_error']:.1f}"),
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
        sizes = [f"{pair['difference']:+.1f}", f"{pair['standard_error']:.1f}", _range(pair.get("ci95"), "+")]
        gap = [""] * (len(told) - len(sizes))
        rows.append([f"{pair['a']} less {pair['b']}", *sizes, *gap, f"{pair['p_value']:.2g}"])
    return ["candidate", *(name for name, _ in told), "p"], rows


def rendered(manifest: Manifest, how: str) -> str:
    """The table as text: ``markdown``, ``csv`` (unrounded, with all that is known of each candidate) or ``latex``."""
    if how == "csv":
        return _csv(manifest)
    columns, rows = cells(manifest)
    if how == "markdown":
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
        writer.writerow([name, *(json.dumps(v) if isinstance(v, list) else v for v in values)])
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


def disputed(folder: Path, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Prompts by how far the candidates' preferences lie apart there, with their responses; others are left out."""
    path = folder / "judgements" / "data.jsonl"
    if not path.is_file():
        return
    given: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in _read(path):
        if row["preference"] is not None:
            given[row["id"]][row["candidate"]].append(row["preference"])
    means = {key: {name: sum(p) / len(p) for name, p in by.items()} for key, by in given.items()}
    apart = {key: max(by.values()) - min(by.values()) for key, by in means.items()}
    rows: dict[str, dict[str, Any]] = {
        key: {"id": key, "apart": round(apart[key], 4), "preferences": means[key]}
        for key in sorted(apart, key=lambda key: -apart[key])
        if apart[key] or len(means[key]) == 1
    }
    for side in manifest.inputs:
        own, sampled = folder / str(side["path"]), folder / "responses" / str(side["name"])
        for path in (sampled / "data.jsonl", own / "data.jsonl"):
            if side["name"] in ("reference", *manifest.stats["candidates"]) and path.is_file():
                for row in _read(path):
                    if row["id"] in rows and "response" in row:
                        rows[row["id"]] |= {"prompt": row["prompt"], side["name"]: row["response"]}
                break
    yield from rows.values()


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
