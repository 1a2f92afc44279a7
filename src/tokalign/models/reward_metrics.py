"""How good a reward model is, on rows it was not trained on."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokalign.artifacts.schemas import TokenLabels
from tokalign.core import diff, rewards
from tokalign.core.intervals import auroc_interval, calibration, correlation, mean_interval
from tokalign.core.words import split
from tokalign.models.batch import Pair
from tokalign.models.reward import Ratings, RewardModel


def is_heldout(row: TokenLabels, share: float) -> bool:
    """Whether a row is held out: decided by the hash of its prompt, so no prompt stands on both sides."""
    digest = hashlib.sha256(json.dumps(row.prompt, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def quick(model: RewardModel, examples: Sequence[dict[str, Any]], weights: Tensor, goals: Tensor) -> dict[str, float]:
    """``accuracy`` on the pairs of training examples, and the training's ``loss``: enough to choose a checkpoint by."""
    better, worse = (model.rate([e["pairs"][side] for e in examples]) for side in (0, 1))
    differ = [i for i, e in enumerate(examples) if not np.array_equal(e["pairs"][0][1], e["pairs"][1][1])]
    accuracy = rewards.pair_accuracy(*([side.means[i] for i in differ] for side in (better, worse))) or 0.0
    if better.probs is None or worse.probs is None:
        loss = rewards.pair_loss(torch.tensor(better.sums), torch.tensor(worse.sums))
    else:
        rows = [e["labels"][side] for side in (0, 1) for e in examples]
        labels = torch.from_numpy(np.concatenate(rows)).long()
        logits = torch.cat(better.probs + worse.probs).clamp_min(1e-9).log()
        mask = torch.ones_like(labels, dtype=torch.bool)
        loss = rewards.token_loss(logits, labels, mask, weights.cpu(), goals.cpu())
    return {"accuracy": accuracy, "loss": float(loss)}


Room = Callable[[Sequence[int], int], list[int] | None]
"""Prompt ids and the size of a response to the prompt that fits beside it, None if none does."""


def evaluate(
    model: RewardModel, rows: list[TokenLabels], align: diff.AlignOptions, room: Room = lambda prompt, _: list(prompt)
) -> dict[str, Any]:
    """Metrics on held-out rows, with 95 % intervals (``ci95``) from a bootstrap over rows or edits.

    * ``edited_over_original``, ``chosen_over_rejected``: pair accuracy by mean (``ci95``) and by sum of token rewards
      (for a sequence model both are its score), with the number of pairs;
    * ``flips``: one edit undone at a time, does the text with all edits score higher? By flaw category
      where the categories of a row match its edits one to one (``align``: how edits are told apart). A text with an
      edit undone can be longer than both; one for which there is no ``room`` is left out;
    * ``length``: correlation of mean and of sum of token rewards with the number of tokens.

    Of a token model also:

    * ``classes``: precision, recall and F1 of bad / neutral / good;
    * ``auroc``: of p(bad) for bad tokens, p(good) for good ones;
    * ``calibration``: see :func:`calibration`, of the likeliest class;
    * ``recall``: by flaw category, the share of its bad (good) tokens that were called so.
    """
    # Each text is rated once, and each rating serves every metric that asks for it.
    originals = model.rate([(r.prompt_ids, r.original_ids) for r in rows])
    editeds = model.rate([(r.prompt_ids, r.edited_ids) for r in rows])
    natural = [i for i, r in enumerate(rows) if r.chosen and r.chosen != r.original]
    codes = model.tokenizer.responses([rows[i].chosen or "" for i in natural])
    chosen = model.rate([(rows[i].prompt_ids, c.ids) for i, c in zip(natural, codes, strict=True)])
    changed = [i for i, r in enumerate(rows) if r.edited != r.original]
    sizes = [len(r.original_ids) for r in rows] + [len(r.edited_ids) for r in rows]
    report: dict[str, Any] = {
        "edited_over_original": _accuracy(_take(editeds, changed), _take(originals, changed)),
        "chosen_over_rejected": _accuracy(chosen, _take(originals, natural)),
        "flips": _flips(model, [rows[i] for i in changed], _take(editeds, changed).sums, align, room),
        "length": {
            "mean": correlation(originals.means + editeds.means, sizes),
            "sum": correlation(originals.sums + editeds.sums, sizes),
        },
    }
    if originals.probs is not None and editeds.probs is not None and rows:
        report |= _of_tokens(rows, originals.probs, editeds.probs)
    return report


