"""Line plots as inline SVG without scripts and styles. Colours and fonts come from the page's CSS classes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 38
_DOTS = 12
"""Largest number of points for which each point of a line gets a dot."""


class Series(NamedTuple):
    """A line with an optional band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """Lower edge of the band; empty: no band."""
    high: Sequence[float] = ()
    """Upper edge of the band."""
    dashed: bool = False


def lines(series: Sequence[Series], x_label: str, y_label: str, title: str, whole: bool = False) -> Markup:
    """Draw a line plot. Line k has the CSS class ``c{k % 8}``. The names of the lines are in :func:`legend`.

    Args:
        series: the lines.
        x_label: label of the x axis.
        y_label: label of the y axis.
        title: accessible title.
        whole: whether x has whole numbers only, and ticks at whole numbers.

    Returns:
        An ``<svg>`` without a fixed size; empty if there is nothing to draw.
    """
    shown = [s for s in series if len(s.x)]
    if not shown:
        return Markup("")
    xs = [x for s in shown for x in s.x]
    ys = [y for s in shown for y in (*s.y, *s.low, *s.high)]
    x_ticks, y_ticks = ticks(min(xs), max(xs), least=1 if whole else 0), ticks(min(ys), max(ys))
    x0, x1 = min(x_ticks[0], *xs), max(x_ticks[-1], *xs)
    y0, y1 = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def place(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + (x - x0) / ((x1 - x0) or 1) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - (y - y0) / ((y1 - y0) or 1) * (HEIGHT - _TOP - _BOTTOM)
        return round(right, 1), round(down, 1)

    def path(xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join("{},{}".format(*place(x, y)) for x, y in zip(xs, ys, strict=True))

    name, low, centre = escape(title), HEIGHT - _BOTTOM, (_LEFT + WIDTH - _RIGHT) / 2
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}"><title>{name}</title>']
    for tick in y_ticks:
        down = place(x0, tick)[1]
        out.append(f'<path class="grid" d="M{_LEFT},{down}H{WIDTH - _RIGHT}"/>')
        out.append(_text("tick", _LEFT - 6, down + 4, number(tick), "end"))
    out += [_text("tick", place(tick, y0)[0], low + 16, number(tick)) for tick in x_ticks]
    out.append(_text("axis", centre, HEIGHT - 4, x_label))
    out.append(_text("axis", 0, 0, y_label, turn=f"translate(11 {(_TOP + low) / 2}) rotate(-90)"))
    for k, s in enumerate(series):
        if s.low:
            edge = f"{path(s.x, s.high)} {path(s.x[::-1], s.low[::-1])}"
            out.append(f'<polygon class="band c{k % 8}" points="{edge}"/>')
    for k, s in enumerate(series):
        kind = f"line c{k % 8}{' dashed' if s.dashed else ''}"
        out.append(f'<polyline class="{kind}" points="{path(s.x, s.y)}"><title>{escape(s.name)}</title></polyline>')
        if len(s.x) <= _DOTS:
            dots = (place(x, y) for x, y in zip(s.x, s.y, strict=True))
            out += [f'<circle class="dot c{k % 8}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in dots]
    return Markup("".join([*out, "</svg>"]))


def _text(kind: str, x: float, y: float, text: str, anchor: str = "middle", turn: str = "") -> str:
    turned = f' transform="{turn}"' if turn else ""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'


def legend(series: Sequence[Series]) -> Markup:
    """Draw the legend: colour and name of each line."""
    line = '<svg viewBox="0 0 34 10" aria-hidden="true"><path class="line c{}{}" d="M1,5H33"/></svg>'
    marks = [
        f"<li>{line.format(k % 8, ' dashed' if s.dashed else '')}{escape(s.name)}</li>" for k, s in enumerate(series)
    ]
    return Markup(f'<ul class="legend">{"".join(marks)}</ul>') if marks else Markup("")


def ticks(low: float, high: float, about: int = 5, least: float = 0) -> list[float]:
    """Return about ``about`` round numbers that cover ``low`` to ``high``, at least ``least`` apart."""
    span = high - low
    if not span > 0:
        span = abs(low) or 1.0
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(least, next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(k * step, digits) for k in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Format the label of a tick."""
    return f"{value:g}" if abs(value) < 10_000 else f"{value / 1000:g}k"
