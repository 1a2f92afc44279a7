"""Supervised training on ``transformers.Trainer``: what sft and the reward models share."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tokalign.artifacts import checkpoints
from tokalign.artifacts.metrics import MetricsLog, last_logged
from tokalign.artifacts.workspace import CHECKPOINTS, Workspace
from tokalign.config.options import SupervisedOptions
from tokalign.errors import InputError, TokalignError, UsageError
from tokalign.models.distributed import broadcast, is_main_process, wait, world
from tokalign.models.loading import recompute_activations
from tokalign.runtime import signals
from tokalign.runtime.disk import read_regular, sealed, unseal
from tokalign.runtime.progress import Progress
from tokalign.training.losses import ModelLoss
from tokalign.training.optim import make_optimizer, warmup_then_linear
from tokalign.training.steps import TOTAL, Batches, Example, microbatches

_WEIGHTS, _BEST = "best.safetensors", f"{CHECKPOINTS}/best.json"


class Early(NamedTuple):
    """When to stop before the last step."""

    judge: Callable[[Any], dict[str, float]]
    """Model to ``accuracy`` and ``loss`` on rows it is not trained on."""
    every: int
    """Steps between two looks; 0: once a pass."""
    patience: int
    """Looks without a new best after which training stops."""


class _Trainer(Trainer):  # type: ignore[misc]
    """Trains a :class:`ModelLoss`; an item of the data is an optimiser step; a loss not finite stops the run.

    The Trainer's own accumulation averages over microbatches, of which each must be full. Its ``num_items_in_batch``
    would be right for tokens with ``labels`` of one shape, not for weights or pairs, nor where microbatches differ in
    number. So a step takes all its microbatches at once, and the Trainer does not know of them.
    """

    batches: Batches
    parts: Callable[[list[int]], list[dict[str, Any]]]

    def get_train_dataloader(self) -> Any:
        rows: Any = range(len(self.train_dataset))
        return DataLoader(rows, batch_sampler=self.batches, collate_fn=self.parts)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        losses = []
        for k, part in enumerate(inputs):
            with nullcontext() if k == len(inputs) - 1 else self.accelerator.no_sync(model=model):
                losses.append(super().training_step(model, part))
        return torch.stack(losses).sum()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        loss = model(inputs, inputs[TOTAL])
        if not torch.isfinite(loss):
            rows = ", ".join(map(str, inputs["id"][:8]))
            raise TokalignError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}, in a batch with rows {rows}",
                remedy="lower --lr, or use --dtype float32",
            )
        return (loss, {}) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the model as it would be without its loss."""
        if self.args.should_save:
            if state_dict is not None:
                state_dict = {name.removeprefix("model."): weight for name, weight in state_dict.items()}
            self.model.model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            _load(self.model.model, Path(resume_from_checkpoint))


class _Listen(TrainerCallback):  # type: ignore[misc]
    """Shows and logs progress, seals checkpoints, and heeds an interruption after the step at hand."""

    def __init__(self, bar: Progress, log: MetricsLog | None, space: Workspace) -> None:
        self.bar, self.log, self.space = bar, log, space

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.advance()
        if signals.asked():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "loss" in numbers and self.log:
            self.log.write(state.global_step, numbers)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait()  # each process writes its part
        if is_main_process():
            checkpoints.keep(self.space, Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step)
        wait()


