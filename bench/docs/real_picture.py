"""The picture of the experiment on restaurant reviews: win rate by training step, as an SVG."""

import math
import statistics

from tables import Result
from tokalign.report import plot

SHOWN = {
    "token": "token-level PPO",
    "end": "same reward model, paid at the end",
    "sequence": "sequence-level PPO",
}
"""Arms, with their names in the legend."""
COLOURS = ("#0072b2", "#d55e00", "#009e73")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#666}.grid{stroke:#ddd;fill:none}.line{fill:none;stroke-width:2}"
    ".band{opacity:.15}"
    + "".join(f"polyline.c{k}{{stroke:{c}}}polygon.c{k},circle.c{k}{{fill:{c}}}" for k, c in enumerate(COLOURS))
)


def series(result: Result, arm: str) -> plot.Series:
    """Win rate of an arm on the held-out prompts by step: mean over seeds, with 95 % of its error over prompts."""
    runs = [seed["runs"]["0"]["courses"][arm] for seed in result["seeds"].values()]
    looks = list(zip(*runs, strict=True))
    rates = [statistics.mean(run["win_rate"] for run in look) for look in looks]
    errors = [1.96 * math.hypot(*(run["win_rate_error"] for run in look)) / len(look) for look in looks]
    return plot.Series(
        SHOWN[arm],
        [look[0]["step"] for look in looks],
        rates,
        [r - e for r, e in zip(rates, errors, strict=True)],
        [r + e for r, e in zip(rates, errors, strict=True)],
    )


def picture(result: Result) -> str:
    """Win rate over the starting policy by step, for the arms in ``SHOWN``."""
    drawn = [series(result, arm) for arm in SHOWN]
    title = "Win rate over the starting policy on held-out prompts, by PPO step"
    svg = str(plot.lines(drawn, "PPO step", "win rate, %", title, whole=True))
    legend = "".join(
        f'<circle class="c{k}" cx="238" cy="{166 + 17 * k}" r="4"/><text x="248" y="{170 + 17 * k}">{s.name}</text>'
        for k, s in enumerate(drawn)
    )
    start = svg.index(">") + 1
    head = svg[:start].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="690" height="390" ', 1)
    ground = f'<rect width="{plot.WIDTH}" height="{plot.HEIGHT}" fill="#fff"/>'
    return f"{head}<style>{STYLE}</style>{ground}{svg[start:].removesuffix('</svg>')}{legend}</svg>\n"
