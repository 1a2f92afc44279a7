"""``tokalign train-rm``: read token labels or preferences, train a token-level or sequence-level reward model."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tokalign.artifacts import manifest, token_labels
from tokalign.artifacts.result import StageResult
from tokalign.artifacts.schemas import Preference, TokenLabels
from tokalign.artifacts.writer import Writer, writing
from tokalign.config.stages import TrainRmConfig
from tokalign.core.diff import AlignOptions
from tokalign.data import dataset
from tokalign.errors import InputError, KindError, UsageError
from tokalign.models import loading, lora, reward_metrics
from tokalign.models.batch import over, room
from tokalign.models.distributed import broadcast, is_main_process, main_process_writes
from tokalign.models.labelling import alignment
from tokalign.models.model_card import card
from tokalign.models.pairs import supports_pairs
from tokalign.models.prompts import renderable
from tokalign.models.reward import RewardModel
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer, same_tokenizer
from tokalign.training.examples import Ids, collate, counts, examples_of, lengths
from tokalign.training.losses import PairLoss, TokenLoss, class_targets, class_weights
from tokalign.training.preferences import as_labels, texts
from tokalign.training.saving import save_trained
from tokalign.training.supervised import Early, fit

CHUNK = 1000
"""Rows read at a time."""


def run(config: TrainRmConfig) -> StageResult:
    """Train a reward model, and compute its metrics on the held-out prompts.

    Returns:
        The manifest; an empty result in all but the main process.
    """
    # 1. Open the labels or preferences.
    data = _data(config)
    inputs = {data.name: data.lineage}
    if config.model != "tiny":
        inputs["model"] = dataset.model_lineage(config.model)

    follower = Writer(config.out, "reward-model", config, inputs)
    with main_process_writes(writing("reward-model", config, inputs), follower) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished) if is_main_process() else StageResult()

        # 2. Create the model.
        device = loading.pick_device(config.device)
        torch.manual_seed(config.seed)
        tokenizer = data.tokenizer()
        model = _new_model(config, tokenizer)
        max_tokens = loading.max_row_length(model, config.max_length)

        # 3. Read the rows, and split them into training and held-out rows.
        split = _read(data, config, tokenizer, max_tokens)
        heldout = split.heldout
        examples, heldout_examples = split.examples, examples_of(heldout, split.heldout_chosen, config)
        _check_examples(split, config)
        if config.patience and not heldout_examples:
            raise InputError(
                "--patience needs held-out rows, and there are none", where=config.labels, remedy="raise --heldout"
            )

        # 4. Train.
        model.to(device)
        shared = broadcast(
            lambda: supports_pairs(model, config.level, [e["pairs"] for e in examples], tokenizer.pad_id)
        )
        if config.lora:
            model = lora.adapt(model, config)
        fitted, model = fit(
            "train-rm",
            TokenLoss(model, config) if config.level == "token" else PairLoss(model),
            examples,
            lengths(examples, shared=shared),
            counts(examples, config),
            partial(collate, tokenizer=tokenizer, device=device, shared=shared),
            config,
            out.space,
            _early(config, tokenizer, heldout_examples),
        )
        if not is_main_process():
            return StageResult()

        # 5. Save the model, and evaluate it on the held-out rows.
        model = save_trained(model, tokenizer, out.space, config)
        if config.lora:
            model = RewardModel.load(out.folder, config.dtype).model.to(device)
        metrics = reward_metrics.evaluate(
            RewardModel(model, tokenizer, config.level),
            heldout,
            data.align,
            partial(room, most=max_tokens, cut=config.cut_prompts),
        )
        stats = {"level": config.level, **fitted, **metrics}
        n_skipped = sum(split.skipped.values())
        kept = split.rows - n_skipped
        account = {"in": split.rows, "out": kept, "skipped": n_skipped, "reasons": dict(split.skipped)}
        account |= {"train": kept - len(heldout), "heldout": len(heldout)}
        out.space.write("README.md", card(config.level, config.model, model, tokenizer, stats, account))
        return StageResult.of(out.folder, out.commit(account, stats, notes=split.notes))


def _early(config: TrainRmConfig, tokenizer: Tokenizer, examples: Sequence[dict[str, Any]]) -> Early | None:
    """Return the early stopping of ``--patience``, measured on ``examples``; None without ``--patience``."""
    if not config.patience:
        return None
    weights, targets = class_weights(config), class_targets(config)

    def measure(model: Any) -> dict[str, float]:
        return reward_metrics.quick(RewardModel(model, tokenizer, config.level), examples, weights, targets)

    return Early(measure, config.eval_every, config.patience)


class Data(NamedTuple):
    """Source of the training data."""

    name: str
    """Name of the input: ``labels`` or ``preferences``."""
    lineage: dict[str, Any]
    tokenizer: Callable[[], Tokenizer]
    """Loads or trains the tokenizer of the rows."""
    rows: Callable[[Tokenizer, "Split"], Iterator[TokenLabels]]
    """Iterates over the rows. Takes the tokenizer, and the split in which skipped rows and notes are recorded."""
    align: AlignOptions
    """Alignment of the labels."""


def _data(config: TrainRmConfig) -> Data:
    """Open the source of the training data.

    Raises:
        InputError: it contains neither token labels nor, at sequence level, preferences.
        UsageError: ``--pairs`` needs edits, and the source contains preferences.
    """
    folder = Path(config.labels)
    kind = manifest.kind_of(folder)
    if kind == "preferences" or (kind is None and config.level == "sequence"):
        return _preferences(config)
    labels = token_labels.open_labels(config.labels)
    return Data(
        "labels",
        {**labels.manifest.lineage(), "path": config.labels},
        lambda: Tokenizer.load(folder / "tokenizer"),
        lambda *_: islice(token_labels.iter_labels(labels), config.limit),
        alignment(labels.manifest.config),
    )


def _preferences(config: TrainRmConfig) -> Data:
    """Open preferences, for the sequence-level baseline that needs no edits."""
    if config.level == "token":
        remedy = "edit the rejected responses with tokalign edit, then label the edits with tokalign diff"
        raise KindError("holds preferences, not token-labels", where=config.labels, remedy=remedy)
    if config.pairs != "chosen":
        remedy = "remove --pairs, or run tokalign edit and tokalign diff first"
        raise UsageError(f"--pairs {config.pairs}: {config.labels} holds preferences, not edits", remedy=remedy)
    rows = dataset.read_rows(config.labels, Preference, "preferences", options=config, limit=config.limit)

    def read(tokenizer: Tokenizer, split: Split) -> Iterator[TokenLabels]:
        kept, split.notes = renderable(rows, [tokenizer], config.strict)
        split.skipped.update(kept.reasons)
        split.rows += kept.reasons.total()
        yield from as_labels(kept, tokenizer)

    return Data(
        "preferences",
        rows.lineage,
        lambda: (
            train_tiny(texts(rows), config.vocab) if config.model == "tiny" else Tokenizer.load(config.model, config)
        ),
        read,
        AlignOptions(),
    )


@dataclass
class Split:
    """Training examples and held-out rows."""

    examples: list[dict[str, Any]] = field(default_factory=list)
    """Token ids and labels of the training rows, as arrays. Their texts are not kept, to save memory."""
    heldout: list[TokenLabels] = field(default_factory=list)
    heldout_chosen: list[Ids] = field(default_factory=list)
    """Token ids of the chosen response of each held-out row."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of skipped rows, by reason."""
    rows: int = 0
    """Number of rows read, including skipped ones."""
    notes: list[str] = field(default_factory=list)
    """Notes on how prompts are rendered."""


