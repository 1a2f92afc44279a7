"""Supervised training of policies and reward models with ``transformers.Trainer``."""

import json
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
from tokalign.runtime.time_limit import TimeLimit
from tokalign.training.losses import ModelLoss
from tokalign.training.optim import make_optimizer, warmup_then_linear
from tokalign.training.steps import TOTAL, Batches, Example, microbatches

_WEIGHTS, _BEST = "best.safetensors", f"{CHECKPOINTS}/best.json"
_SECONDS = "seconds.json"
"""File in a checkpoint: seconds of training so far."""


class Early(NamedTuple):
    """Early stopping."""

    evaluate: Callable[[Any], dict[str, float]]
    """Takes the model and returns its ``accuracy`` and ``loss`` on held-out rows."""
    every: int
    """Steps between two evaluations; 0: one epoch."""
    patience: int
    """Number of evaluations without improvement after which training stops."""


class _Trainer(Trainer):  # type: ignore[misc]
    """Trains a :class:`ModelLoss`, one whole optimiser step per data item. Stops if the loss is not finite.

    Gradient accumulation of the base class averages over microbatches and assumes that each is full. Its
    ``num_items_in_batch`` counts ``labels``, so it supports neither token weights nor pairs, nor a varying number of
    microbatches. This class therefore runs all microbatches of a batch in one ``training_step``.
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
        """Save the model without the loss module around it."""
        if self.args.should_save:
            if state_dict is not None:
                state_dict = {name.removeprefix("model."): weight for name, weight in state_dict.items()}
            self.model.model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            _load(self.model.model, Path(resume_from_checkpoint))


class _RunCallback(TrainerCallback):  # type: ignore[misc]
    """Shows progress, logs metrics, seals checkpoints, and stops after a step if interrupted or out of time."""

    def __init__(self, bar: Progress, log: MetricsLog | None, space: Workspace, limit: TimeLimit) -> None:
        self.bar, self.log, self.space, self.limit = bar, log, space, limit

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.advance()
        if signals.received() or (self.limit.minutes and broadcast(lambda: self.limit.reason)):
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "loss" in numbers and self.log:
            self.log.write(state.global_step, numbers)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait()  # until every process has written its part
        if is_main_process():
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / _SECONDS).write_text(json.dumps(self.limit.spent), encoding="utf-8")
            checkpoints.keep(self.space, folder, state.global_step)
        wait()


class _EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Evaluates on held-out rows at intervals, saves the best weights, and stops without further improvement.

    Weights are better if the accuracy is higher or, at equal accuracy, the loss is lower. The best so far is recorded
    in a file, so that a resumed run makes the same decisions.
    """

    def __init__(self, loss: ModelLoss, early: Early, space: Workspace, log: MetricsLog | None) -> None:
        self.loss, self.early, self.space, self.log = loss, early, space, log
        self.best = self._read(space.folder / _BEST)
        """``step``, ``accuracy`` and ``loss`` of the best evaluation; empty before the first one."""

    @staticmethod
    def _read(path: Path) -> dict[str, float]:
        if not path.exists():
            return {}
        try:
            metrics: dict[str, float] = unseal(read_regular(path))[0]
            return {name: metrics[name] for name in ("step", "accuracy", "loss")}
        except (OSError, ValueError, KeyError) as e:
            raise InputError(
                f"cannot read the record of the best weights: {e}",
                where=str(path),
                remedy="restore the file, or start over with --fresh",
            ) from e

    def is_over(self, step: int) -> bool:
        """Whether the patience is used up at ``step``."""
        return bool(self.best) and step - self.best["step"] >= self.early.patience * self.early.every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        over = control.should_training_stop and not signals.received()  # there must be a best model in the end
        if step % self.early.every and step < state.max_steps and not over:
            return
        self.loss.eval()
        metrics = self.early.evaluate(self.loss.plain)
        self.loss.train()
        if self.log:
            self.log.write(step, {f"heldout_{name}": value for name, value in metrics.items()})
        best = self.best
        if not best or (metrics["accuracy"], -metrics["loss"]) > (best["accuracy"], -best["loss"]):
            self.best = {"step": step, **metrics}
            if is_main_process():
                with self.space.saving(CHECKPOINTS) as scratch:
                    save_file(_trained(self.loss.model), scratch / _WEIGHTS)
                self.space.write(_BEST, sealed(self.best))
        elif self.is_over(step):
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Load the best weights into the model."""
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
    """Train the model of ``loss``. Resumes from the newest checkpoint of the run if there is one.

    On the same machine, a resumed run ends with the same weights as an uninterrupted one. With ``torchrun``, the
    processes share each batch. The loss of an optimiser step is the mean over the whole batch of all processes;
    splitting it into microbatches changes it only by rounding (and by dropout noise, if the model has dropout).

    Args:
        label: title of the progress line.
        loss: a loss module around any Hugging Face model; parameters with ``requires_grad=False`` stay fixed.
        examples: training examples, the input of ``collate``.
        lengths: number of tokens of each example; examples of similar length are batched together.
        counts: what each example adds to the divisor of the batch mean: its tokens, the weights of its tokens, or 1
            for a pair.
        collate: turns examples into the inputs of ``loss`` for a microbatch; must include the ``id`` of each row.
        options: steps, batch size, optimiser, seed and so on.
        space: folder for checkpoints and ``metrics.jsonl``.
        early: early stopping; the best weights are restored at the end. None: train all steps.

    Returns:
        A dict and the trained model. The dict has ``steps`` of the optimiser and the last logged ``final_loss``; with
        ``early`` the ``best_step``; and if ``--max-minutes`` ended the run, ``stopped``. It is empty except in the main
        process. The model is that of ``loss`` unless its weights are sharded.

    Raises:
        InputError: ``--dtype float16`` on a CPU, or the record of the best weights is damaged.
        TokalignError: the loss is not finite; the message names the step and the rows.
        UsageError: ``--lora`` or early stopping with FSDP.
        StoppedError: the run was interrupted; a checkpoint has been saved.
    """
    model = loss.model
    batches = Batches(lengths, options.batch_size, options.seed)
    per_epoch = len(batches)
    steps = options.steps or max(1, round(options.epochs * per_epoch))
    optimizer = make_optimizer(model, options.optimizer, options.lr, options.muon_lr, options.weight_decay)
    if options.gradient_checkpointing:
        recompute_activations(model)
    scratch = space.folder / broadcast(lambda: space.scratch)
    trainer = _Trainer(
        model=loss,
        args=_arguments(options, steps, scratch, on_cpu=str(model.device) == "cpu"),
        train_dataset=examples,
        optimizers=(optimizer, warmup_then_linear(optimizer, steps, options.warmup)),
    )
    _check_fsdp(trainer, whole_weights=options.lora or early is not None)
    trainer.batches = batches
    trainer.parts = partial(microbatches, examples=examples, counts=counts, collate=collate, size=options.microbatch)
    trainer.model_accepts_loss_kwargs = False  # the loss module divides by the right total itself
    trainer.remove_callback(PrinterCallback)
    with Progress(label, steps, options.quiet or not is_main_process()) as bar:
        checkpoint = broadcast(lambda: checkpoints.newest(space, bar.say))
        done = checkpoints.step_of(checkpoint) if checkpoint else 0
        limit = TimeLimit(options.max_minutes, _spent(checkpoint) if checkpoint else 0.0)
        bar.skip_to(done)
        batches.skip(done // per_epoch)
        with MetricsLog(space, options.report_to, after=done) if is_main_process() else nullcontext() as log:
            trainer.add_callback(_RunCallback(bar, log, space, limit))
            stopper = None
            if early is not None:
                early = early._replace(every=early.every or per_epoch)
                stopper = _EarlyStopping(loss, early, space, log)
                trainer.add_callback(stopper)
            over = done >= steps or (stopper and stopper.is_over(done)) or broadcast(lambda: limit.reason)
            if checkpoint and over:  # interrupted after its last step
                _load(model, checkpoint)
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        space.sweep()
        signals.check()
    if trainer.is_fsdp_enabled:
        model = gathered(trainer, model, scratch)
        space.sweep()
    if not is_main_process():  # only the main process writes the files that are read below
        return {}, model
    fitted = {"steps": trainer.state.global_step or done, "final_loss": last_logged(space.folder, "loss")}
    if stopper:
        stopper.restore()
        fitted["best_step"] = int(stopper.best["step"])
    if limit.reason and fitted["steps"] < steps and not (stopper and stopper.is_over(fitted["steps"])):
        fitted["stopped"] = limit.reason
    checkpoints.keep_last(space)
    if options.gradient_checkpointing:
        recompute_activations(model, on=False)
    model.eval()
    return fitted, model


def _check_fsdp(trainer: Trainer, *, whole_weights: bool) -> None:
    """Refuse settings of FSDP with which a run would fail after its last step.

    Raises:
        UsageError: whole weights are needed while training, or only sharded ones would be saved.
    """
    if not trainer.is_fsdp_enabled:
        return
    if whole_weights:
        raise UsageError(
            "--lora and --patience do not work with FSDP", remedy="use torchrun without FSDP, or omit these options"
        )
    kind = str(trainer.accelerator.state.fsdp_plugin.state_dict_type)
    if "FULL_STATE_DICT" not in kind:
        raise UsageError(f"FSDP would save {kind}", remedy="accelerate launch --fsdp_state_dict_type FULL_STATE_DICT")


def _arguments(options: SupervisedOptions, steps: int, folder: Path, *, on_cpu: bool) -> TrainingArguments:
    if options.dtype == "float16" and on_cpu:
        raise InputError("float16 training requires a GPU", field="dtype", remedy="use --dtype bfloat16 or float32")
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
        report_to=[],  # MetricsLog reports the metrics
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def gathered(trainer: Trainer, model: Any, folder: Path) -> Any:
    """Gather a sharded model in the main process; other processes get the sharded model back.

    Collective: every process must call it.

    Args:
        trainer: the trainer that holds the sharded weights.
        model: the sharded model.
        folder: where the gathered weights are written and read again.
    """
    trainer.save_model(str(folder))
    return type(model).from_pretrained(str(folder), config=model.config) if is_main_process() else model


def _spent(checkpoint: Path) -> float:
    """Seconds of training up to a checkpoint; 0 if it is of an older version."""
    path = checkpoint / _SECONDS
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else 0.0


def _load(model: Any, checkpoint: Path) -> None:
    if hasattr(model, "get_base_model"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
    else:
        model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())
