"""The paper's tables, from manifests."""

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tokalign.artifacts import Manifest
from tokalign.report.text import safe


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if i else "left")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(safe(cell)) for cell in cells))


def stages(folder: Path, manifests: dict[str, Manifest]) -> Table:
    """Every artifact, where it lies, and how long it took."""
    table = _table(f"Artifacts below {folder}", "folder", "kind", "rows", "seconds")
    for name, m in manifests.items():
        _add(table, name, f"{m.kind}/{m.version}", str(m.rows.get("out")), f"{m.seconds:.1f}")
    return table


def reward_models(manifests: dict[str, Manifest]) -> Table:
    """Held-out accuracy of reward models: pairs, and single edits by flaw kind."""
    kinds = sorted({k for m in manifests.values() for k in m.stats["flips"]["by_category"]})
    columns = ("edited > original", "chosen > rejected", "one edit")
    table = _table("Reward models: held-out accuracy", "model", *columns, *kinds)
    for name, m in manifests.items():
        flips = m.stats["flips"]
        cells = [
            _share(m.stats["edited_over_original"]["mean"]),
            _share(m.stats["chosen_over_rejected"]["mean"]),
            _share(flips["accuracy"]),
            *(_share(flips["by_category"].get(k, {}).get("accuracy")) for k in kinds),
        ]
        _add(table, name, *cells)
    return table


def win_rates(manifest: Manifest) -> Table:
    """Win rate of every candidate over the reference, and paired differences."""
    table = _table(
        "Win rate over the reference, percent", "candidate", "win rate", "± s.e.", "wins", "ties", "losses", "length"
    )
    for name, c in manifest.stats["candidates"].items():
        counts = (str(c[key]) for key in ("n_wins", "n_ties", "n_losses"))
        _add(table, name, f"{c['win_rate']:.1f}", f"{c['standard_error']:.1f}", *counts, f"{c['avg_length']:.0f}")
    for pair in manifest.stats["paired"]:
        title = f"{pair['a']} less {pair['b']}"
        _add(table, title, f"{pair['difference']:+.1f}", f"{pair['standard_error']:.1f}", "", "", "", "")
    return table


def flaws(manifest: Manifest) -> Table:
    """What the judge says of each set of responses: flawed answers by kind, other faults."""
    judged: dict[str, dict[str, Any]] = manifest.stats["judge"]
    kinds = sorted({k for d in judged.values() for k in d.get("flaws", {})})
    faults = sorted({k for d in judged.values() for k in d.get("faults", {})})
    table = _table("Share of requests flawed, and faults a response", "policy", "score", "all", *kinds, *faults)
    for name, d in judged.items():
        cells = [_share(d.get("flaws", {}).get(k)) for k in kinds]
        other = [_share(d.get("faults", {}).get(k)) for k in faults]
        _add(table, name, f"{d['score']:.2f}", _share(d.get("flawed")), *cells, *other)
    return table


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
