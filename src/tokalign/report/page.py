"""``tokalign report``: one self-contained page of what was made. Reads artifacts, writes a file."""

import base64
import hashlib
import json
import posixpath
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tokalign import __version__
from tokalign.artifacts.outfile import refuse_taken, writing_file
from tokalign.config.stages import ReportConfig
from tokalign.errors import InputError
from tokalign.report import collect, curves, lineage, plot, winrates
from tokalign.report.collect import Found
from tokalign.report.plot import Series
from tokalign.report.text import safe

_GENERATOR = '<meta name="generator" content="tokalign '
"""Stands at the head of every page: one that has it may be written over by the next."""
_CURVES = 8
"""Runs drawn in one plot: as many as there are colours."""
_FEW = 20
"""Tokens of which a share says something."""


class Written(NamedTuple):
    """The page."""

    file: str
    rows: int
    """Artifacts on it."""
    skipped: dict[str, int]


def run(config: ReportConfig) -> Written:
    """Write the page.

    Raises:
        ConflictError: the file is there already; with ``--fresh``, one that is not such a page is moved beside.
        InputError: there is nothing to show.
    """
    if config.out.is_dir() or not config.out.parent.is_dir():
        raise InputError(
            "no file can be written there", where=str(config.out), remedy="name a file in a folder that is there"
        )
    refuse_taken(config.out, config.fresh)
    found = collect.artifacts_below(config.folders, config.only)
    with writing_file(config.out, config.fresh, config.quiet, lambda head: _GENERATOR.encode() in head) as path:
        path.write_text(render(found, config), encoding="utf-8")
    return Written(str(config.out), len(found), {})


