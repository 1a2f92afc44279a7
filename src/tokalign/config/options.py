"""What an option is, and those that commands share: where results go, how inputs are read, models run, money is spent.

One frozen dataclass a stage. The command line, the TOML tables and the manifests are all read off these
fields. An option's role says how a finished folder is compared when a command is run again:

* ``rows``: changes the rows; another value is refused without ``--fresh``;
* ``more``: as ``rows``, but a larger value goes on from where the run ended;
* ``run``: how the work is done or shown; recorded, never compared;
* ``input``: a path; what counts is the content, by hash;
* ``out``: where the result goes.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from sys import float_info
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokalign.errors import UsageError

Role = Literal["rows", "more", "run", "input", "out"]
Effort = Literal["low", "medium", "high", "xhigh", "max"]
Format = Literal[
    "auto", "tokalign", "hh-rlhf", "alpaca-farm", "trl", "ultrafeedback", "qa-feedback", "alpaca-eval", "orca",
    "llama-factory", "sharegpt", "argilla", "nectar", "shp", "pku-saferlhf", "helpsteer",
]  # fmt: skip
Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "muon"]
SystemTurns = Literal["fold", "drop", "refuse"]
SamplerName = Literal["auto", "builtin", "generate", "uncached"]
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
) -> Any:
    """A documented, bounded field. ``default=...`` makes it required; ``env``: environment variables may set it."""
    meta = {"about": about, "role": role, "low": low, "high": high, "positional": positional, "env": env}
    if default is ...:
        return field(metadata=meta)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base: validates types and bounds at construction.

    Raises:
        UsageError: a value is of another type, none of the choices, or outside its bounds.
    """

    def __post_init__(self) -> None:
        this: Any = type(self)
        hints = _hints(this)
        for f in fields(self):
            low, high, value = f.metadata["low"], f.metadata["high"], getattr(self, f.name)
            if not fits(value, hints[f.name]):
                raise UsageError(f"{option_name(f)} is {value!r}", remedy=f"give {wanted(hints[f.name])}")
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            low, high = -float_info.max if low is None else low, float_info.max if high is None else high
            if not low <= value <= high:  # so said, NaN and infinity lie outside too
                bounds = " to ".join(str(end) if isinstance(end, int) else f"{end:g}" for end in (low, high))
                raise UsageError(f"{option_name(f)} is {value}", remedy=f"choose a value from {bounds}")

    def role(self, field: Field[Any]) -> Role:
        """What an option is for, with the others as they are."""
        role: Role = field.metadata["role"]
        return role

    def select(self, *roles: Role) -> dict[str, Any]:
        """The options of these roles, as plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if self.role(f) in roles}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The options that have a default, with it, as plain JSON values."""
        plain = [f for f in fields(cls) if f.default is not MISSING]
        return {f.name: _plain(f.default) for f in plain}


@cache
def _hints(options: Any) -> dict[str, Any]:
    return get_type_hints(options)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of an option; an integer serves as a float."""
    origin = get_origin(hint)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(fits(one, get_args(hint)[0]) for one in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def wanted(hint: Any) -> str:
    """What a value of a type is, in words."""
    origin = get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if origin in (Union, UnionType):
        return " or ".join(wanted(one) for one in get_args(hint) if one is not NoneType)
    if origin is list:
        return f"a list, of which each is {wanted(get_args(hint)[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}[hint]


def option_name(f: Field[Any]) -> str:
    """How a field is spelt on the command line."""
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
    """What everything that computes for a while has."""

    seed: int = option(0, "seed of everything random", low=0, high=2**62)
    quiet: bool = option(False, "no progress, no summary", role="run")


@dataclass(frozen=True, kw_only=True)
class StageOptions(RunOptions):
    """What every command that writes an artifact has."""

    out: Path = option(..., "folder to write", role="out")
    limit: int | None = option(None, "take only the first N rows of the input", low=1)
    fresh: bool = option(False, "rewrite a folder that holds another run", role="run")
    json: bool = option(False, "print the manifest on stdout as one JSON object", role="run")
    probe_seconds: float = option(
        4.0,
        "seconds of computing that a table or tokenizer of others may take to open, for each 8 MB",
        role="run",
        low=1,
    )
    probe_memory: int = option(1024, "megabytes of memory that it may take", role="run", low=128)


@dataclass(frozen=True, kw_only=True)
class ReadOptions(Options):
    """How an input that is no artifact of ours is read."""

    format: Format = option("auto", "layout of a file or dataset")
    revision: str | None = option(None, "commit, tag or branch of a Hugging Face dataset", role="input")
    subset: str | None = option(None, "configuration of a Hugging Face dataset", role="input")
    split: str = option("train", "split of a Hugging Face dataset", role="input")
    passages: bool = option(True, "qa-feedback: put the passages into the prompt")
    strict: bool = option(
        False,
        "a row that cannot be used is an error, not skipped: of a foreign layout, or refused by a chat template",
        role="run",
    )


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(Options):
    """Where and in what precision models run."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", role="run")
    dtype: Dtype = option("float32", "precision of weights and arithmetic")


