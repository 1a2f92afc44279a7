"""Metrics of a reward model on held-out rows."""

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
    """Whether a row is held out, decided by a hash of its prompt: all rows of a prompt are on the same side.

    ``share`` is the expected share of held-out prompts.
    """
    digest = hashlib.sha256(json.dumps(row.prompt, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def quick(model: RewardModel, examples: Sequence[dict[str, Any]], weights: Tensor, goals: Tensor) -> dict[str, float]:
    """Compute the metrics that select a checkpoint.

    Args:
        model: the reward model.
        examples: held-out training examples, each with two pairs of ids, the better one first.
        weights: (3,) class weights of the loss.
        goals: (3, 3) target distribution of each class.

    Returns:
        ``accuracy``, the pair accuracy by mean reward on pairs that differ, and ``loss``, the training loss.
    """
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
"""Maps prompt ids and the length of a response to the prompt ids that fit beside it, or None if they do not fit."""


def rate(model: RewardModel, rows: Sequence[TokenLabels]) -> tuple[Ratings, Ratings]:
    """Rate the original and the edited responses of the rows."""
    originals = model.rate([(r.prompt_ids, r.original_ids) for r in rows])
    return originals, model.rate([(r.prompt_ids, r.edited_ids) for r in rows])


def evaluate(
    model: RewardModel,
    rows: list[TokenLabels],
    align: diff.AlignOptions,
    room: Room = lambda prompt, _: list(prompt),
    rated: tuple[Ratings, Ratings] | None = None,
) -> dict[str, Any]:
    """Compute metrics on held-out rows.

    95 % intervals (``ci95``) are from a bootstrap over rows, responses (AUROC) or edits.

    * ``edited_over_original``, ``chosen_over_rejected``: pair accuracy by the mean (with ``ci95``) and by the sum of
      the token rewards, and the number of pairs. For a sequence-level model both are its score.
    * ``flips``: accuracy of single edits: the share of edits for which the response with all edits scores higher than
      the same response with one edit undone. Also by flaw category, for rows whose categories match their edits.
    * ``length``: correlation of the mean and of the sum of the token rewards with the number of tokens.

    For a token-level model also:

    * ``classes``: precision, recall and F1 of bad, neutral and good tokens.
    * ``auroc``: area under the ROC curve of p(bad) for bad tokens and of p(good) for good tokens.
    * ``calibration``: expected calibration error of the most likely class, see :func:`calibration`.
    * ``recall``: recall of bad and good tokens by flaw category.

    Args:
        model: the reward model.
        rows: held-out rows.
        align: the alignment options that separate the edits of a response.
        room: fits a prompt beside a response. A response with an edit undone can be longer than original and edited
            response; edits for which it does not fit are left out of ``flips``.
        rated: the result of :func:`rate`, if it is known.

    Returns:
        The metrics by name.
    """
    # Rate each text once and use the ratings for all metrics.
    originals, editeds = rated or rate(model, rows)
    with_chosen = [i for i, r in enumerate(rows) if r.chosen and r.chosen != r.original]
    encoded = model.tokenizer.responses([rows[i].chosen or "" for i in with_chosen])
    chosen = model.rate([(rows[i].prompt_ids, c.ids) for i, c in zip(with_chosen, encoded, strict=True)])
    changed = [i for i, r in enumerate(rows) if r.edited != r.original]
    sizes = [len(r.original_ids) for r in rows] + [len(r.edited_ids) for r in rows]
    report: dict[str, Any] = {
        "edited_over_original": _accuracy(_take(editeds, changed), _take(originals, changed)),
        "chosen_over_rejected": _accuracy(chosen, _take(originals, with_chosen)),
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
    predicted = every.argmax(1) - 1
    areas = {}
    for name, z in (("bad", -1), ("good", 1)):
        interval = auroc_interval([p[:, z + 1] for p in probs], [label == z for label in labels])
        value = float(roc_auc_score(truth == z, every[:, z + 1])) if interval else None
        areas[name] = {"value": value, "ci95": interval}
    return {
        "classes": rewards.class_report(torch.from_numpy(predicted), torch.from_numpy(truth)),
        "auroc": areas,
        "calibration": calibration(every.max(1), predicted == truth),
        "recall": _recall(
            rows, [p.argmax(1) - 1 for p in probs[: len(rows)]], [p.argmax(1) - 1 for p in probs[len(rows) :]]
        ),
    }


def _recall(rows: list[TokenLabels], originals: list[Any], editeds: list[Any]) -> dict[str, Any]:
    """Recall by flaw category, for rows whose categories match their edits one to one."""
    hits: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"bad": [], "good": []})
    for row, a, b in zip(rows, originals, editeds, strict=True):
        if len(row.categories) != max([*row.original_spans, *row.edited_spans, 0]):
            continue
        for side, z, predictions, spans in (("bad", -1, a, row.original_spans), ("good", 1, b, row.edited_spans)):
            for predicted, span in zip(predictions, spans, strict=True):
                if span:
                    hits[row.categories[span - 1]][side].append(float(predicted == z))
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
        "ci95": mean_interval(rewards.wins(better.means, worse.means)),
        "sum": rewards.pair_accuracy(better.sums, worse.sums),
        "pairs": len(better.rewards),
    }


def _flips(
    model: RewardModel, rows: list[TokenLabels], sums: list[float], align: diff.AlignOptions, room: Room
) -> dict[str, Any]:
    """Accuracy of single edits; see :func:`evaluate`. ``sums``: score of each row's response with all edits."""
    full: list[float] = []
    pairs: list[Pair] = []
    by_kind: dict[str, list[int]] = defaultdict(list)
    alignment = diff.compare_words(split([r.original for r in rows]), split([r.edited for r in rows]), align)
    for k, (row, total) in enumerate(zip(rows, sums, strict=True)):
        edits = diff.changes(diff.opcodes(alignment, k))
        kinds = row.categories if len(row.categories) == len(edits) else [""] * len(edits)
        undone = model.tokenizer.responses([diff.undo(row.original, row.edited, edit) for edit in edits])
        for kind, text in zip(kinds, undone, strict=True):
            prompt = room(row.prompt_ids, len(text.ids))
            if prompt is not None:
                by_kind[kind].append(len(pairs))
                pairs.append((prompt, text.ids))
                full.append(total)
    wins = rewards.wins(full, model.rate(pairs).sums)

    def accuracy(at: Sequence[int]) -> dict[str, Any]:
        selected = [wins[i] for i in at]
        value = float(np.mean(selected)) if selected else None
        return {"accuracy": value, "ci95": mean_interval(selected), "edits": len(selected)}

    return {
        **accuracy(range(len(wins))),
        "by_category": {kind: accuracy(at) for kind, at in sorted(by_kind.items()) if kind},
    }