def render(found: Sequence[Found], config: ReportConfig) -> str:
    """The page as text."""
    css = resources.files(__package__).joinpath("templates", "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("tokalign.report"),
        autoescape=True,
        finalize=lambda value: safe(value) if type(value) is str else value,  # whatever the template prints
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    first = [f for f in found if f.folder.is_relative_to(config.folders[0])]
    logs = _trained(collect.of_kind(found, "policy"))
    drawn = list(logs)[:_CURVES]
    win_rates = {f.folder for f in found if f.manifest.kind == "winrates"}
    outer = [f for f in found if not win_rates & set(f.folder.parents)]  # what was made for one is counted there
    return environment.get_template("report.html.j2").render(
        title=safe(config.title),
        generator=Markup(f'{_GENERATOR}{__version__}">'),
        version=__version__,
        css=Markup(css),  # our own
        csp=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        folders=len(config.folders),
        rated=collect.rated(first, config.examples),
        examples=collect.labelled(first, config.examples),
        samples=collect.samples(first, drawn, 2),
        models=_models(found),
        reliability=_reliability(found),
        plots=_plots({name: logs[name] for name in drawn}),
        legend=plot.legend([Series(safe(name), (), ()) for name in drawn]),
        left_out=len(logs) - len(drawn),
        win_rates=[(safe(_called(f, len(config.folders))), *_table(f)) for f in found if f.manifest.kind == "winrates"],
        lineage=lineage.draw(first),
        stages=[_stage(f, len(config.folders)) for f in found],
        paid=sum(f.manifest.usage.get("usd", 0.0) for f in outer),
        seconds=sum(f.manifest.seconds for f in outer),
    )


def _called(f: Found, folders: int) -> str:
    """Its name; where there are several folders, with the folder's."""
    root = f.folder.resolve().as_posix().removesuffix(f"/{f.name}").rpartition("/")[2]
    return f"{root}/{f.name}" if folders > 1 else f.name


def _table(f: Found) -> tuple[list[str], list[list[str]]]:
    columns, rows = winrates.cells(f.manifest)
    return columns, [[safe(cell) for cell in row] for row in rows]


def _trained(policies: dict[str, list[Found]]) -> dict[str, list[list[dict[str, Any]]]]:
    """The logs of what was trained by PPO, by name."""
    logs = {
        name: [log for f in runs if "best_step" in f.manifest.stats and (log := curves.read(f.artifact))]
        for name, runs in policies.items()
    }
    return {name: found for name, found in logs.items() if found}


def _plots(logs: dict[str, list[list[dict[str, Any]]]]) -> list[tuple[str, Markup]]:
    found = []
    for by, axis in (("step", "step"), ("minutes", "minutes of sampling, scoring and updates")):
        for metric, about in curves.METRICS.items():
            if by == "minutes" and metric != "win_rate":
                continue
            lines = [curves.series(safe(name), runs, metric, by) for name, runs in logs.items()]
            if any(len(s.x) for s in lines):
                title = f"{about}, by {axis}"
                found.append((title, plot.lines(lines, axis, about, title, whole=by == "step")))
    return found


def _models(found: Sequence[Found]) -> dict[str, Any]:
    """Held-out accuracy of reward models: the mean over seeds, as cells."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, fs in collect.of_kind(found, "reward-model").items():
        for f in fs:
            groups.setdefault((name, f.manifest.stats["level"]), []).append(f.manifest.stats)
    kinds = sorted({k for of in groups.values() for s in of for k in s["flips"]["by_category"]})
    rows = []
    for (name, level), stats in groups.items():
        cells = [_mean([s[key]["mean"] for s in stats]) for key in ("edited_over_original", "chosen_over_rejected")]
        cells.append(_mean([s["flips"]["accuracy"] for s in stats]))
        cells += [_mean([s["flips"]["by_category"].get(k, {}).get("accuracy") for s in stats]) for k in kinds]
        rows.append([safe(name), level, *cells])
    return {
        "columns": ["edited over original", "chosen over rejected", "one edit undone", *map(safe, kinds)],
        "rows": rows,
    }


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):.3f}" if known else "–"


def _reliability(found: Sequence[Found]) -> tuple[Markup, Markup]:
    """How often token-level models are right, by how sure they are, over all seeds; and whose line is whose."""
    lines = []
    for name, fs in collect.of_kind(found, "reward-model").items():
        pooled = _pooled([b for f in fs for b in f.manifest.stats.get("calibration", {}).get("bins", [])])
        if pooled:
            lines.append(Series(safe(name), [sure for sure, _ in pooled], [right for _, right in pooled]))
    if not lines:
        return Markup(""), Markup("")
    even = Series("as sure as it is right", (0.3, 1.0), (0.3, 1.0), dashed=True)
    title = "How often a token-level model is right, by how sure it is"
    shown = [*lines[: _CURVES - 1], even]
    return plot.lines(shown, "how sure", "how often right", title), plot.legend(shown)


def _pooled(bins: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """How sure and how often right, by tenths of how sure; without those of a few tokens."""
    tenths: dict[int, list[dict[str, Any]]] = {}
    for b in bins:
        tenths.setdefault(min(9, int(10 * b["confidence"])), []).append(b)
    sizes = {tenth: sum(b["n"] for b in of) for tenth, of in sorted(tenths.items())}
    return [
        (
            sum(b["n"] * b["confidence"] for b in tenths[tenth]) / n,
            sum(b["n"] * b["accuracy"] for b in tenths[tenth]) / n,
        )
        for tenth, n in sizes.items()
        if n >= _FEW
    ]


def _stage(f: Found, folders: int) -> dict[str, Any]:
    m = f.manifest
    cost = m.usage.get("usd")
    return {
        "name": safe(_called(f, folders)),
        "kind": f"{m.kind}/{m.version}",
        "rows": " → ".join(str(m.rows[k]) for k in ("in", "out") if k in m.rows),
        "skipped": m.rows.get("skipped", 0),
        "seconds": f"{m.seconds:.1f}",
        "cost": "" if cost is None else f"${cost:.4f}",
        "created": safe(m.created),
        "inputs": safe(", ".join(posixpath.normpath(f"{f.name}/{i['path']}") for i in m.inputs if "path" in i)),
        "command": safe(shlex.join(_short(part) for part in m.command)),
        "config": safe(json.dumps(m.config, indent=1, ensure_ascii=False)),
    }


def _short(part: str) -> str:
    """Of paths on the machine where it was made, only the ends say something here."""
    return Path(part).name if part.startswith("/") else part
