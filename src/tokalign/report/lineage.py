"""What was made from what, as a drawing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from tokalign.report.collect import Found
from tokalign.report.text import safe

_WIDE, _HIGH, _ACROSS, _DOWN = 158, 38, 44, 14


def edges(found: Sequence[Found]) -> dict[str, list[str]]:
    """Name of each artifact → names of those that it was made from."""
    by_place = {f.folder.resolve(): f.name for f in found}

    def source(path: Path) -> str | None:  # an artifact, or a file or a folder in one
        return next((by_place[p] for p in (path, *path.parents) if p in by_place), None)

    made: dict[str, list[str]] = {}
    for f in found:
        sources = [source((f.folder / str(i["path"])).resolve()) for i in f.manifest.inputs if "path" in i]
        made[f.name] = [s for s in dict.fromkeys(sources) if s is not None and s != f.name]
    return made


def draw(found: Sequence[Found]) -> Markup:
    """An ``<svg>``: inputs on the left, what was made of them to the right."""
    if not found:
        return Markup("")
    made = edges(found)
    kinds = {f.name: f.manifest.kind for f in found}
    depths: dict[str, int] = {}
    columns: dict[int, list[str]] = {}
    for name in made:
        columns.setdefault(_depth(name, made, depths), []).append(name)
    place = {
        name: (6 + depth * (_WIDE + _ACROSS), 6 + k * (_HIGH + _DOWN))
        for depth, names in columns.items()
        for k, name in enumerate(names)
    }
    width = 12 + (max(columns) + 1) * (_WIDE + _ACROSS) - _ACROSS
    height = 12 + max(len(names) for names in columns.values()) * (_HIGH + _DOWN)
    box = f'viewBox="0 0 {width} {height}" width="{width}"'
    out = [f'<svg class="lineage" {box} role="img" aria-label="What was made from what">']
    for name, sources in made.items():
        for source in sources:
            (x0, y0), (x1, y1) = place[source], place[name]
            a, b = (x0 + _WIDE, y0 + _HIGH / 2), (x1, y1 + _HIGH / 2)
            bend = (a[0] + b[0]) / 2
            out.append(f'<path class="edge" d="M{a[0]},{a[1]}C{bend},{a[1]} {bend},{b[1]} {b[0]},{b[1]}"/>')
    for name, (x, y) in place.items():
        out.append(f'<rect class="node" x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="5"/>')
        whole = f"<title>{escape(safe(name))}</title>"
        out.append(f'<text class="name" x="{x + 8}" y="{y + 16}">{escape(_short(name))}{whole}</text>')
        out.append(f'<text class="kind" x="{x + 8}" y="{y + 30}">{escape(kinds[name])}</text>')
    return Markup("".join([*out, "</svg>"]))


def _depth(name: str, made: Mapping[str, Sequence[str]], known: dict[str, int]) -> int:
    if name not in known:
        known[name] = 0  # a loop cannot be; a file that was changed by hand can say so
        known[name] = 1 + max((_depth(s, made, known) for s in made[name]), default=-1)
    return known[name]


def _short(name: str, most: int = 22) -> str:
    name = safe(name)
    return name if len(name) <= most else "…" + name[-most + 1 :]
