"""``tokalign report``: writes one self-contained HTML page about artifacts."""

import base64
import hashlib
import json
import posixpath
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tokalign import __version__
from tokalign.artifacts.outfile import refuse_taken, writing_file
from tokalign.artifacts.result import StageResult, WrittenFile
from tokalign.config.stages import ReportConfig
from tokalign.errors import InputError
from tokalign.report import collect, curves, lineage, plot, winrates
from tokalign.report.collect import Found
from tokalign.report.plot import Series
from tokalign.report.text import safe

_GENERATOR = '<meta name="generator" content="tokalign '
"""Marks pages made by this command; ``--fresh`` overwrites only files that contain it."""
_CURVES = 8
"""Maximum number of lines in a plot: the number of colours."""
_MIN_TOKENS = 20
"""Smallest number of tokens for a point of the calibration plot."""


def run(config: ReportConfig) -> StageResult:
    """Write the page.

    Raises:
        ConflictError: the output file exists and ``--fresh`` is not given. (``--fresh`` moves other files aside.)
        InputError: no artifact is found, or the output is not a file in an existing folder.
    """
    if config.out.is_dir() or not config.out.parent.is_dir():
        raise InputError("cannot write a file here", where=str(config.out), remedy="give a file in an existing folder")
    refuse_taken(config.out, config.fresh)
    found = collect.artifacts_below(config.folders, config.only)
    with writing_file(config.out, config.fresh, config.quiet, lambda head: _GENERATOR.encode() in head) as path:
        path.write_text(render(found, config), encoding="utf-8")
    return StageResult(file=WrittenFile(str(config.out), len(found), {}))


def render(found: Sequence[Found], config: ReportConfig) -> str:
    """Render the page as HTML."""
    css = resources.files(__package__).joinpath("templates", "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("tokalign.report"),
        autoescape=True,
        finalize=lambda value: safe(value) if type(value) is str else value,  # applied to everything printed
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    first = [f for f in found if f.folder.is_relative_to(config.folders[0])]
    logs = _trained(collect.of_kind(found, "policy"))
    drawn = list(logs)[:_CURVES]
    win_rates = {f.folder for f in found if f.manifest.kind == "winrates"}
    outer = [f for f in found if not win_rates & set(f.folder.parents)]  # artifacts inside win rates count there
    return environment.get_template("report.html.j2").render(
        title=safe(config.title),
        generator=Markup(f'{_GENERATOR}{__version__}">'),
        version=__version__,
        css=Markup(css),
        csp=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        folders=len(config.folders),
        rated=collect.rated(first, config.examples),
        examples=collect.labelled(first, config.examples),
        samples=collect.samples(first, drawn, 2),
        models=_models(found),
        calibration=_calibration(found),
        plots=_plots({name: logs[name] for name in drawn}),
        legend=plot.legend([Series(safe(name), (), ()) for name in drawn]),
        left_out=len(logs) - len(drawn),
        win_rates=[(safe(_title(f, len(config.folders))), *_table(f)) for f in found if f.manifest.kind == "winrates"],
        lineage=lineage.draw(first),
        stages=[_stage(f, len(config.folders)) for f in found],
        paid=sum(f.manifest.usage.get("usd", 0.0) for f in outer),
        seconds=sum(f.manifest.seconds for f in outer),
    )


def _title(f: Found, folders: int) -> str:
    """Name of an artifact, with the name of its folder if several folders are given."""
    root = f.folder.resolve().as_posix().removesuffix(f"/{f.name}").rpartition("/")[2]
    return f"{root}/{f.name}" if folders > 1 else f.name


def _table(f: Found) -> tuple[list[str], list[list[str]]]:
    columns, rows = winrates.cells(f.manifest)
    return columns, [[safe(cell) for cell in row] for row in rows]


def _trained(policies: dict[str, list[Found]]) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the logs of the PPO runs among the policies, by name."""
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
    """Table of the held-out accuracies of reward models, as means over seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, fs in collect.of_kind(found, "reward-model").items():
        for f in fs:
            groups.setdefault((name, f.manifest.stats["level"]), []).append(f.manifest.stats)
    categories = sorted({k for stats in groups.values() for s in stats for k in s["flips"]["by_category"]})
    rows = []
    for (name, level), stats in groups.items():
        cells = [_mean([s[key]["mean"] for s in stats]) for key in ("edited_over_original", "chosen_over_rejected")]
        cells.append(_mean([s["flips"]["accuracy"] for s in stats]))
        cells += [_mean([s["flips"]["by_category"].get(k, {}).get("accuracy") for s in stats]) for k in categories]
        rows.append([safe(name), level, *cells])
    columns = ["edited over original", "chosen over rejected", "flips", *(f"flips: {safe(k)}" for k in categories)]
    return {"columns": columns, "rows": rows}


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):.3f}" if known else "–"


def _calibration(found: Sequence[Found]) -> tuple[Markup, Markup]:
    """Calibration plot of the token-level models, over all seeds, and its legend."""
    lines = []
    for name, fs in collect.of_kind(found, "reward-model").items():
        pooled = _pooled([b for f in fs for b in f.manifest.stats.get("calibration", {}).get("bins", [])])
        if pooled:
            lines.append(Series(safe(name), [c for c, _ in pooled], [a for _, a in pooled]))
    if not lines:
        return Markup(""), Markup("")
    perfect = Series("perfect calibration", (0.3, 1.0), (0.3, 1.0), dashed=True)
    title = "Accuracy of token-level models by confidence"
    shown = [*lines[: _CURVES - 1], perfect]
    return plot.lines(shown, "confidence", "accuracy", title), plot.legend(shown)


def _pooled(bins: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return mean confidence and accuracy per tenth of confidence, without tenths of fewer than ``_MIN_TOKENS``."""
    tenths: dict[int, list[dict[str, Any]]] = {}
    for b in bins:
        tenths.setdefault(min(9, int(10 * b["confidence"])), []).append(b)
    sizes = {tenth: sum(b["n"] for b in members) for tenth, members in sorted(tenths.items())}
    return [
        (
            sum(b["n"] * b["confidence"] for b in tenths[tenth]) / n,
            sum(b["n"] * b["accuracy"] for b in tenths[tenth]) / n,
        )
        for tenth, n in sizes.items()
        if n >= _MIN_TOKENS
    ]


def _stage(f: Found, folders: int) -> dict[str, Any]:
    m = f.manifest
    cost = m.usage.get("usd")
    return {
        "name": safe(_title(f, folders)),
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
    """Shorten an absolute path to its last part; the rest is specific to the machine."""
    return Path(part).name if part.startswith("/") else part
