"""Tables of manifests for the terminal."""

from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokalign.artifacts.manifest import Manifest
from tokalign.report.text import safe

WIDTH = 110
"""Width in columns if the output is not a terminal."""


def console(file: TextIO | None = None, like: Console | None = None) -> Console:
    """Create a console for standard output, or for ``file`` with the width and colours of the console ``like``."""
    if like is not None:
        system: Any = like.color_system
        return Console(highlight=False, file=file, force_terminal=True, width=like.width, color_system=system)
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDTH)


def table(title: str, *columns: str) -> Table:
    """Create an empty table. The first column is left-aligned, the others are right-aligned."""
    made = Table(title=Text(safe(title)), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(Text(safe(column)), justify="right" if i else "left")
    return made


def add(table: Table, *cells: str) -> None:
    """Add a row to a table."""
    table.add_row(*(Text(safe(cell)) for cell in cells))


def stages(folder: Path, manifests: dict[str, Manifest]) -> Table:
    """Table of all artifacts with their kind, rows and run time."""
    made = table(f"Artifacts below {folder}", "folder", "kind", "rows", "seconds")
    for name, m in manifests.items():
        add(made, name, f"{m.kind}/{m.version}", str(m.rows.get("out")), f"{m.seconds:.1f}")
    return made


def reward_models(manifests: dict[str, Manifest]) -> Table:
    """Table of the accuracies of reward models: pairs, and flips by flaw category.

    They are those on held-out rows of the training, except for ``reward-metrics``.
    """
    categories = sorted({k for m in manifests.values() for k in m.stats["flips"]["by_category"]})
    columns = ("edited over original", "chosen over rejected", "flips", *(f"flips: {k}" for k in categories))
    heldout = "held-out " if any(m.kind == "reward-model" for m in manifests.values()) else ""
    made = table(f"Reward models: {heldout}accuracy", "model", *columns)
    for name, m in manifests.items():
        flips = m.stats["flips"]
        cells = [
            _share(m.stats["edited_over_original"]["mean"]),
            _share(m.stats["chosen_over_rejected"]["mean"]),
            _share(flips["accuracy"]),
            *(_share(flips["by_category"].get(k, {}).get("accuracy")) for k in categories),
        ]
        add(made, name, *cells)
    return made


def token_models(manifests: dict[str, Manifest]) -> list[Table]:
    """Tables of token-level reward models: classes, recall by flaw category, and accuracy by confidence."""
    found = {name: m.stats for name, m in manifests.items() if "auroc" in m.stats}
    if not found:
        return []
    sides = [f"{side} {metric}" for side in ("bad", "good") for metric in ("P", "R", "F1", "AUC")]
    title = "Token-level models: precision, recall, F1, area under ROC; calibration error; correlation with length"
    classes = table(title, "model", *sides, "ECE", "length")
    categories = sorted({category for s in found.values() for category in s["recall"]})
    recall = table("Recall of bad / good tokens by flaw category", "model", *categories)
    calibration = table(
        "Accuracy by confidence (number of tokens)",
        "model",
        *(f"{b / 10:.1f}–{(b + 1) / 10:.1f}" for b in range(3, 10)),
    )
    for name, s in found.items():
        cells = []
        for side in ("bad", "good"):
            metrics = s["classes"][side]
            cells += [_share(metrics[key]) for key in ("precision", "recall", "f1")]
            cells += [_share(s["auroc"][side]["value"])]
        add(classes, name, *cells, _share(s["calibration"]["ece"]), _signed(s["length"]["mean"]))
        per_category = [s["recall"].get(category, {}) for category in categories]
        add(
            recall,
            name,
            *(" / ".join(_share(c.get(side, {}).get("recall")) for side in ("bad", "good")) for c in per_category),
        )
        bins = {min(int(10 * b["confidence"]), 9): b for b in s["calibration"]["bins"]}
        add(
            calibration,
            name,
            *(f"{bins[b]['accuracy']:.2f} ({bins[b]['n']})" if b in bins else "–" for b in range(3, 10)),
        )
    return [classes, *([recall] if categories else []), calibration]


def flaws(manifest: Manifest) -> list[Table]:
    """Tables of the judge's statistics of each policy: flawed requests by category, and other faults."""
    judged: dict[str, dict[str, Any]] = manifest.stats.get("judge", {})
    if not judged:
        return []
    categories = sorted({k for d in judged.values() for k in d.get("flaws", {})})
    faults = sorted({k for d in judged.values() for k in d.get("faults", {})})
    by_category = table("Share of requests answered with a flaw, by category", "policy", "all", *categories)
    others = table("Mean score, and other faults per response", "policy", "score", *faults)
    for name, d in judged.items():
        add(by_category, name, _share(d.get("flawed")), *(_share(d.get("flaws", {}).get(k)) for k in categories))
        add(others, name, f"{d['score']:.2f}", *(_share(d.get("faults", {}).get(k)) for k in faults))
    return [by_category, others] if categories else [others]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
