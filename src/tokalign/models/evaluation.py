"""How good a reward model is, on rows it was not trained on."""

import hashlib
import json
from collections import defaultdict
from typing import Any

import torch

from tokalign.core import diff, rewards
from tokalign.core.words import split
from tokalign.models.reward import Ratings, RewardModel
from tokalign.schemas import TokenLabels


def is_heldout(row: TokenLabels, share: float) -> bool:
    """Whether a row is held out: decided by the hash of its prompt, so no prompt stands on both sides."""
    digest = hashlib.sha256(json.dumps(row.prompt, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def evaluate(model: RewardModel, rows: list[TokenLabels], way: diff.Way) -> dict[str, Any]:
    """Metrics on held-out rows.

    * ``edited_over_original``, ``chosen_over_rejected``: pair accuracy by mean and by sum of token rewards
      (for a sequence model both are its score), with the number of pairs;
    * ``flips``: one edit undone at a time, does the text with all edits score higher? By flaw category
      where the categories of a row match its edits one to one (``way``: how edits are told apart);
    * ``classes``: precision, recall and F1 of bad / neutral / good (token level).
    """
    # Each text is rated once, and each rating serves every metric that asks for it.
    originals = model.rate([(r.prompt_ids, r.original_ids) for r in rows])
    editeds = model.rate([(r.prompt_ids, r.edited_ids) for r in rows])
    natural = [i for i, r in enumerate(rows) if r.chosen and r.chosen != r.original]
    codes = model.codec.responses([rows[i].chosen or "" for i in natural])
    chosen = model.rate([(rows[i].prompt_ids, c.ids) for i, c in zip(natural, codes, strict=True)])
    changed = [i for i, r in enumerate(rows) if r.edited != r.original]
    report: dict[str, Any] = {
        "edited_over_original": _accuracy(_take(editeds, changed), _take(originals, changed)),
        "chosen_over_rejected": _accuracy(chosen, _take(originals, natural)),
        "flips": _flips(model, [rows[i] for i in changed], _take(editeds, changed).sums, way),
    }
    if originals.probs is not None and editeds.probs is not None and rows:
        labels = [z for side in ("original_labels", "edited_labels") for r in rows for z in getattr(r, side)]
        predicted = torch.cat(originals.probs + editeds.probs).argmax(-1) - 1
        report["classes"] = rewards.class_report(predicted, torch.tensor(labels))
    return report


def _take(ratings: Ratings, rows: list[int]) -> Ratings:
    probs = ratings.probs
    return Ratings([ratings.rewards[i] for i in rows], None if probs is None else [probs[i] for i in rows])


def _accuracy(better: Ratings, worse: Ratings) -> dict[str, Any]:
    return {
        "mean": rewards.pair_accuracy(better.means, worse.means),
        "sum": rewards.pair_accuracy(better.sums, worse.sums),
        "pairs": len(better.rewards),
    }


def _flips(model: RewardModel, rows: list[TokenLabels], sums: list[float], way: diff.Way) -> dict[str, Any]:
    """``sums``: the score of each row's text with all edits."""
    full: list[float] = []
    prompts: list[list[int]] = []
    texts: list[str] = []
    by_kind: dict[str, list[int]] = defaultdict(list)
    kept = diff.compare_words(split([r.original for r in rows]), split([r.edited for r in rows]), way)
    for k, (row, total) in enumerate(zip(rows, sums, strict=True)):
        edits = diff.changes(diff.opcodes(kept, k))
        kinds = row.categories if len(row.categories) == len(edits) else []
        for kind, at in zip(kinds, range(len(texts), len(texts) + len(edits)), strict=False):
            by_kind[kind].append(at)
        full += [total] * len(edits)
        prompts += [row.prompt_ids] * len(edits)
        texts += [diff.undo(row.original, row.edited, edit) for edit in edits]
    undone = model.rate([(p, e.ids) for p, e in zip(prompts, model.codec.responses(texts), strict=True)]).sums
    return {
        "accuracy": rewards.pair_accuracy(full, undone),
        "edits": len(full),
        "by_category": {
            kind: {"accuracy": rewards.pair_accuracy([full[i] for i in at], [undone[i] for i in at]), "edits": len(at)}
            for kind, at in sorted(by_kind.items())
        },
    }