class _Best(TrainerCallback):  # type: ignore[misc]
    """Looks at held-out rows every so many steps, keeps the best weights, and stops when they stay the best.

    Better is more accurate or, with equal accuracy, a lower loss. What is known stands in one file, so a run that was
    cut goes on as it would have.
    """

    def __init__(self, loss: ModelLoss, early: Early, space: Workspace, log: MetricsLog | None) -> None:
        self.loss, self.early, self.space, self.log = loss, early, space, log
        self.best = self._read(space.folder / _BEST)
        """Step, accuracy and loss of the best so far."""

    @staticmethod
    def _read(path: Path) -> dict[str, float]:
        if not path.exists():
            return {}
        try:
            found: dict[str, float] = unseal(read_regular(path))[0]
            return {name: found[name] for name in ("step", "accuracy", "loss")}
        except (OSError, ValueError, KeyError) as e:
            raise InputError(
                f"which weights were the best cannot be read: {e}",
                where=str(path),
                remedy="bring the file back, or begin anew with --fresh",
            ) from e

    def is_over(self, step: int) -> bool:
        """Whether the best has been the best for long enough."""
        return bool(self.best) and step - self.best["step"] >= self.early.patience * self.early.every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        if step % self.early.every and step < state.max_steps:
            return
        self.loss.eval()
        found = self.early.judge(self.loss.plain)
        self.loss.train()
        if self.log:
            self.log.write(step, {f"heldout_{name}": value for name, value in found.items()})
        best = self.best
        if not best or (found["accuracy"], -found["loss"]) > (best["accuracy"], -best["loss"]):
            self.best = {"step": step, **found}
            if is_main_process():
                with self.space.saving(CHECKPOINTS) as scratch:
                    save_file(_trained(self.loss.model), scratch / _WEIGHTS)
                self.space.write(_BEST, sealed(self.best))
        elif self.is_over(step):
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Put the best weights back."""
        self.loss.model.load_state_dict(load_file(self.space.folder / CHECKPOINTS / _WEIGHTS), strict=False)


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def fit(
    label: str,
    loss: ModelLoss,
    examples: Sequence[Example],
    lengths: Sequence[int],
    counts: Sequence[float],
    collate: Callable[[list[Example]], dict[str, Any]],
    options: SupervisedOptions,
    space: Workspace,
    early: Early | None = None,
) -> tuple[dict[str, Any], Any]:
    """Train the model of ``loss``, going on from the newest checkpoint of the run if there is one.

    A run that was cut and goes on ends with the weights of one that was not, on the same machine. Started by
    ``torchrun``, the processes share each batch. The loss of an optimiser step is the mean over all that counts in its
    batch, of all processes: how a batch is cut into microbatches changes it by rounding alone (and by the noise of
    dropout, where a model has any).

    Args:
        label: what the progress is called.
        loss: any Hugging Face model with its loss; weights that do not want a gradient stay as they are.
        examples: what ``collate`` turns into a batch; each has an ``id``.
        lengths: tokens of each example, to batch by.
        counts: what each example adds to the divisor of a batch's mean: tokens, weights of tokens, or 1 for a pair.
        collate: makes a microbatch, with the ``id`` of each row.
        options: steps, batch size, optimiser, seed and the like.
        space: for checkpoints and ``metrics.jsonl``.
        early: with it the best weights are kept, and training stops when they stay the best.

    Returns:
        ``steps`` taken by the optimiser, and the ``final_loss`` logged, the ``best_step`` if ``early`` was given; and
        the trained model, which is that of ``loss`` itself unless its weights were sharded.

    Raises:
        TokalignError: the loss is not finite; the step and row ids are named.
        UsageError: adapters or early stopping are asked for, but the weights are sharded.
        StoppedError: the end was asked for; a checkpoint was made.
    """
    model = loss.model
    batches = Batches(lengths, options.batch_size, options.seed)
    per_epoch = len(batches)
    steps = options.steps or max(1, round(options.epochs * per_epoch))
    optimizer = make_optimizer(model, options.optimizer, options.lr, options.muon_lr, options.weight_decay)
    on_cpu = str(model.device) == "cpu"
    if options.dtype == "float16" and on_cpu:
        raise InputError("float16 trains on GPUs alone", field="dtype", remedy="--dtype bfloat16 or float32")
    if options.gradient_checkpointing:
        recompute_activations(model)
    scratch = space.folder / broadcast(lambda: space.scratch)
    trainer = _Trainer(
        model=loss,
        args=_arguments(options, steps, scratch, on_cpu=on_cpu),
        train_dataset=examples,
        data_collator=collate,
        optimizers=(optimizer, warmup_then_linear(optimizer, steps, options.warmup)),
    )
    if trainer.is_fsdp_enabled and (options.lora or early):
        raise UsageError(
            "--lora and --patience need whole weights", remedy="use torchrun without FSDP, or leave them out"
        )
    trainer.batches = batches
    trainer.parts = partial(microbatches, examples=examples, counts=counts, collate=collate, size=options.microbatch)
    trainer.model_accepts_loss_kwargs = False  # what a loss is divided by is ours to say
    trainer.remove_callback(PrinterCallback)
    with Progress(label, steps, options.quiet or not is_main_process()) as bar:
        checkpoint = broadcast(lambda: checkpoints.newest(space, bar.say))
        done = checkpoints.step_of(checkpoint) if checkpoint else 0
        bar.skip_to(done)
        batches.skip(done // per_epoch)
        with MetricsLog(space, options.report_to, after=done) if is_main_process() else nullcontext() as log:
            trainer.add_callback(_Listen(bar, log, space))
            best = None
            if early is not None:
                early = early._replace(every=early.every or per_epoch)
                best = _Best(loss, early, space, log)
                trainer.add_callback(best)
            if checkpoint and (done >= steps or (best and best.is_over(done))):  # killed after its last step
                _load(model, checkpoint)
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        space.sweep()
        signals.check()
    if trainer.is_fsdp_enabled:
        model = gathered(trainer, model, scratch)
        space.sweep()
    if not is_main_process():  # the first process writes the files that the rest is read from
        return {}, model
    fitted = {"steps": trainer.state.global_step or done, "final_loss": last_logged(space.folder, "loss")}
    if best:
        best.restore()
        fitted["best_step"] = int(best.best["step"])
    checkpoints.keep_last(space)
    if options.gradient_checkpointing:
        recompute_activations(model, on=False)
    model.eval()
    return fitted, model


def _arguments(options: SupervisedOptions, steps: int, folder: Path, *, on_cpu: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=options.batch_size,
        max_steps=steps,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and world() > 1 else None,
        bf16=options.dtype == "bfloat16",
        fp16=options.dtype == "float16",
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=options.save_every,
        report_to=[],  # metrics go to our own log
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def gathered(trainer: Trainer, model: Any, folder: Path) -> Any:
    """The whole of a model of which every process holds a part; all of them must ask."""
    trainer.save_model(str(folder))
    return type(model).from_pretrained(str(folder), config=model.config) if is_main_process() else model


def _load(model: Any, checkpoint: Path) -> None:
    if hasattr(model, "get_base_model"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
    else:
        model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())
