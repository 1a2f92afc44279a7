"""``tokalign train-rm``: token labels (or preferences) in, a token-level or sequence-level reward model out."""

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
from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.model_files import check_model
from tokalign.artifacts.schemas import Preference, TokenLabels
from tokalign.artifacts.writer import Writer, writing
from tokalign.config.stages import TrainRmConfig
from tokalign.core.diff import NEVER, AlignOptions
from tokalign.data import dataset
from tokalign.errors import InputError, KindError, UsageError
from tokalign.models import loading, lora, reward_metrics
from tokalign.models.batch import over, room
from tokalign.models.distributed import is_main_process, main_process_writes
from tokalign.models.model_card import card
from tokalign.models.prompts import renderable
from tokalign.models.reward import RewardModel
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer, same_tokenizer
from tokalign.training.examples import Ids, collate, counts, examples_of
from tokalign.training.losses import PairLoss, TokenLoss, class_targets, class_weights
from tokalign.training.preferences import as_labels, texts
from tokalign.training.saving import save_trained
from tokalign.training.supervised import Early, fit

AT_ONCE = 1000
"""Rows read at a time."""


def run(config: TrainRmConfig) -> Manifest | None:
    """Train on most prompts, report on the held-out ones."""
    data = _data(config)
    inputs = {data.name: data.lineage}
    if config.model != "tiny":
        inputs["model"] = dataset.model_lineage(config.model)

    follower = Writer(config.out, "reward-model", config, inputs)
    with main_process_writes(writing("reward-model", config, inputs), follower) as out:
        if out.finished is not None:
            return out.finished
        device = loading.pick_device(config.device)
        torch.manual_seed(config.seed)
        tokenizer = data.tokenizer()
        model = _new_model(config, tokenizer)
        most = loading.longest(model, config.max_length)
        split = _read(data, config, tokenizer, most)
        heldout = split.heldout
        examples, watched = split.examples, examples_of(heldout, split.heldout_chosen, config)
        _check_teaches(split, config)
        if config.patience and not watched:
            raise InputError("--patience needs held-out rows", where=config.labels, remedy="raise --heldout")

        model.to(device)
        if config.lora:
            model = lora.adapt(model, config)
        fitted, model = fit(
            "train-rm",
            TokenLoss(model, config) if config.level == "token" else PairLoss(model),
            examples,
            [max(len(p) + len(r) for p, r in e["pairs"]) for e in examples],
            counts(examples, config),
            partial(collate, tokenizer=tokenizer, device=device),
            config,
            out.space,
            _early(config, tokenizer, watched),
        )
        if not is_main_process():
            return None
        model = save_trained(model, tokenizer, out.space, config)
        if config.lora:
            model = RewardModel.load(out.folder, config.dtype).model.to(device)
        metrics = reward_metrics.evaluate(
            RewardModel(model, tokenizer, config.level),
            heldout,
            data.align,
            partial(room, most=most, cut=config.cut_prompts),
        )
        stats = {"level": config.level, **fitted, **metrics, **({"notes": split.notes} if split.notes else {})}
        n_skipped = sum(split.skipped.values())
        kept = split.rows - n_skipped
        account = {"in": split.rows, "out": kept, "skipped": n_skipped, "reasons": dict(split.skipped)}
        account |= {"train": kept - len(heldout), "heldout": len(heldout)}
        out.space.write("README.md", card(config.level, config.model, model, tokenizer, stats, account))
        return out.commit(account, stats)


def _early(config: TrainRmConfig, tokenizer: Tokenizer, watched: Sequence[dict[str, Any]]) -> Early | None:
    """When to stop, if ``--patience`` is given: by accuracy and loss on ``watched``."""
    if not config.patience:
        return None
    weights, goals = class_weights(config), class_targets(config)

    def measure(model: Any) -> dict[str, float]:
        return reward_metrics.quick(RewardModel(model, tokenizer, config.level), watched, weights, goals)

    return Early(measure, config.eval_every, config.patience)


class Data(NamedTuple):
    """What there is to learn from."""

    name: str
    """Of the input: ``labels`` or ``preferences``."""
    lineage: dict[str, Any]
    tokenizer: Callable[[], Tokenizer]
    """What the responses are cut into tokens by."""
    rows: Callable[[Tokenizer, "Split"], Iterator[TokenLabels]]
    """With the tokenizer, and where to count what is skipped."""
    align: AlignOptions
    """How the labels were aligned."""


