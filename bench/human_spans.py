"""Do labels follow people? Words called bad against the spans that people marked, for every way to align.

QA-Feedback (Wu et al., 2023) holds a model's answer, a person's correction, and the spans that people marked as
errors. A word (``\\w+|[^\\w\\s]``) is bad if any of its characters is; precision, recall and F1 are over all words,
with 95 % intervals from a bootstrap over rows, paired with plain Levenshtein over words.

    python bench/human_spans.py qa_feedback.json [--out docs/results/human_spans.json]
"""

import argparse
import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokalign import __version__
from tokalign.core import diff
from tokalign.core.diff import NEVER, Way
from tokalign.core.words import split

WORD = re.compile(r"\w+|[^\w\s]")

WAYS = {
    "levenshtein": Way("levenshtein"),
    "lcs": Way("lcs"),
    **{f"blocks, merge {cost}": Way("blocks", cost, NEVER) for cost in (1, 2, 3)},
    **{
        f"blocks, merge {cost}, whole {whole}": Way("blocks", cost, whole)
        for cost, whole in ((1, 0.8), (2, 0.7), (2, 0.8), (2, 0.9), (3, 0.8))
    },
}
BASE, DEFAULT = "levenshtein", "blocks, merge 2, whole 0.8"


def marked(characters: NDArray[Any], text: str) -> NDArray[np.bool_]:
    """For each word, whether any of its characters is."""
    return np.array([characters[m.start() : m.end()].any() for m in WORD.finditer(text)], dtype=bool)


def human(row: dict[str, Any]) -> NDArray[np.bool_]:
    """Words that people marked."""
    text = row["prediction 1"]
    spans = np.zeros(len(text) + 1, dtype=int)
    for error in row["feedback"]["errors"]:
        spans[error["start"] : error["end"]] = 1
    return marked(spans, text)


def f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """From (…, 3): both, said, marked."""
    return 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


def main() -> None:
    """Measure every way, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [r for r in json.loads(args.data.read_text()) if r["feedback"]["corrected-prediction"]]
    originals, editeds = [r["prediction 1"] for r in rows], [r["feedback"]["corrected-prediction"] for r in rows]
    ends = [0, *accumulate(map(len, originals))]
    truth = [human(r) for r in rows]
    counts = {}
    for name, way in WAYS.items():
        changed, _ = diff.spans(diff.compare_words(split(originals), split(editeds), way))
        said = [marked(changed[i:j], text) for i, j, text in zip(ends, ends[1:], originals, strict=False)]
        counts[name] = np.array(
            [[(s & t).sum(), s.sum(), t.sum()] for s, t in zip(said, truth, strict=True)], dtype=float
        )
    draws = np.random.default_rng(0).integers(0, len(rows), (10_000, len(rows)))
    base = f1(counts[BASE][draws].sum(1))
    result = {}
    for name, c in counts.items():
        total, again = c.sum(0), f1(c[draws].sum(1))
        result[name] = {
            "precision": round(total[0] / total[1], 4),
            "recall": round(total[0] / total[2], 4),
            "f1": round(float(f1(total)), 4),
            "ci95": [round(float(q), 4) for q in np.quantile(again, [0.025, 0.975])],
            "above_levenshtein": round(float(f1(total) - f1(counts[BASE].sum(0))), 4),
            "above_levenshtein_ci95": [round(float(q), 4) for q in np.quantile(again - base, [0.025, 0.975])],
        }
        r = result[name]
        print(f"{name:<30} P {r['precision']:.3f}  R {r['recall']:.3f}  F1 {r['f1']:.3f} {r['ci95']}", end="  ")
        print(f"above levenshtein {r['above_levenshtein']:+.3f} {r['above_levenshtein_ci95']}")
    if args.out:
        whole = {"command": "python bench/human_spans.py qa_feedback.json", "tokalign": __version__, "rows": len(rows)}
        args.out.write_text(json.dumps({**whole, "default": DEFAULT, "ways": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
