"""Lineage of artifacts as a graph."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from tokalign.report.collect import Found
from tokalign.report.text import safe

_WIDE, _HIGH, _ACROSS, _DOWN = 158, 38, 44, 14


def edges(found: Sequence[Found]) -> dict[str, list[str]]:
    """Return the names of the input artifacts of each artifact, by its name."""
    by_folder = {f.folder.resolve(): f.name for f in found}

    def source(path: Path) -> str | None:  # the artifact that contains this path
        return next((by_folder[p] for p in (path, *path.parents) if p in by_folder), None)

    inputs: dict[str, list[str]] = {}
    for f in found:
        sources = [source((f.folder / str(i["path"])).resolve()) for i in f.manifest.inputs if "path" in i]
        inputs[f.name] = [s for s in dict.fromkeys(sources) if s is not None and s != f.name]
    return inputs


def draw(found: Sequence[Found]) -> Markup:
    """Draw the lineage as an ``<svg>``, inputs on the left and outputs on the right."""
    if not found:
        return Markup("")
    inputs = edges(found)
    kinds = {f.name: f.manifest.kind for f in found}
    depths: dict[str, int] = {}
    columns: dict[int, list[str]] = {}
    for name in inputs:
        columns.setdefault(_depth(name, inputs, depths), []).append(name)
    place = {
        name: (6 + depth * (_WIDE + _ACROSS), 6 + k * (_HIGH + _DOWN))
        for depth, names in columns.items()
        for k, name in enumerate(names)
    }
    width = 12 + (max(columns) + 1) * (_WIDE + _ACROSS) - _ACROSS
    height = 12 + max(len(names) for names in columns.values()) * (_HIGH + _DOWN)
    box = f'viewBox="0 0 {width} {height}" width="{width}"'
    out = [f'<svg class="lineage" {box} role="img" aria-label="Lineage of the artifacts">']
    for name, sources in inputs.items():
        for source in sources:
            (x0, y0), (x1, y1) = place[source], place[name]
            a, b = (x0 + _WIDE, y0 + _HIGH / 2), (x1, y1 + _HIGH / 2)
            bend = (a[0] + b[0]) / 2
            out.append(f'<path class="edge" d="M{a[0]},{a[1]}C{bend},{a[1]} {bend},{b[1]} {b[0]},{b[1]}"/>')
    for name, (x, y) in place.items():
        out.append(f'<rect class="node" x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="5"/>')
        title = f"<title>{escape(safe(name))}</title>"
        out.append(f'<text class="name" x="{x + 8}" y="{y + 16}">{escape(_short(name))}{title}</text>')
        out.append(f'<text class="kind" x="{x + 8}" y="{y + 30}">{escape(kinds[name])}</text>')
    return Markup("".join([*out, "</svg>"]))


def _depth(name: str, inputs: Mapping[str, Sequence[str]], depths: dict[str, int]) -> int:
    if name not in depths:
        depths[name] = 0  # ends the recursion if edited manifests contain a cycle
        depths[name] = 1 + max((_depth(s, inputs, depths) for s in inputs[name]), default=-1)
    return depths[name]


def _short(name: str, limit: int = 22) -> str:
    name = safe(name)
    return name if len(name) <= limit else "…" + name[-limit + 1 :]
