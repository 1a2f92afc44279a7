"""The model card of a reward model: what it is, how to load it, how good it is, where it comes from."""

from collections.abc import Mapping
from typing import Any

from tokalign import __version__
from tokalign.config.stages import TrainRmConfig
from tokalign.models.heads import Headed

_AUTO = {"token": "AutoModelForTokenClassification", "sequence": "AutoModelForSequenceClassification"}

_WHAT = {
    "token": """It says of every token of a response how likely it is **bad**, **neutral** or **good**; the reward of a
token is p(good) − p(bad).""",
    "sequence": "It gives a response one score, read at its last token (Bradley–Terry).",
}


def card(config: TrainRmConfig, model: Any, stats: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    """Markdown with the front matter that model hubs read."""
    return f"""---
library_name: transformers
pipeline_tag: {"token" if config.level == "token" else "text"}-classification
tags: [reward-model, tokalign]
---

# A {config.level}-level reward model

{_WHAT[config.level]}
Made by `tokalign {__version__}` from `{config.model}`, after Xu et al., *Aligning Large Language Models via
Fine-grained Supervision* (ACL 2024). The prompt is rendered by the chat template and followed by the response and EOS.

```python
{_loading(config.level, model)}
```

Or rate responses from the command line: `tokalign score RESPONSES --reward-model THIS --out REWARDS`.

## Held-out accuracy

{_table(stats)}

{rows["train"]} rows to train on, {rows["heldout"]} held out by a hash of the prompt. `manifest.json` holds all
metrics, every setting and the hashes of what it was made from.
"""


def _loading(level: str, model: Any) -> str:
    if isinstance(model, Headed):
        return (
            "from tokalign.models.heads import Headed\n"
            "from transformers import AutoConfig, AutoTokenizer\n"
            "model = Headed.from_pretrained(THIS, config=AutoConfig.from_pretrained(THIS))\n"
            "tokenizer = AutoTokenizer.from_pretrained(THIS)"
        )
    return (
        f"from transformers import {_AUTO[level]}, AutoTokenizer\n"
        f"model = {_AUTO[level]}.from_pretrained(THIS)\n"
        "tokenizer = AutoTokenizer.from_pretrained(THIS)"
    )


def _table(stats: Mapping[str, Any]) -> str:
    kinds = stats["flips"]["by_category"]
    named = [
        ("edited over original", stats["edited_over_original"], "mean", "pairs"),
        ("chosen over rejected", stats["chosen_over_rejected"], "mean", "pairs"),
        ("one edit undone", stats["flips"], "accuracy", "edits"),
        *((f"one edit undone: {kind}", one, "accuracy", "edits") for kind, one in kinds.items()),
    ]
    lines = ["| metric | value | 95 % | of |", "| --- | --- | --- | --- |"]
    for name, found, value, size in named:
        if found[value] is not None:
            low, high = found["ci95"]
            lines.append(f"| {name} | {found[value]:.3f} | {low:.3f}–{high:.3f} | {found[size]} |")
    for name, area in stats.get("auroc", {}).items():
        if area["value"] is not None:
            low, high = area["ci95"]
            lines.append(f"| AUROC, {name} tokens | {area['value']:.3f} | {low:.3f}–{high:.3f} | |")
    if "calibration" in stats:
        lines.append(f"| expected calibration error | {stats['calibration']['ece']:.3f} | | |")
    return "\n".join(lines)
