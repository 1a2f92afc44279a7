"""The paper's tables, from manifests."""

from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokalign.artifacts.manifest import Manifest
from tokalign.report.text import safe

WIDTH = 110
"""Columns taken where no terminal says how wide it is."""


def console(file: TextIO | None = None, like: Console | None = None) -> Console:
    """Standard output, wide enough for the tables when it is piped; or a file, as wide and colourful as another."""
    if like is not None:
        system: Any = like.color_system
        return Console(highlight=False, file=file, force_terminal=True, width=like.width, color_system=system)
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDTH)


def table(title: str, *columns: str) -> Table:
    """An empty table; the first column is of names, the others of numbers."""
    made = Table(title=Text(safe(title)), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(Text(safe(column)), justify="right" if i else "left")
    return made


def add(table: Table, *cells: str) -> None:
    """A row of a table."""
    table.add_row(*(Text(safe(cell)) for cell in cells))


def stages(folder: Path, manifests: dict[str, Manifest]) -> Table:
    """Every artifact, where it lies, and how long it took."""
    made = table(f"Artifacts below {folder}", "folder", "kind", "rows", "seconds")
    for name, m in manifests.items():
        add(made, name, f"{m.kind}/{m.version}", str(m.rows.get("out")), f"{m.seconds:.1f}")
    return made


def reward_models(manifests: dict[str, Manifest]) -> Table:
    """Held-out accuracy of reward models: pairs, and single edits by flaw kind."""
    kinds = sorted({k for m in manifests.values() for k in m.stats["flips"]["by_category"]})
    columns = ("edited > original", "chosen > rejected", "one edit")
    made = table("Reward models: held-out accuracy", "model", *columns, *kinds)
    for name, m in manifests.items():
        flips = m.stats["flips"]
        cells = [
            _share(m.stats["edited_over_original"]["mean"]),
            _share(m.stats["chosen_over_rejected"]["mean"]),
            _share(flips["accuracy"]),
            *(_share(flips["by_category"].get(k, {}).get("accuracy")) for k in kinds),
        ]
        add(made, name, *cells)
    return made


def token_models(manifests: dict[str, Manifest]) -> list[Table]:
    """Of token-level reward models: how well classes are told apart, what is found by flaw kind, how sure they are."""
    found = {name: m.stats for name, m in manifests.items() if "auroc" in m.stats}
    if not found:
        return []
    sides = [f"{side} {what}" for side in ("bad", "good") for what in ("P", "R", "F1", "AUC")]
    title = "Token-level models: precision, recall, F1, area under ROC; calibration error; correlation with length"
    classes = table(title, "model", *sides, "ECE", "length")
    kinds = sorted({kind for s in found.values() for kind in s["recall"]})
    recall = table("Share of changed tokens found, bad / good, by kind of flaw", "model", *kinds)
    reliability = table(
        "How often right, by how sure (tokens)", "model", *(f"{b / 10:.1f}–{(b + 1) / 10:.1f}" for b in range(3, 10))
    )
    for name, s in found.items():
        cells = []
        for side in ("bad", "good"):
            of = s["classes"][side]
            cells += [_share(of[key]) for key in ("precision", "recall", "f1")] + [_share(s["auroc"][side]["value"])]
        add(classes, name, *cells, _share(s["calibration"]["ece"]), _signed(s["length"]["mean"]))
        per_kind = [s["recall"].get(kind, {}) for kind in kinds]
        add(
            recall,
            name,
            *(" / ".join(_share(k.get(side, {}).get("recall")) for side in ("bad", "good")) for k in per_kind),
        )
        bins = {min(int(10 * b["confidence"]), 9): b for b in s["calibration"]["bins"]}
        add(
            reliability,
            name,
            *(f"{bins[b]['accuracy']:.2f} ({bins[b]['n']})" if b in bins else "–" for b in range(3, 10)),
        )
    return [classes, *([recall] if kinds else []), reliability]


def flaws(manifest: Manifest) -> list[Table]:
    """What the judge says of each set of responses: flawed answers by kind, and other faults."""
    judged: dict[str, dict[str, Any]] = manifest.stats.get("judge", {})
    if not judged:
        return []
    kinds = sorted({k for d in judged.values() for k in d.get("flaws", {})})
    faults = sorted({k for d in judged.values() for k in d.get("faults", {})})
    by_kind = table("Share of requests answered with a flaw, by kind", "policy", "all", *kinds)
    others = table("Mean score, and other faults a response", "policy", "score", *faults)
    for name, d in judged.items():
        add(by_kind, name, _share(d.get("flawed")), *(_share(d.get("flaws", {}).get(k)) for k in kinds))
        add(others, name, f"{d['score']:.2f}", *(_share(d.get("faults", {}).get(k)) for k in faults))
    return [by_kind, others] if kinds else [others]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
