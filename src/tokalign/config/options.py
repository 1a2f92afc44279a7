"""Option fields and the option groups that commands share: output, inputs, devices, sampling, training, Claude.

Each command has one frozen dataclass. Its fields define the command line, the TOML tables and the manifest. The role
of an option decides what happens when a command runs again on an existing output folder:

* ``rows``: affects the result; another value is refused without ``--fresh``.
* ``more``: like ``rows``, but a larger value continues the run from where it ended.
* ``limit``: like ``more``; 0 is no limit, so more than any other value. An unfinished run takes any value.
* ``run``: affects how the work is done or shown; recorded, never compared.
* ``input``: names an input (a path, a dataset revision, a prompt); what it refers to is compared, by hash.
* ``out``: the output path.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from sys import float_info
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokalign.errors import UsageError

Role = Literal["rows", "more", "limit", "run", "input", "out"]
Effort = Literal["low", "medium", "high", "xhigh", "max"]
Format = Literal[
    "auto", "tokalign", "hh-rlhf", "alpaca-farm", "trl", "ultrafeedback", "qa-feedback", "alpaca-eval", "orca",
    "llama-factory", "sharegpt", "argilla", "nectar", "shp", "pku-saferlhf", "helpsteer",
]  # fmt: skip
Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "muon"]
SystemTurns = Literal["fold", "drop", "refuse"]
SamplerName = Literal["auto", "builtin", "generate", "uncached", "vllm"]
ReportTo = Literal["none", "tensorboard", "wandb"]


def option(
    default: Any,
    about: str,
    *,
    role: Role = "rows",
    low: float | None = None,
    high: float | None = None,
    positional: bool = False,
    env: bool = True,
    with_lora: float | None = None,
) -> Any:
    """Declare an option field.

    Args:
        default: default value; ``...`` makes the option required.
        about: help text.
        role: how another value is treated when the command runs again; see the module docstring.
        low: smallest allowed value; None: no bound.
        high: largest allowed value; None: no bound.
        positional: a positional argument on the command line.
        env: whether environment variables can set the option.
        with_lora: default value with ``--lora``; None: the same. The field is None until ``Options`` sets it.
    """
    meta: dict[str, Any] = {
        "about": about,
        "role": role,
        "low": low,
        "high": high,
        "positional": positional,
        "env": env,
    }
    if with_lora is not None:
        meta |= {"about": f"{about}; default: {default:g}, with --lora {with_lora:g}", "defaults": (default, with_lora)}
        return field(default=None, metadata=meta)
    if default is ...:
        return field(metadata=meta)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class of all options. Validates types, choices and bounds at construction.

    Raises:
        UsageError: a value has the wrong type, is not one of the choices, or is out of bounds.
    """

    def __post_init__(self) -> None:
        options_class: Any = type(self)
        hints = _hints(options_class)
        for f in fields(self):
            if "defaults" in f.metadata and getattr(self, f.name) is None:
                object.__setattr__(self, f.name, f.metadata["defaults"][getattr(self, "lora", False)])
            low, high, value = f.metadata["low"], f.metadata["high"], getattr(self, f.name)
            if not fits(value, hints[f.name]):
                raise UsageError(f"{option_name(f)} is {value!r}", remedy=f"give {describe_type(hints[f.name])}")
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            low, high = -float_info.max if low is None else low, float_info.max if high is None else high
            if not low <= value <= high:  # written this way, NaN and infinity are out of bounds too
                bounds = " to ".join(str(end) if isinstance(end, int) else f"{end:g}" for end in (low, high))
                raise UsageError(f"{option_name(f)} is {value}", remedy=f"choose a value from {bounds}")

    def role(self, field: Field[Any]) -> Role:
        """Return the role of an option, given the values of the other options."""
        role: Role = field.metadata["role"]
        return role

    def select(self, *roles: Role) -> dict[str, Any]:
        """Return the options that have one of ``roles``, as plain JSON values by name."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if self.role(f) in roles}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the defaults of all options that have one, as plain JSON values by name."""
        made = {f.name: f.default_factory() for f in fields(cls) if f.default_factory is not MISSING}
        plain = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
        return {name: _plain(value) for name, value in (plain | made).items()}