def _read(data: Data, config: TrainRmConfig, tokenizer: Tokenizer, max_tokens: int) -> Split:
    """Read and split the rows. Rows longer than ``max_tokens`` are cut (with ``--cut-prompts``) or skipped."""
    split = Split()
    rows = data.rows(tokenizer, split)
    while part := list(islice(rows, CHUNK)):
        split.rows += len(part)
        for row, c in zip(part, tokenizer.responses([r.chosen or "" for r in part]), strict=True):
            longest = max(len(row.original_ids), len(row.edited_ids), len(c.ids))
            prompt = room(row.prompt_ids, longest, max_tokens, config.cut_prompts)
            if prompt is None:
                split.skipped[over(config, max_tokens)] += 1
                continue
            fitting, chosen = row._replace(prompt_ids=prompt), np.array(c.ids, dtype=np.int32)
            if reward_metrics.is_heldout(row, config.heldout):
                split.heldout.append(fitting)
                split.heldout_chosen.append(chosen)
            else:
                split.examples += examples_of([fitting], [chosen], config)
    return split


def _check_examples(split: Split, config: TrainRmConfig) -> None:
    """Check that there is something to learn.

    Raises:
        InputError: there are no training rows, or at token level none of their tokens is bad or good.
    """
    if not split.examples:
        reason = f"skipped {dict(split.skipped)}" if split.skipped else f"{len(split.heldout)} are held out"
        raise InputError(
            f"no rows to train on: {reason}", where=config.labels, remedy="check --max-length, --pairs and --heldout"
        )
    if config.level == "token" and not any(side.any() for e in split.examples for side in e["labels"]):
        raise InputError(
            f"no token of the {len(split.examples)} training rows is bad or good, so there is nothing to learn",
            where=config.labels,
            remedy="edit the responses with tokalign edit, then label the edits with tokalign diff",
        )


def _new_model(config: TrainRmConfig, tokenizer: Tokenizer) -> Any:
    if config.model == "tiny":
        return loading.new_tiny_classifier(tokenizer, config.seed, config.max_length, config.level)
    if not same_tokenizer(Tokenizer.load(config.model), tokenizer):
        raise InputError(
            f"the labels were made with another tokenizer than that of {config.model}",
            where=config.labels,
            remedy=f"label again with tokalign diff … --tokenizer {config.model}",
        )
    new = loading.new_token_model if config.level == "token" else loading.new_sequence_model
    # Trained weights are float32 for any --dtype; only frozen weights (with --lora) have that type.
    model = new(config.model, config.dtype if config.lora else "float32")
    loading.check_vocabulary(model, tokenizer)
    return model