@dataclass(frozen=True, kw_only=True)
class TemplateOptions(Options):
    """How prompts are put into a model's chat template."""

    template_arg: list[str] = option(
        [], "KEY=VALUE, a variable of the chat template, such as enable_thinking=false; repeatable", env=False
    )
    system: SystemTurns | None = option(
        None, "a system turn where the template has none: fold it into the user's (the default), drop it, or refuse"
    )
    template_date: str = option(
        "2024-07-26", "the day that a chat template is told, where it asks: not that of the run"
    )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Options):
    """How responses are drawn."""

    sampler: SamplerName = option(
        "auto",
        "what draws responses: our own loop, generate of transformers, or a loop without a cache; "
        "auto: the first of them that is right for the model",
    )

    max_new_tokens: int = option(256, "longest response, in tokens", low=1)
    temperature: float = option(1.0, "0 takes the most likely token", low=0)
    top_p: float = option(1.0, "draw from the most likely tokens that hold this much probability", low=1e-6, high=1)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(ComputeOptions):
    """Supervised training (sft and reward models)."""

    steps: int = option(
        0, "optimiser steps; 0: as many as --epochs needs; a finished run is carried on to more", role="more", low=0
    )
    epochs: float = option(1.0, "passes over the data, where --steps is 0", low=0)
    batch_size: int = option(16, "rows (pairs, for a reward model) in an optimiser step", low=1)
    microbatch: int = option(0, "rows in one forward pass, for memory; 0: the whole batch", role="run", low=0)
    lr: float = option(1e-5, "peak learning rate of AdamW", low=0)
    optimizer: Optimizer = option("adamw", "muon: matrices by Muon, the rest by AdamW; for models from scratch")
    muon_lr: float = option(0.02, "peak learning rate of Muon", low=0)
    weight_decay: float = option(0.0, "decoupled weight decay", low=0)
    warmup: float = option(0.03, "share of the steps over which the learning rate rises", low=0, high=1)
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0: never", low=0)
    max_length: int = option(2048, "rows with more tokens (prompt and response) are skipped and counted", low=2)
    save_every: int = option(100, "steps between checkpoints, from which a killed run goes on", role="run", low=1)
    report_to: ReportTo = option("none", "where metrics go besides metrics.jsonl", role="run")


@dataclass(frozen=True, kw_only=True)
class LoraOptions(Options):
    """Whether weights or adapters are trained, and what is kept for the backward pass."""

    lora: bool = option(
        False, "train low-rank adapters on the frozen weights; they are kept, and merged into the result"
    )
    lora_rank: int = option(16, "rank of the adapters", low=1)
    lora_alpha: int = option(32, "the adapters count alpha / rank times", low=0)
    gradient_checkpointing: bool = option(False, "less memory, a third more time", role="run")


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(LoraOptions, TrainingOptions, RunOptions):
    """Supervised training, in whole or of adapters."""


@dataclass(frozen=True, kw_only=True)
class ClaudeOptions(Options):
    """How a paid service is asked."""

    model: str | None = option(None, "claude: the model to ask; none is taken unasked")
    effort: Effort | None = option(None, "claude: how much the model works on an answer; unset: its own default")
    max_tokens: int = option(8192, "claude: longest answer, thoughts among it", low=1)
    dry_run: bool = option(False, "claude: ask nothing; say how much there is to ask, and what it may cost", role="run")
    max_cost: float | None = option(
        None, "claude: US dollars that may be spent, in all runs together", role="run", low=0
    )
    batch: bool = option(False, "claude: in batches, for half the price and within a day", role="run")
    concurrency: int = option(16, "claude: calls under way at a time", role="run", low=1)
    prices: Path | None = option(None, "claude: TOML file of prices, in place of ours", role="run")
    allow_unpriced: bool = option(False, "claude: go on with a model whose price is not known", role="run")
    max_retries: int = option(6, "claude: how often a call that failed is made again", role="run", low=0)
    timeout: float = option(600.0, "claude: seconds after which a call is given up", role="run", low=1)
    poll: float = option(30.0, "claude: seconds between looks at a batch", role="run", low=0.01)
    resend_lost: bool = option(
        False, "claude: a batch that is not to be found never was: ask again, perhaps paying twice", role="run"
    )
    discard_journal: bool = option(False, "claude: forget what was answered, and pay for it again", role="run")
