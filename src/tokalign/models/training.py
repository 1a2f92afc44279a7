"""Supervised training on ``transformers.Trainer``: what sft and the reward models share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from tokalign.config import Training
from tokalign.errors import TokalignError
from tokalign.models.optim import make_optimizer, warmup_then_linear

Example = dict[str, Any]
Loss = Callable[[Any, dict[str, Any]], Tensor]


class _Trainer(Trainer):  # type: ignore[misc]
    """The loss is a function of ours; batches are of similar length; a loss that is not finite stops the run."""

    loss: Loss
    lengths: list[int]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        loss = self.loss(model, inputs)
        if not torch.isfinite(loss):
            rows = ", ".join(map(str, inputs["id"][:8]))
            raise TokalignError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}, in a batch with rows {rows}",
                remedy="lower --lr, or use --dtype float32",
            )
        return (loss, {}) if return_outputs else loss

    def _get_train_sampler(self, *_: Any) -> Any:
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        generator = torch.Generator().manual_seed(self.args.seed)
        return LengthGroupedSampler(size, lengths=self.lengths, generator=generator)


class _Listen(TrainerCallback):  # type: ignore[misc]
    def __init__(self, tell: Callable[[int, int, dict[str, float]], None]) -> None:
        self.tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tell(state.global_step, state.max_steps, {})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        self.tell(state.global_step, state.max_steps, numbers)


def fit(
    model: Any,
    examples: Sequence[Example],
    lengths: Sequence[int],
    collate: Callable[[list[Example]], dict[str, Any]],
    loss: Loss,
    knobs: Training,
    seed: int,
    folder: Path,
    tell: Callable[[int, int, dict[str, float]], None],
) -> int:
    """Train ``model`` in place.

    Args:
        model: any Hugging Face model.
        examples: what ``collate`` turns into a batch; each has an ``id``.
        collate: makes a batch, with the ``id`` of each row.
        lengths: tokens of each example, to batch by.
        loss: model and batch to a scalar, the mean over the batch.
        knobs: steps, batch size, optimiser and the like.
        seed: of the order of rows.
        folder: for the Trainer's own files.
        tell: called with (step, steps, metrics or {}) after each step and each log line.

    Returns:
        The optimiser steps taken.

    Raises:
        TokalignError: the loss is not finite; the step and row ids are named.
    """
    micro = min(knobs.microbatch or knobs.batch_size, knobs.batch_size)
    accumulate = max(1, knobs.batch_size // micro)
    per_epoch = max(1, -(-len(examples) // (micro * accumulate)))
    steps = knobs.steps or max(1, round(knobs.epochs * per_epoch))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = make_optimizer(model, knobs.optimizer, knobs.lr, knobs.muon_lr, knobs.weight_decay)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        max_grad_norm=knobs.max_grad_norm,
        seed=seed,
        use_cpu=str(model.device) == "cpu",
        bf16=False,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],  # metrics go through `tell`
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = _Trainer(
        model=model,
        args=args,
        train_dataset=examples,
        data_collator=collate,
        optimizers=(optimizer, warmup_then_linear(optimizer, steps, knobs.warmup)),
        callbacks=[_Listen(tell)],
    )
    trainer.loss, trainer.lengths = loss, list(lengths)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    return steps
