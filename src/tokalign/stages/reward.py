"""``tokalign train-rm``: token labels in, a token-level or sequence-level reward model out."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokalign import artifacts, sources, tables
from tokalign.artifacts import Manifest
from tokalign.config import TrainRmConfig
from tokalign.core import rewards
from tokalign.core.diff import NEVER, Way
from tokalign.errors import InputError
from tokalign.models import evaluation, loading
from tokalign.models.batch import Batch, pad_rows
from tokalign.models.reward import RewardModel, sequence_scores
from tokalign.models.tokenization import Codec, same_tokenizer
from tokalign.models.training import fit
from tokalign.schemas import TokenLabels
from tokalign.writer import writing


def run(config: TrainRmConfig) -> Manifest:
    """Train on most prompts, report on the held-out ones."""
    folder = Path(config.labels)
    if not artifacts.is_artifact(folder):
        raise InputError("not a token-labels artifact", where=config.labels, remedy="make one: tokalign diff")
    manifest = artifacts.verify(folder, "token-labels")
    lineage = {**manifest.lineage(), "path": config.labels}
    inputs = {"labels": lineage}
    if config.model != "tiny":
        inputs["model"] = sources.model_lineage(config.model)

    with writing("reward-model", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        device = loading.pick_device(config.device)
        torch.manual_seed(config.seed)
        codec = Codec.load(folder / "tokenizer")
        rows = tables.read_labels(folder, config.limit)
        skipped: Counter[str] = Counter()
        usable = [r for r in rows if _fits(r, config, skipped)]
        train = [r for r in usable if not evaluation.is_heldout(r, config.heldout)]
        heldout = [r for r in usable if evaluation.is_heldout(r, config.heldout)]

        model = _new_model(config, codec).to(device)
        examples, collate = _examples(train, config, codec, device)
        if not examples:
            raise InputError(
                f"no rows to train on: {dict(skipped)}", where=config.labels, remedy="see --max-length and --pairs"
            )
        weights = torch.tensor([config.weight_bad, config.weight_neutral, config.weight_good], device=device)
        goals = rewards.targets(config.neutral == "soft", config.label_smoothing).to(device)

        def loss(model: Any, inputs: dict[str, Any]) -> Tensor:
            batch: Batch = inputs["batch"]
            if config.level == "token":
                logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
                return rewards.token_loss(batch.gather(logits), inputs["labels"], batch.response_mask, weights, goals)
            better, worse = sequence_scores(model, batch).chunk(2)
            return rewards.pair_loss(better, worse)

        lengths = [max(len(p) + len(r) for p, r in e["pairs"]) for e in examples]
        fitted = fit("train-rm", model, examples, lengths, collate, loss, config, out.folder)
        model.save_pretrained(str(out.folder))
        codec.save(out.folder)
        metrics = evaluation.evaluate(RewardModel(model, codec, config.level), heldout, _way(manifest))
        n_skipped = sum(skipped.values())
        account = {"in": len(rows), "out": len(usable), "skipped": n_skipped, "reasons": dict(skipped)}
        split = {"train": len(train), "heldout": len(heldout)}
        return out.commit({**account, **split}, {"level": config.level, **fitted, **metrics})


def _way(labels: artifacts.Manifest) -> Way:
    """How the labels were aligned."""
    knobs = labels.config
    return Way(knobs["align"], knobs.get("merge", 0), knobs.get("whole_sentence", NEVER))


def _fits(row: TokenLabels, config: TrainRmConfig, skipped: Counter[str]) -> bool:
    fits = len(row.prompt_ids) + max(len(row.original_ids), len(row.edited_ids)) <= config.max_length
    if not fits:
        skipped["over --max-length"] += 1
    return fits


def _new_model(config: TrainRmConfig, codec: Codec) -> Any:
    if config.model == "tiny":
        return loading.new_tiny_classifier(codec, config.seed, config.max_length, config.level)
    if not same_tokenizer(Codec.load(config.model), codec):
        raise InputError(
            f"{config.model} and the labels have different tokenizers",
            where=config.labels,
            remedy=f"label again: tokalign diff … --tokenizer {config.model}",
        )
    new = loading.new_token_model if config.level == "token" else loading.new_sequence_model
    return new(config.model, config.dtype)


def _examples(
    rows: list[TokenLabels], config: TrainRmConfig, codec: Codec, device: torch.device
) -> tuple[list[dict[str, Any]], Any]:
    """Training examples, each with its responses as ``pairs`` (better first), and what makes a batch of them."""
    examples: list[dict[str, Any]] = []
    if config.level == "token":
        for r in rows:
            pairs = [(r.prompt_ids, r.edited_ids), (r.prompt_ids, r.original_ids)]
            examples.append({"id": r.id, "pairs": pairs, "labels": [r.edited_labels, r.original_labels]})
    else:
        chosen = codec.responses([r.chosen or "" for r in rows])
        for r, c in zip(rows, chosen, strict=True):
            worse = (r.prompt_ids, r.original_ids)
            if config.pairs in ("chosen", "both") and r.chosen:
                examples.append({"id": r.id, "pairs": [(r.prompt_ids, c.ids), worse]})
            if config.pairs in ("edited", "both") and r.edited != r.original:
                examples.append({"id": r.id, "pairs": [(r.prompt_ids, r.edited_ids), worse]})

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        # All better responses, then all worse ones.
        made = {
            "id": [e["id"] for e in batch],
            "batch": Batch.of([e["pairs"][side] for side in (0, 1) for e in batch], codec.pad_id, device),
        }
        if config.level == "token":
            labels = [torch.tensor(e["labels"][side]) for side in (0, 1) for e in batch]
            made["labels"] = pad_rows(labels).to(device)
        return made

    return examples, collate
