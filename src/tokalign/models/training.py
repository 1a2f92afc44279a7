"""Supervised training on ``transformers.Trainer``: what sft and the reward models share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from tokalign import checkpoints, interrupt
from tokalign.config import SupervisedStage
from tokalign.errors import TokalignError
from tokalign.metrics import MetricsLog, last_logged
from tokalign.models.optim import make_optimizer, warmup_then_linear
from tokalign.progress import Progress

Example = dict[str, Any]
Loss = Callable[[Any, dict[str, Any]], Tensor]


class _Trainer(Trainer):  # type: ignore[misc]
    """The loss is a function of ours; batches are of similar length; a loss that is not finite stops the run."""

    loss: Loss
    lengths: list[int]
    epochs_done: int

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
        group = self.args.train_batch_size * self.args.gradient_accumulation_steps
        generator = torch.Generator().manual_seed(self.args.seed)
        sampler = LengthGroupedSampler(group, lengths=self.lengths, generator=generator)
        for _epoch in range(self.epochs_done):  # each epoch draws its order from the same generator
            iter(sampler)
        return sampler


class _Listen(TrainerCallback):  # type: ignore[misc]
    """Shows and logs progress, seals checkpoints, and heeds an interruption after the step at hand."""

    def __init__(self, bar: Progress, log: MetricsLog) -> None:
        self.bar, self.log = bar, log

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.advance()
        if interrupt.asked():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "loss" in numbers:
            self.log.write(state.global_step, numbers)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoints.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def fit(
    label: str,
    model: Any,
    examples: Sequence[Example],
    lengths: Sequence[int],
    collate: Callable[[list[Example]], dict[str, Any]],
    loss: Loss,
    knobs: SupervisedStage,
    folder: Path,
) -> dict[str, Any]:
    """Train ``model`` in place, going on from the newest checkpoint in ``folder`` if there is one.

    A run that was cut and goes on ends with the weights of one that was not, on the same machine.

    Args:
        label: what the progress is called.
        model: any Hugging Face model.
        examples: what ``collate`` turns into a batch; each has an ``id``.
        lengths: tokens of each example, to batch by.
        collate: makes a batch, with the ``id`` of each row.
        loss: model and batch to a scalar, the mean over the batch.
        knobs: steps, batch size, optimiser, seed and the like.
        folder: for checkpoints and ``metrics.jsonl``.

    Returns:
        ``steps`` taken by the optimiser, and the ``final_loss`` logged.

    Raises:
        TokalignError: the loss is not finite; the step and row ids are named.
        StoppedError: the end was asked for; a checkpoint was made.
    """
    micro = min(knobs.microbatch or knobs.batch_size, knobs.batch_size)
    accumulate = max(1, knobs.batch_size // micro)
    per_epoch = max(1, -(-len(examples) // (micro * accumulate)))
    steps = knobs.steps or max(1, round(knobs.epochs * per_epoch))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = make_optimizer(model, knobs.optimizer, knobs.lr, knobs.muon_lr, knobs.weight_decay)
    args = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        max_grad_norm=knobs.max_grad_norm,
        seed=knobs.seed,
        use_cpu=str(model.device) == "cpu",
        bf16=False,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=knobs.save_every,
        report_to=[],  # metrics go to our own log
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
    )
    trainer.loss, trainer.lengths = loss, list(lengths)
    trainer.remove_callback(PrinterCallback)
    with Progress(label, steps, knobs.quiet) as bar:
        checkpoint = checkpoints.newest(folder / "checkpoints", bar.say)
        done = checkpoints.step_of(checkpoint) if checkpoint else 0
        bar.skip_to(done)
        trainer.epochs_done = done // per_epoch
        with MetricsLog(folder, knobs.report_to, after=done) as log:
            trainer.add_callback(_Listen(bar, log))
            if checkpoint and done >= steps:  # killed after its last step
                model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        interrupt.check()
    checkpoints.keep_last(folder / "checkpoints")
    model.eval()
    return {"steps": steps, "final_loss": last_logged(folder, "loss")}
