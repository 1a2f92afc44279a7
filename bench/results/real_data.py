"""Files of the experiment on restaurant reviews (real.py), made from CEBaB (Abraham et al., 2022, CC-BY-4.0).

CEBAB is a folder with ``reviews.jsonl`` (``restaurant``, ``cuisine``, ``part``, ``text``, mean ``stars`` of five
raters, whether ``edited``) and ``edits.jsonl`` (``original``, ``edited``, ``aspect``, ``still_negative``). Parts are
split by restaurant: ``train``, ``judge``, ``heldout`` and ``test``.
"""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smollm2 import fetch

from real_statistics import SAMPLES
from tokalign.models import loading
from tokalign.models.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""SmolLM2's chat template without its default system message."""


def read(cebab: Path, name: str) -> list[dict[str, Any]]:
    """Rows of ``edits`` or ``reviews``."""
    return [json.loads(line) for line in (cebab / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def prompt(row: dict[str, Any]) -> str:
    """Prompt of a review."""
    return f"Review {row['restaurant']} ({row['cuisine']})."


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(cebab: Path, folder: Path) -> None:
    """Write ``sft``, ``natural``, ``prompts``, ``heldout``, ``test`` and four sets of edits (``.jsonl``).

    Held-out and test prompts are repeated ``SAMPLES`` times.
    ``edits-clean`` has the edits that leave no other aspect negative. ``natural`` pairs a review of at most 2.5 stars
    with one of at least 3.5 stars of the same cuisine, as many as there are edits. Also writes the language model.
    """
    reviews, every = read(cebab, "reviews"), read(cebab, "edits")
    edits = [e for e in every if e["part"] == "train"]
    plain = [r for r in reviews if r["part"] == "train" and not r["edited"]]
    _write(folder / "sft.jsonl", ({"id": r["id"], "prompt": prompt(r), "response": r["text"]} for r in plain))
    sets = {"edits": edits, "edits-clean": [e for e in edits if not e["still_negative"]]}
    sets |= {f"edits-{part}": [e for e in every if e["part"] == part] for part in ("heldout", "test")}
    for name, kept in sets.items():
        rows = (
            {
                "id": e["id"], "prompt": prompt(e), "original": e["original"], "edited": e["edited"],
                "categories": [e["aspect"]],
            }
            for e in kept
        )  # fmt: skip
        _write(folder / f"{name}.jsonl", rows)
    draw = random.Random(0)
    low = [r for r in plain if r["stars"] <= 2.5]
    high = {c: [r for r in plain if r["cuisine"] == c and r["stars"] >= 3.5] for c in {r["cuisine"] for r in plain}}
    pairs: list[dict[str, Any]] = []
    while len(pairs) < len(edits):
        worse = draw.choice(low)
        if high[worse["cuisine"]]:
            better = draw.choice(high[worse["cuisine"]])
            pairs.append(
                {
                    "id": f"n{len(pairs)}", "prompt": prompt(worse), "chosen": better["text"],
                    "rejected": worse["text"],
                }
            )  # fmt: skip
    _write(folder / "natural.jsonl", pairs)
    for part, name in (("train", "prompts"), ("heldout", "heldout"), ("test", "test")):
        asked = sorted({prompt(r) for r in reviews if r["part"] == part})
        times = 1 if part == "train" else SAMPLES
        rows = ({"id": f"{name}-{k}-{n}", "prompt": p} for k, p in enumerate(asked) for n in range(times))
        _write(folder / f"{name}.jsonl", rows)
    tokenizer, model = Tokenizer.load(fetch()), loading.load_policy(fetch())
    model.save_pretrained(str(folder / "base"))
    tokenizer.hf_tokenizer.chat_template = TEMPLATE
    tokenizer.hf_tokenizer.save_pretrained(str(folder / "base"))
    (folder / "data.done").touch()
