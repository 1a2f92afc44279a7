"""How good a reward model is, on rows it was not trained on."""

import hashlib
import json
from collections import defaultdict
from typing import Any

import torch

from tokalign.core import diff, rewards
from tokalign.models.batch import Pair
from tokalign.models.reward import RewardModel
from tokalign.schemas import TokenLabels


def is_heldout(row: TokenLabels, share: float) -> bool:
    """Whether a row is held out: decided by the hash of its prompt, so no prompt stands on both sides."""
    digest = hashlib.sha256(json.dumps(row.prompt, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def evaluate(model: RewardModel, rows: list[TokenLabels]) -> dict[str, Any]:
    """Metrics on held-out rows.

    * ``edited_over_original``, ``chosen_over_rejected``: pair accuracy by mean and by sum of token rewards
      (for a sequence model both are its score), with the number of pairs;
    * ``flips``: one edit undone at a time, does the text with all edits score higher? By flaw category
      where the categories of a row match its edits one to one;
    * ``classes``: precision, recall and F1 of bad / neutral / good (token level).
    """
    edits = [r for r in rows if r.edited != r.original]
    natural = [r for r in rows if r.chosen and r.chosen != r.original]
    chosen = model.codec.responses([r.chosen or "" for r in natural])
    report: dict[str, Any] = {
        "edited_over_original": _accuracy(
            model,
            [(r.prompt_ids, r.edited_ids) for r in edits],
            [(r.prompt_ids, r.original_ids) for r in edits],
        ),
        "chosen_over_rejected": _accuracy(
            model,
            [(r.prompt_ids, c.ids) for r, c in zip(natural, chosen, strict=True)],
            [(r.prompt_ids, r.original_ids) for r in natural],
        ),
        "flips": _flips(model, edits),
    }
    if model.level == "token" and rows:
        report["classes"] = _classes(model, rows)
    return report


def _accuracy(model: RewardModel, better: list[Pair], worse: list[Pair]) -> dict[str, Any]:
    b, w = model.rate(better), model.rate(worse)
    return {
        "mean": rewards.pair_accuracy(b.means, w.means),
        "sum": rewards.pair_accuracy(b.sums, w.sums),
        "pairs": len(better),
    }


def _flips(model: RewardModel, rows: list[TokenLabels]) -> dict[str, Any]:
    full: list[Pair] = []
    texts: list[str] = []
    kinds: list[str] = []
    for row in rows:
        edits = diff.group_edits(diff.word_opcodes(row.original, row.edited))
        known = len(row.categories) == len(edits)
        for k in range(len(edits)):
            full.append((row.prompt_ids, row.edited_ids))
            texts.append(diff.undo(row.original, row.edited, edits[k]))
            kinds.append(row.categories[k] if known else "")
    undone = [(p, e.ids) for (p, _), e in zip(full, model.codec.responses(texts), strict=True)]
    b, w = model.rate(full).sums, model.rate(undone).sums
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i, kind in enumerate(kinds):
        if kind:
            by_kind[kind].append(i)
    return {
        "accuracy": rewards.pair_accuracy(b, w),
        "edits": len(b),
        "by_category": {
            kind: {"accuracy": rewards.pair_accuracy([b[i] for i in at], [w[i] for i in at]), "edits": len(at)}
            for kind, at in sorted(by_kind.items())
        },
    }


def _classes(model: RewardModel, rows: list[TokenLabels]) -> dict[str, Any]:
    pairs: list[Pair] = [p for r in rows for p in ((r.prompt_ids, r.original_ids), (r.prompt_ids, r.edited_ids))]
    labels = torch.tensor([z for r in rows for side in (r.original_labels, r.edited_labels) for z in side])
    probs = model.rate(pairs).probs
    assert probs is not None
    return rewards.class_report(torch.cat(probs).argmax(-1) - 1, labels)
