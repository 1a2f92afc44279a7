"""Speed of ``diff`` relative to the tokenizer alone, and to Levenshtein in plain Python.

Uses pairs of running text of about 200 tokens with a few edits. Prints ratios of a single run: for all work on a row
except reading and writing, and for aligning and labelling alone. Then compares whole runs of the command with one and
with two processes.

    python bench/speed/diff.py [--pairs 2048] [--rows 40000] [--out docs/results/diff_speed.json]
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokalign import __version__
from tokalign.artifacts.schemas import Edit
from tokalign.config.stages import DiffConfig
from tokalign.core.diff import AlignOptions, similarity
from tokalign.core.words import split
from tokalign.models import labelling
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer, Tokens
from tokalign.playground.world import World
from tokalign.stages import diff


def python_labels(a: Sequence[int], b: Sequence[int]) -> tuple[list[int], list[int]]:
    """Textbook Levenshtein alignment over token ids in O(mn). Returns the labels of both sides."""
    table = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        above, row = table[-1], [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j - 1] + (x != y), above[j] + 1, row[j - 1] + 1))
        table.append(row)
    bad, good = [-1] * len(a), [1] * len(b)
    i, j = len(a), len(b)
    while i and j:
        here = table[i][j]
        if a[i - 1] == b[j - 1] and table[i - 1][j - 1] == here:
            i, j = i - 1, j - 1
            bad[i] = good[j] = 0
        elif table[i - 1][j - 1] == here - 1:
            i, j = i - 1, j - 1
        elif table[i - 1][j] == here - 1:
            i -= 1
        else:
            j -= 1
    return bad, good


def pairs(n: int) -> list[Edit]:
    """``n`` paragraphs of playground sentences, in which some sentences are changed, deleted or inserted."""
    rng = random.Random(0)
    sentences = [s + "." for row in World(0).sft(500) for s in str(row["response"]).rstrip(".").split(". ")]
    made = []
    for i in range(n):
        original = [rng.choice(sentences) for _ in range(24)]
        edited = list(original)
        for _ in range(3):
            at = rng.randrange(len(edited))
            words = edited[at].split()
            words[rng.randrange(len(words))] = rng.choice(sentences).split()[0]
            edited[at : at + 1] = rng.choice([[" ".join(words)], [], [edited[at], rng.choice(sentences)]])
        a, b = " ".join(original), " ".join(edited)
        made.append(Edit(id=str(i), prompt="Tell me.", original=a, edited=b, similarity=similarity(a, b)))
    return made


def seconds(work: Callable[[], Any]) -> float:
    """Shortest time of three calls."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def chunks(edits: list[Edit]) -> list[list[Edit]]:
    """Split edits into chunks, as the stage does."""
    return [edits[i : i + diff.CHUNK] for i in range(0, len(edits), diff.CHUNK)]


def each(parts: Sequence[Any], work: Callable[[Any], Any]) -> None:
    """Call ``work`` on each part and discard the results."""
    for part in parts:
        work(part)


def texts(edits: list[Edit]) -> list[str]:
    """All texts that are tokenized."""
    return [text for e in edits for text in (e.prompt, e.original, e.edited) if isinstance(text, str)]


def sides(edits: list[Edit], tokenizer: Tokenizer) -> tuple[list[str], list[str], Tokens, Tokens]:
    """Originals, edited texts, and the tokens of both."""
    originals, editeds = [e.original for e in edits], [e.edited for e in edits]
    a, b = (tokenizer.tokens(some, tokenizer.encode(some)) for some in (originals, editeds))
    return originals, editeds, a, b


def workers(edits: list[Edit], tokenizer: Tokenizer) -> float:
    """Speed of the stage with two processes relative to one, over whole runs with start-up."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "edits.jsonl"
        source.write_text("".join(json.dumps(e.model_dump()) + "\n" for e in edits), encoding="utf-8")
        saved = Path(folder) / "tokenizer"
        tokenizer.save(saved)
        took = []
        for n in (1, 2):
            out = Path(folder) / f"by-{n}"
            config = DiffConfig(edits=str(source), tokenizer=str(saved), out=out, workers=n, quiet=True)
            took.append(float(diff.run(config).manifest.seconds))
    print(f"\n{len(edits)} rows: one process {took[0]:.1f} s, two {took[1]:.1f} s: {took[0] / took[1]:.2f}×")
    return took[0] / took[1]


def main() -> None:
    """Measure, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2048, help="pairs to label")
    parser.add_argument("--rows", type=int, default=40_000, help="rows for the comparison of processes; 0: skip it")
    parser.add_argument("--out", type=Path, help="result file")
    args = parser.parse_args()
    ratios_by_alignment: dict[str, dict[str, float]] = {}
    edits = pairs(args.pairs)
    tokenizer = train_tiny((e.original for e in edits), 2000)
    parts = chunks(edits)
    ready = [sides(part, tokenizer) for part in parts]
    backend, n = tokenizer.hf_tokenizer.backend_tokenizer, len(edits)
    ids = [(tokenizer.responses([e.original])[0].ids, tokenizer.responses([e.edited])[0].ids) for e in edits[:20]]
    slow = seconds(lambda: [python_labels(a, b) for a, b in ids]) / len(ids)
    tokens = sum(len(a.ids) + len(b.ids) for *_, a, b in ready) / n / 2
    alone = seconds(lambda: each(parts, lambda part: backend.encode_batch(texts(part)))) / n
    called = (
        seconds(lambda: each(parts, lambda part: tokenizer.hf_tokenizer(texts(part), return_offsets_mapping=True))) / n
    )
    print(f"{tokens:.0f} tokens per response; µs per pair: Levenshtein in plain Python {1e6 * slow:.0f},", end=" ")
    print(f"the tokenizer alone {1e6 * alone:.0f}, with offsets {1e6 * called:.0f}\n")
    columns = ["all, µs", "of tokenizer", "offsets", "align and label, µs", "of plain Python"]
    print(f"{'':>20} | {columns[0]:>8} {columns[1]:>13} {columns[2]:>7} | {columns[3]:>20} {columns[4]:>16}")
    for unit in ("word", "token"):
        for align in ("blocks", "lcs", "levenshtein"):
            config: Any = DiffConfig(edits="-", tokenizer="-", out=Path("-"), unit=unit, align=align)

            def label(part: list[Edit], config: DiffConfig = config) -> None:
                diff.label(part, tokenizer, config)

            def compare(part: Any, config: DiffConfig = config) -> None:
                originals, editeds, a, b = part
                options = AlignOptions(config.align, config.merge, config.whole_sentence)
                labelling.compare(split(originals), split(editeds), a, b, options, config.unit, config.omissions)

            took, compared = (seconds(partial(each, *work)) / n for work in ((parts, label), (ready, compare)))
            ratios = {
                "of_tokenizer": alone / took,
                "of_tokenizer_called": called / took,
                "of_plain_python": slow / compared,
            }
            ratios_by_alignment[f"{unit}, {align}"] = {name: round(ratio, 2) for name, ratio in ratios.items()}
            print(
                f"{unit + ', ' + align:>20} | {1e6 * took:>8.0f} {alone / took:>12.2f}× {called / took:>6.2f}×",
                end=" | ",
            )
            print(f"{1e6 * compared:>20.0f} {slow / compared:>15.1f}×")
    result: dict[str, Any] = {
        "command": "python bench/speed/diff.py",
        "tokalign": __version__,
        "tokens": round(tokens),
        "ways": ratios_by_alignment,
    }
    if args.rows:
        result |= {"rows": args.rows, "two_workers": round(workers(pairs(args.rows), tokenizer), 2)}
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