@cache
def _hints(options: Any) -> dict[str, Any]:
    return get_type_hints(options)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type ``hint``. An integer is accepted as a float."""
    origin = get_origin(hint)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, member) for member in get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(fits(item, get_args(hint)[0]) for item in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def describe_type(hint: Any) -> str:
    """Describe the accepted values of a type in words, for error messages."""
    origin = get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if origin in (Union, UnionType):
        return " or ".join(describe_type(member) for member in get_args(hint) if member is not NoneType)
    if origin is list:
        return f"a list; each item is {describe_type(get_args(hint)[0])}"
    return {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}[hint]


def option_name(f: Field[Any]) -> str:
    """Return the name of a field on the command line: ``--max-cost``, or ``SOURCE`` for a positional argument."""
    name = f.name.replace("_", "-")
    return name.upper() if f.metadata["positional"] else f"--{name}"


def is_required(f: Field[Any]) -> bool:
    """Whether a field has no default."""
    return f.default is MISSING and f.default_factory is MISSING


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Options of everything that runs for a while."""

    seed: int = option(0, "random seed", low=0, high=2**62)
    quiet: bool = option(False, "show no progress and no summary", role="run")


@dataclass(frozen=True, kw_only=True)
class StageOptions(RunOptions):
    """Options of every command that writes an artifact."""

    out: Path = option(..., "output folder", role="out")
    limit: int | None = option(None, "use only the first N rows", low=1)
    fresh: bool = option(False, "replace an output folder that holds another run", role="run")
    json: bool = option(
        False,
        "print the result to stdout as one JSON object: the manifest, or for export the file and its counts",
        role="run",
    )
    probe_seconds: float = option(
        4.0,
        "CPU time limit for opening an untrusted table or tokenizer, in seconds per 8 MB of file size",
        role="run",
        low=1,
    )
    probe_memory: int = option(
        1024, "memory limit for opening an untrusted table or tokenizer, in MB", role="run", low=128
    )


@dataclass(frozen=True, kw_only=True)
class ReadOptions(Options):
    """How to read inputs that are files or datasets, not tokalign artifacts."""

    format: Format = option("auto", "layout of an input file or dataset; auto detects it from the columns")
    revision: str | None = option(None, "commit, tag or branch of a Hugging Face dataset", role="input")
    subset: str | None = option(None, "configuration of a Hugging Face dataset", role="input")
    split: str = option("train", "split of a Hugging Face dataset", role="input")
    passages: bool = option(True, "qa-feedback: include the passages in the prompt")
    strict: bool = option(
        False,
        "fail on a row that cannot be converted from its layout or that the chat template refuses, "
        "instead of skipping it",
        role="run",
    )


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(Options):
    """Device and precision of models."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", role="run")
    dtype: Dtype = option(
        "float32",
        "data type of computation, frozen weights and the saved model; weights in training are float32",
    )


@dataclass(frozen=True, kw_only=True)
class TemplateOptions(Options):
    """How prompts are rendered with a model's chat template."""

    template_arg: list[str] = option(
        [], "chat template variable as KEY=VALUE, such as enable_thinking=false; repeatable", env=False
    )
    system: SystemTurns | None = option(
        None,
        "if the chat template does not support a system turn: fold it into the user turn (the default), drop it, "
        "or refuse the row",
    )
    template_date: str = option(
        "2024-07-26",
        "date (YYYY-MM-DD) given to chat templates that ask for today's date; fixed, for reproducible prompts",
    )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Options):
    """How responses are sampled."""

    sampler: SamplerName = option(
        "auto",
        "sampling loop: builtin (fastest), generate (of transformers) or uncached (no key-value cache, slow); "
        "auto tests them in this order and uses the first that is correct for the model; vllm: the engine vLLM",
    )
    sampler_memory: float = option(
        0.3, "--sampler vllm on a GPU: share of its memory for vLLM's weights and cache", role="run", low=0.01, high=1
    )
    max_new_tokens: int = option(256, "maximum length of a response, in tokens", low=1)
    temperature: float = option(1.0, "sampling temperature; 0 always takes the most likely token", low=0)
    top_p: float = option(
        1.0, "nucleus sampling: keep the most likely tokens with this total probability; 1 disables", low=1e-6, high=1
    )


