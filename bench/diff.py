"""How fast labels are made: ``diff`` against the tokenizer alone, and against Levenshtein in plain Python.

Pairs of about 200 tokens of running text, edited here and there. Prints ratios of one run.

    python bench/diff.py [--pairs 2000]
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from tokalign.config import DiffConfig
from tokalign.models.tokenization import Codec, train_tiny
from tokalign.playground.world import World
from tokalign.schemas import Edit
from tokalign.stages import diff


def python_levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    """The textbook's, over token ids: O(mn)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(above + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def pairs(n: int) -> list[Edit]:
    """Responses of the world joined to paragraphs, of which some sentences are rewritten, dropped or put in."""
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
        row = {"id": str(i), "prompt": "Tell me.", "original": " ".join(original), "edited": " ".join(edited)}
        made.append(Edit.model_validate(row))
    return made


def seconds(work: Callable[[], Any]) -> float:
    """The quickest of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def label(edits: list[Edit], codec: Codec, config: DiffConfig) -> None:
    """What the stage does with its rows but for reading and writing."""
    for i in range(0, len(edits), diff.CHUNK):
        diff.label(edits[i : i + diff.CHUNK], codec, config)


def tokenize(edits: list[Edit], codec: Codec) -> None:
    """The tokenizer alone, on the same texts."""
    for i in range(0, len(edits), diff.CHUNK):
        part = edits[i : i + diff.CHUNK]
        codec.tokenizer._tokenizer.encode_batch([t for e in part for t in (e.prompt, e.original, e.edited)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2000)
    edits = pairs(parser.parse_args().pairs)
    codec = train_tiny((e.original for e in edits), 2000)
    ids = [(codec.responses([e.original])[0].ids, codec.responses([e.edited])[0].ids) for e in edits[:20]]
    tokens = sum(len(a) + len(b) for a, b in ids) / len(ids) / 2
    alone = seconds(lambda: tokenize(edits, codec)) / len(edits)
    slow = seconds(lambda: [python_levenshtein(a, b) for a, b in ids]) / len(ids)
    print(
        f"{tokens:.0f} tokens a response; tokenizer alone {1e6 * alone:.0f} µs a pair; plain Python {1e6 * slow:.0f} µs"
    )
    print(f"{'unit':>6} {'align':>12} {'µs a pair':>10} {'of tokenizer':>13} {'of plain Python':>16}")
    for unit in ("word", "token"):
        for align in ("blocks", "lcs", "levenshtein"):
            config: Any = DiffConfig(edits="-", tokenizer="-", out="-", unit=unit, align=align)  # type: ignore[arg-type]
            took = seconds(lambda config=config: label(edits, codec, config)) / len(edits)  # type: ignore[misc]
            print(f"{unit:>6} {align:>12} {1e6 * took:>10.0f} {alone / took:>12.2f}× {slow / took:>15.1f}×")


if __name__ == "__main__":
    main()