def _data(config: TrainRmConfig) -> Data:
    folder = Path(config.labels)
    kind = manifest.kind_of(folder)
    if kind == "preferences" or (kind is None and config.level == "sequence"):
        return _preferences(config)
    if kind is None:
        remedy = "edit the worse responses and label the edits: tokalign edit, then tokalign diff"
        raise InputError("not a token-labels artifact", where=config.labels, remedy=remedy)
    labels = manifest.open_artifact(folder, "token-labels")
    check_model(folder / "tokenizer")
    options = labels.manifest.config
    return Data(
        "labels",
        {**labels.manifest.lineage(), "path": config.labels},
        lambda: Tokenizer.load(folder / "tokenizer"),
        lambda *_: islice(token_labels.iter_labels(labels), config.limit),
        AlignOptions(options["align"], options.get("merge", 0), options.get("whole_sentence", NEVER)),
    )


def _preferences(config: TrainRmConfig) -> Data:
    """The classical baseline, without a detour over edits."""
    if config.level == "token":
        remedy = "edit the rejected responses and label the edits: tokalign edit, then tokalign diff"
        raise KindError("holds preferences, not token-labels", where=config.labels, remedy=remedy)
    if config.pairs != "chosen":
        remedy = "leave --pairs out, or edit and label first: tokalign edit, then tokalign diff"
        raise UsageError(f"--pairs {config.pairs}: {config.labels} holds preferences, not edits", remedy=remedy)
    rows = dataset.read_rows(config.labels, Preference, "preferences", options=config, limit=config.limit)

    def read(tokenizer: Tokenizer, split: Split) -> Iterator[TokenLabels]:
        found, split.notes = renderable(rows, [tokenizer], config.strict)
        split.skipped.update(found.reasons)
        split.rows += found.reasons.total()
        yield from as_labels(found, tokenizer)

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
    """What there is to train on and, apart, what to measure on."""

    examples: list[dict[str, Any]] = field(default_factory=list)
    """Of the rows to train on no more is held: their ids and labels as arrays."""
    heldout: list[TokenLabels] = field(default_factory=list)
    heldout_chosen: list[Ids] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    """Looked at, skipped ones included."""
    notes: list[str] = field(default_factory=list)
    """What there is to say of how prompts were read."""


def _read(data: Data, config: TrainRmConfig, tokenizer: Tokenizer, most: int) -> Split:
    """All rows that fit into ``most`` tokens, their prompts cut if that is wanted."""
    split = Split()
    rows = data.rows(tokenizer, split)
    while part := list(islice(rows, AT_ONCE)):
        split.rows += len(part)
        for row, c in zip(part, tokenizer.responses([r.chosen or "" for r in part]), strict=True):
            longest = max(len(row.original_ids), len(row.edited_ids), len(c.ids))
            prompt = room(row.prompt_ids, longest, most, config.cut_prompts)
            if prompt is None:
                split.skipped[over(config, most)] += 1
                continue
            fitting, chosen = row._replace(prompt_ids=prompt), np.array(c.ids, dtype=np.int32)
            if reward_metrics.is_heldout(row, config.heldout):
                split.heldout.append(fitting)
                split.heldout_chosen.append(chosen)
            else:
                split.examples += examples_of([fitting], [chosen], config)
    return split


def _check_teaches(split: Split, config: TrainRmConfig) -> None:
    """See that there is something to learn.

    Raises:
        InputError: no rows, or no token of them that is bad or good.
    """
    if not split.examples:
        why = dict(split.skipped) or f"{len(split.heldout)} are held out"
        raise InputError(
            f"no rows to train on: {why}", where=config.labels, remedy="see --max-length, --pairs and --heldout"
        )
    if config.level == "token" and not any(side.any() for e in split.examples for side in e["labels"]):
        raise InputError(
            f"not one token of {len(split.examples)} rows is bad or good: there is nothing to learn",
            where=config.labels,
            remedy="have the texts edited, and label the edits: tokalign edit, then tokalign diff",
        )


def _new_model(config: TrainRmConfig, tokenizer: Tokenizer) -> Any:
    if config.model == "tiny":
        return loading.new_tiny_classifier(tokenizer, config.seed, config.max_length, config.level)
    if not same_tokenizer(Tokenizer.load(config.model), tokenizer):
        raise InputError(
            f"{config.model} and the labels have different tokenizers",
            where=config.labels,
            remedy=f"label again: tokalign diff … --tokenizer {config.model}",
        )
    new = loading.new_token_model if config.level == "token" else loading.new_sequence_model
    # Weights are trained in float32, whatever the arithmetic; frozen ones can do with less.
    model = new(config.model, config.dtype if config.lora else "float32")
    loading.check_vocabulary(model, tokenizer)
    return model