@dataclass(frozen=True, kw_only=True)
class TimeOptions(Options):
    """Time limit of a training run."""

    max_minutes: float = option(
        0.0,
        "stop after the step in which this time is over, all runs on --out together, and keep the model; a finished "
        "run continues if you raise it; 0: no limit",
        role="limit",
        low=0,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(ComputeOptions, TimeOptions):
    """Options of supervised training: SFT and reward models."""

    steps: int = option(
        0, "optimiser steps; 0: set by --epochs; a finished run continues if you raise --steps", role="more", low=0
    )
    epochs: float = option(1.0, "passes over the data; used if --steps is 0", low=0)
    batch_size: int = option(16, "rows (for a reward model, pairs) per optimiser step, over all processes", low=1)
    microbatch: int = option(0, "rows per forward pass, to save memory; 0: the whole batch", role="run", low=0)
    lr: float = option(1e-5, "peak learning rate of AdamW", low=0)
    optimizer: Optimizer = option(
        "adamw", "adamw; muon: Muon for matrices and AdamW for the rest, for models trained from scratch"
    )
    muon_lr: float = option(0.02, "peak learning rate of Muon", low=0)
    weight_decay: float = option(0.0, "decoupled weight decay; 0 disables", low=0)
    warmup: float = option(0.03, "fraction of the steps in which the learning rate rises to its peak", low=0, high=1)
    max_grad_norm: float = option(1.0, "clip gradients to this norm; 0 disables", low=0)
    max_length: int = option(2048, "maximum tokens of prompt and response; longer rows are skipped and counted", low=2)
    save_every: int = option(100, "steps between checkpoints; an interrupted run resumes from one", role="run", low=1)
    report_to: ReportTo = option(
        "none", "also send metrics to tensorboard or wandb; metrics.jsonl is always written", role="run"
    )


@dataclass(frozen=True, kw_only=True)
class LoraOptions(Options):
    """LoRA and gradient checkpointing."""

    lora: bool = option(
        False, "train LoRA adapters over frozen weights; the adapters are saved and merged into the saved model"
    )
    lora_rank: int = option(16, "rank of the LoRA adapters", low=1)
    lora_alpha: int = option(32, "LoRA scale: adapter outputs are multiplied by alpha / rank", low=0)
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, about a third more time", role="run"
    )


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(LoraOptions, TrainingOptions, RunOptions):
    """Options of supervised training, with or without LoRA."""


@dataclass(frozen=True, kw_only=True)
class ClaudeOptions(Options):
    """Options of the Claude API client."""

    model: str | None = option(None, "claude: model ID, such as claude-haiku-4-5; required, no default")
    effort: Effort | None = option(None, "claude: effort level of the model; unset: the model's default")
    max_tokens: int = option(8192, "claude: maximum length of an answer in tokens, including thinking", low=1)
    dry_run: bool = option(
        False, "claude: count the requests and estimate their cost, but send none (counting is free)", role="run"
    )
    max_cost: float | None = option(
        None, "claude: budget in US dollars, over all runs on this output folder; unset: no limit", role="run", low=0
    )
    batch: bool = option(False, "claude: send Message Batches: half the price, answers within 24 hours", role="run")
    concurrency: int = option(16, "claude: maximum number of concurrent requests", role="run", low=1)
    prices: Path | None = option(None, "claude: TOML file of prices; replaces the built-in prices", role="run")
    allow_unpriced: bool = option(
        False, "claude: allow a model without a known price; its cost and --max-cost are then meaningless", role="run"
    )
    max_retries: int = option(6, "claude: retries of a failed request; 0 disables", role="run", low=0)
    timeout: float = option(600.0, "claude: timeout of a request, in seconds", role="run", low=1)
    poll: float = option(30.0, "claude: seconds between status checks of a batch", role="run", low=0.01)
    resend_lost: bool = option(
        False, "claude: treat a missing batch as never submitted and send it again; may bill twice", role="run"
    )
    discard_journal: bool = option(
        False,
        "claude: ignore recorded answers, and request and pay for them again; what they cost still counts",
        role="run",
    )
