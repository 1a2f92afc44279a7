"""The model card of a reward model: description, loading code, metrics and lineage."""

from collections.abc import Mapping
from typing import Any

from tokalign import __version__
from tokalign.models.heads import Headed
from tokalign.models.reward import reads_last_token
from tokalign.models.tokenizer import Tokenizer

_AUTO = {"token": "AutoModelForTokenClassification", "sequence": "AutoModelForSequenceClassification"}

_DESCRIPTION = {
    "token": """For every token of a response, the model predicts the probabilities of **bad**, **neutral** and
**good**. The reward of a token is p(good) − p(bad).""",
    "sequence": "The model gives a response one score, at its last token (trained with the Bradley–Terry loss).",
}
_FLIPS = """`flips` is the accuracy of single edits: the share of edits for which the response with all edits scores
higher than the same response with this edit undone. Ties count half."""


def card(
    level: str, base: str, model: Any, tokenizer: Tokenizer, stats: Mapping[str, Any], rows: Mapping[str, Any]
) -> str:
    """Write the model card.

    Args:
        level: ``token`` or ``sequence``.
        base: folder or hub id of the base model.
        model: the trained model.
        tokenizer: its tokenizer.
        stats: metrics of the manifest.
        rows: numbers of ``train`` and ``heldout`` rows.

    Returns:
        Markdown with front matter for model hubs.
    """
    return f"""---
library_name: transformers
pipeline_tag: {"token" if level == "token" else "text"}-classification
tags: [reward-model, tokalign]
---

# A {level}-level reward model

{_DESCRIPTION[level]}
It was trained with `tokalign {__version__}` from `{base}`, following Xu et al., *Aligning Large Language Models via
Fine-grained Supervision* (ACL 2024). The input is the prompt, rendered with the chat template, followed by the
response and EOS.

With transformers (THIS is the path of this folder, PROMPT and RESPONSE are texts):

```python
{_loading_code(level, model)}
{_tokenization_code(tokenizer)}
{_scoring_code(level, model)}
```

With tokalign:

```python
import tokalign as ta
[scored] = ta.RewardModel.load(THIS).score([PROMPT], [RESPONSE])  # scored.score, scored.tokens
```

From the command line: `tokalign score RESPONSES --reward-model THIS --out REWARDS`.

## Held-out accuracy

{_table(stats)}

{_FLIPS}

The model was trained on {rows["train"]} rows; {rows["heldout"]} rows were held out by a hash of the prompt.
`manifest.json` has all metrics, all settings and the hashes of all inputs.
"""


def _loading_code(level: str, model: Any) -> str:
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


def _tokenization_code(tokenizer: Tokenizer) -> str:
    """Code that computes the ids ``prompt`` and ``response``."""
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


def _scoring_code(level: str, model: Any) -> str:
    if level == "token":
        return (
            "logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) :]\n"
            "bad, neutral, good = logits.softmax(-1).T\n"
            "rewards = good - bad  # one for each token of the response and EOS"
        )
    if reads_last_token(model):
        return (
            "hidden = model.base_model(torch.tensor([prompt + response])).last_hidden_state\n"
            "score = model.score(hidden[0, -1])  # at the last token, which is EOS"
        )
    return "score = model(torch.tensor([prompt + response])).logits[0]"


def _table(stats: Mapping[str, Any]) -> str:
    categories = stats["flips"]["by_category"]
    metrics = [
        ("edited over original", stats["edited_over_original"], "mean", "pairs"),
        ("chosen over rejected", stats["chosen_over_rejected"], "mean", "pairs"),
        ("flips", stats["flips"], "accuracy", "edits"),
        *((f"flips: {category}", flips, "accuracy", "edits") for category, flips in categories.items()),
    ]
    lines = ["| metric | value | 95 % | of |", "| --- | --- | --- | --- |"]
    for name, metric, value, size in metrics:
        if metric[value] is not None:
            low, high = metric["ci95"]
            lines.append(f"| {name} | {metric[value]:.3f} | {low:.3f}–{high:.3f} | {metric[size]} |")
    for name, area in stats.get("auroc", {}).items():
        if area["value"] is not None:
            low, high = area["ci95"]
            lines.append(f"| AUROC, {name} tokens | {area['value']:.3f} | {low:.3f}–{high:.3f} | |")
    if "calibration" in stats:
        lines.append(f"| expected calibration error | {stats['calibration']['ece']:.3f} | | |")
    return "\n".join(lines)
