"""The model card of a reward model: what it is, how to load it, how good it is, where it comes from."""

from collections.abc import Mapping
from typing import Any

from tokalign import __version__
from tokalign.models.heads import Headed
from tokalign.models.reward import reads_last_token
from tokalign.models.tokenizer import Tokenizer

_AUTO = {"token": "AutoModelForTokenClassification", "sequence": "AutoModelForSequenceClassification"}

_WHAT = {
    "token": """It says of every token of a response how likely it is **bad**, **neutral** or **good**; the reward of a
token is p(good) − p(bad).""",
    "sequence": "It gives a response one score, read at its last token (Bradley–Terry).",
}


def card(
    level: str, base: str, model: Any, tokenizer: Tokenizer, stats: Mapping[str, Any], rows: Mapping[str, Any]
) -> str:
    """Markdown with the front matter that model hubs read."""
    return f"""---
library_name: transformers
pipeline_tag: {"token" if level == "token" else "text"}-classification
tags: [reward-model, tokalign]
---

# A {level}-level reward model

{_WHAT[level]}
Made by `tokalign {__version__}` from `{base}`, after Xu et al., *Aligning Large Language Models via
Fine-grained Supervision* (ACL 2024). The prompt is rendered by the chat template and followed by the response and EOS.

With transformers (THIS is this folder, PROMPT a text, RESPONSE an answer to it):

```python
{_loading(level, model)}
{_reading(tokenizer)}
{_scoring(level, model)}
```

With tokalign:

```python
import tokalign as ta
[scored] = ta.RewardModel.load(THIS).score([PROMPT], [RESPONSE])  # scored.score, scored.tokens
```

From the command line: `tokalign score RESPONSES --reward-model THIS --out REWARDS`.

## Held-out accuracy

{_table(stats)}

{rows["train"]} rows to train on, {rows["heldout"]} held out by a hash of the prompt. `manifest.json` holds all
metrics, every setting and the hashes of what it was made from.
"""


def _loading(level: str, model: Any) -> str:
    if isinstance(model, Headed):
        return (
            "import torch\n"
            "from tokalign.models.heads import Headed\n"
            "from transformers import AutoConfig, AutoTokenizer\n"
            "model = Headed.from_pretrained(THIS, config=AutoConfig.from_pretrained(THIS)).eval()\n"
            "tokenizer = AutoTokenizer.from_pretrained(THIS)"
        )
    return (
        "import torch\n"
        f"from transformers import {_AUTO[level]}, AutoTokenizer\n"
        f"model = {_AUTO[level]}.from_pretrained(THIS).eval()\n"
        "tokenizer = AutoTokenizer.from_pretrained(THIS)"
    )


def _reading(tokenizer: Tokenizer) -> str:
    """How the ids come about, ``prompt`` and ``response``."""
    if tokenizer.hf_tokenizer.chat_template:
        prompt = (
            'messages = [{"role": "user", "content": PROMPT}]\n'
            "text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)\n"
            'prompt = tokenizer(text, add_special_tokens=False)["input_ids"]'
        )
    else:
        ids = 'tokenizer(f"User: {PROMPT}\\n\\nAssistant:\\n")["input_ids"]'
        prompt = f"prompt = [i for i in {ids} if i != {tokenizer.eos_id}]"
        if tokenizer.hf_tokenizer.bos_token_id == tokenizer.eos_id:
            prompt = f"prompt = {ids}"
    return f'{prompt}\nresponse = [*tokenizer(RESPONSE, add_special_tokens=False)["input_ids"], {tokenizer.eos_id}]'


def _scoring(level: str, model: Any) -> str:
    if level == "token":
        return (
            "logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) :]\n"
            "bad, neutral, good = logits.softmax(-1).T\n"
            "rewards = good - bad  # of every token of the response, EOS last"
        )
    if reads_last_token(model):
        return (
            "hidden = model.base_model(torch.tensor([prompt + response])).last_hidden_state\n"
            "score = model.score(hidden[0, -1])  # at the last token, which is EOS"
        )
    return "score = model(torch.tensor([prompt + response])).logits[0]"


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