def _of_tokens(rows: list[TokenLabels], originals: list[Tensor], editeds: list[Tensor]) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    probs = [p.numpy() for p in originals + editeds]
    labels = [np.array(r.original_labels) for r in rows] + [np.array(r.edited_labels) for r in rows]
    every, truth = np.concatenate(probs), np.concatenate(labels)
    said = every.argmax(1) - 1
    areas = {}
    for name, z in (("bad", -1), ("good", 1)):
        interval = auroc_interval([p[:, z + 1] for p in probs], [label == z for label in labels])
        value = float(roc_auc_score(truth == z, every[:, z + 1])) if interval else None
        areas[name] = {"value": value, "ci95": interval}
    return {
        "classes": rewards.class_report(torch.from_numpy(said), torch.from_numpy(truth)),
        "auroc": areas,
        "calibration": calibration(every.max(1), said == truth),
        "recall": _recall(
            rows, [p.argmax(1) - 1 for p in probs[: len(rows)]], [p.argmax(1) - 1 for p in probs[len(rows) :]]
        ),
    }


def _recall(rows: list[TokenLabels], originals: list[Any], editeds: list[Any]) -> dict[str, Any]:
    """By flaw category, where the categories of a row match its edits one to one."""
    hits: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"bad": [], "good": []})
    for row, a, b in zip(rows, originals, editeds, strict=True):
        if len(row.categories) != max([*row.original_spans, *row.edited_spans, 0]):
            continue
        for side, z, said, spans in (("bad", -1, a, row.original_spans), ("good", 1, b, row.edited_spans)):
            for guess, span in zip(said, spans, strict=True):
                if span:
                    hits[row.categories[span - 1]][side].append(float(guess == z))
    return {
        kind: {side: {"recall": float(np.mean(x)) if x else None, "tokens": len(x)} for side, x in sides.items()}
        for kind, sides in sorted(hits.items())
    }


def _take(ratings: Ratings, rows: list[int]) -> Ratings:
    probs = ratings.probs
    return Ratings([ratings.rewards[i] for i in rows], None if probs is None else [probs[i] for i in rows])


def _accuracy(better: Ratings, worse: Ratings) -> dict[str, Any]:
    return {
        "mean": rewards.pair_accuracy(better.means, worse.means),
        "ci95": mean_interval(_wins(better.means, worse.means)),
        "sum": rewards.pair_accuracy(better.sums, worse.sums),
        "pairs": len(better.rewards),
    }


def _wins(better: Sequence[float], worse: Sequence[float]) -> list[float]:
    return [1.0 if b > w else 0.5 if b == w else 0.0 for b, w in zip(better, worse, strict=True)]


def _flips(
    model: RewardModel, rows: list[TokenLabels], sums: list[float], align: diff.AlignOptions, room: Room
) -> dict[str, Any]:
    """``sums``: the score of each row's text with all edits."""
    full: list[float] = []
    pairs: list[Pair] = []
    by_kind: dict[str, list[int]] = defaultdict(list)
    kept = diff.compare_words(split([r.original for r in rows]), split([r.edited for r in rows]), align)
    for k, (row, total) in enumerate(zip(rows, sums, strict=True)):
        edits = diff.changes(diff.opcodes(kept, k))
        kinds = row.categories if len(row.categories) == len(edits) else [""] * len(edits)
        undone = model.tokenizer.responses([diff.undo(row.original, row.edited, edit) for edit in edits])
        for kind, text in zip(kinds, undone, strict=True):
            prompt = room(row.prompt_ids, len(text.ids))
            if prompt is not None:
                by_kind[kind].append(len(pairs))
                pairs.append((prompt, text.ids))
                full.append(total)
    wins = _wins(full, model.rate(pairs).sums)

    def accuracy(at: Sequence[int]) -> dict[str, Any]:
        some = [wins[i] for i in at]
        return {"accuracy": float(np.mean(some)) if some else None, "ci95": mean_interval(some), "edits": len(some)}

    return {
        **accuracy(range(len(wins))),
        "by_category": {kind: accuracy(at) for kind, at in sorted(by_kind.items()) if kind},
    }
