"""Agreement of token labels with the spans that people marked as errors, for every alignment unit and option.

QA-Feedback (Wu et al., 2023) contains a model's answer, a person's correction, and the spans that people marked as
errors. A word (``\\w+|[^\\w\\s]``) is labelled bad if any token that overlaps it is bad. Precision, recall and F1 are
over all words. The 95 % intervals are from a bootstrap over rows; the differences from Levenshtein over words are
paired.

    python bench/results/human_spans.py qa_feedback.json [--tokenizer MODEL] [--out docs/results/human_spans.json]

Without --tokenizer, a byte-level BPE with a vocabulary of 8000 is trained on the texts.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokalign import __version__
from tokalign.artifacts import token_labels
from tokalign.artifacts.manifest import open_artifact
from tokalign.artifacts.schemas import Edit
from tokalign.config.stages import DiffConfig
from tokalign.core.diff import NEVER
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer
from tokalign.stages import diff

WORD = re.compile(r"\w+|[^\w\s]")

BLOCKS = {
    f"blocks, merge {merge}" + ("" if whole == NEVER else f", whole {whole}"): {"merge": merge, "whole_sentence": whole}
    for merge, whole in [*((m, NEVER) for m in range(4)), (1, 0.8), (2, 0.7), (2, 0.8), (2, 0.9), (3, 0.8)]
}
ALIGNMENTS: dict[str, dict[str, Any]] = {
    "levenshtein": {"align": "levenshtein"},
    "lcs": {"align": "lcs"},
    **BLOCKS,
    "blocks, merge 2, whole 0.8, omissions": {"omissions": True},
    "token: levenshtein": {"unit": "token", "align": "levenshtein"},
    "token: lcs": {"unit": "token", "align": "lcs"},
    **{f"token: blocks, merge {merge}": {"unit": "token", "merge": merge} for merge in (1, 2, 3)},
}
BASE, DEFAULT = "levenshtein", "blocks, merge 2, whole 0.8"


def marked(spans: list[tuple[int, int]], text: str) -> NDArray[np.bool_]:
    """(words,) bool: whether any character of the word is in a span."""
    characters = np.zeros(len(text) + 1, dtype=bool)
    for start, end in spans:
        characters[start:end] = True
    return np.array([characters[m.start() : m.end()].any() for m in WORD.finditer(text)], dtype=bool)


def labelled_bad(edits: list[Edit], tokenizer: Tokenizer, options: dict[str, Any]) -> list[NDArray[np.bool_]]:
    """For each original, (words,) bool: whether the word has a bad token."""
    config = DiffConfig(edits="-", tokenizer="-", out=Path("-"), max_length=100_000, **options)
    with tempfile.TemporaryDirectory() as folder:
        data = diff.label(edits, tokenizer, config).data
        (Path(folder) / "data.arrow").write_bytes(token_labels.HEAD + data + token_labels.TAIL)
        rows = token_labels.read_labels(open_artifact(Path(folder)))
    spans = [[(i, j) for (i, j), z in zip(r.original_offsets, r.original_labels, strict=True) if z == -1] for r in rows]
    return [marked(of_row, row.original) for of_row, row in zip(spans, rows, strict=True)]


def f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 from counts (…, 3): words that are labelled bad and marked, labelled bad, marked."""
    return 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


COMMAND = "python bench/results/human_spans.py qa_feedback.json"


def main() -> None:
    """Measure every alignment, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tokenizer")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [r for r in json.loads(args.data.read_text()) if r["feedback"]["corrected-prediction"]]
    texts = [(r["prediction 1"], r["feedback"]["corrected-prediction"]) for r in rows]
    tokenizer = (
        Tokenizer.load(args.tokenizer) if args.tokenizer else train_tiny((t for pair in texts for t in pair), 8000)
    )
    edits = [Edit(id=str(k), prompt="-", original=a, edited=b) for k, (a, b) in enumerate(texts)]
    truth = [
        marked([(e["start"], e["end"]) for e in r["feedback"]["errors"]], text)
        for r, (text, _) in zip(rows, texts, strict=True)
    ]
    counts = {}
    for name, options in ALIGNMENTS.items():
        bad = labelled_bad(edits, tokenizer, options)
        counts[name] = np.array(
            [[(s & t).sum(), s.sum(), t.sum()] for s, t in zip(bad, truth, strict=True)], dtype=float
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
        print(f"{name:<38} P {r['precision']:.3f}  R {r['recall']:.3f}  F1 {r['f1']:.3f} {r['ci95']}", end="  ")
        print(f"above levenshtein {r['above_levenshtein']:+.3f} {r['above_levenshtein_ci95']}")
    if args.out:
        whole = {
            "command": COMMAND,
            "tokalign": __version__,
            "rows": len(rows),
        }
        args.out.write_text(json.dumps({**whole, "default": DEFAULT, "ways": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
