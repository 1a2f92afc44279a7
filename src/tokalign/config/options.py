"""What a knob is, and those that commands share: where results go, how inputs are read, models run, money is spent.

One frozen dataclass a stage. The command line, the TOML tables and the manifests are all read off these
fields. A knob's role says how a finished folder is compared when a command is run again:

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


def knob(
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
class Knobs:
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
        """What a knob is for, with the others as they are."""
        role: Role = field.metadata["role"]
        return role

    def select(self, *roles: Role) -> dict[str, Any]:
        """The knobs of these roles, as plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if self.role(f) in roles}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The knobs that have a default, with it, as plain JSON values."""
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
class Stage(Knobs):
    """What every command that writes an artifact has."""

    out: Path = knob(..., "folder to write", role="out")
    limit: int | None = knob(None, "take only the first N rows of the input", low=1)
    seed: int = knob(0, "seed of everything random", low=0, high=2**62)
    fresh: bool = knob(False, "rewrite a folder that holds another run", role="run")
    json: bool = knob(False, "print the manifest on stdout as one JSON object", role="run")
    quiet: bool = knob(False, "no progress, no summary", role="run")
    probe_seconds: float = knob(
        4.0,
        "seconds of computing that a table or tokenizer of others may take to open, for each 8 MB",
        role="run",
        low=1,
    )
    probe_memory: int = knob(1024, "megabytes of memory that it may take", role="run", low=128)


@dataclass(frozen=True, kw_only=True)
class Foreign(Knobs):
    """How an input that is no artifact of ours is read."""

    format: Format = knob("auto", "layout of a file or dataset")
    revision: str | None = knob(None, "commit, tag or branch of a Hugging Face dataset", role="input")
    subset: str | None = knob(None, "configuration of a Hugging Face dataset", role="input")
    split: str = knob("train", "split of a Hugging Face dataset", role="input")
    passages: bool = knob(True, "qa-feedback: put the passages into the prompt")
    strict: bool = knob(
        False,
        "a row that cannot be used is an error, not skipped: of a foreign layout, or refused by a chat template",
        role="run",
    )


@dataclass(frozen=True, kw_only=True)
class Compute(Knobs):
    """Where and in what precision models run."""

    device: str = knob("auto", "auto, cpu, cuda, cuda:1, mps", role="run")
    dtype: Dtype = knob("float32", "precision of weights and arithmetic")


@dataclass(frozen=True, kw_only=True)
class Templates(Knobs):
    """How prompts are put into a model's chat template."""

    template_arg: list[str] = knob(
        [], "KEY=VALUE, a variable of the chat template, such as enable_thinking=false; repeatable", env=False
    )
    system: SystemTurns | None = knob(
        None, "a system turn where the template has none: fold it into the user's (the default), drop it, or refuse"
    )
    template_date: str = knob("2024-07-26", "the day that a chat template is told, where it asks: not that of the run")


@dataclass(frozen=True, kw_only=True)
class Sampling(Knobs):
    """How responses are drawn."""

    sampler: SamplerName = knob(
        "auto",
        "what draws responses: our own loop, generate of transformers, or a loop without a cache; "
        "auto: the first of them that is right for the model",
    )

    max_new_tokens: int = knob(256, "longest response, in tokens", low=1)
    temperature: float = knob(1.0, "0 takes the most likely token", low=0)
    top_p: float = knob(1.0, "draw from the most likely tokens that hold this much probability", low=1e-6, high=1)


@dataclass(frozen=True, kw_only=True)
class Training(Compute):
    """Supervised training (sft and reward models)."""

    steps: int = knob(
        0, "optimiser steps; 0: as many as --epochs needs; a finished run is carried on to more", role="more", low=0
    )
    epochs: float = knob(1.0, "passes over the data, where --steps is 0", low=0)
    batch_size: int = knob(16, "rows (pairs, for a reward model) in an optimiser step", low=1)
    microbatch: int = knob(0, "rows in one forward pass, for memory; 0: the whole batch", role="run", low=0)
    lr: float = knob(1e-5, "peak learning rate of AdamW", low=0)
    optimizer: Optimizer = knob("adamw", "muon: matrices by Muon, the rest by AdamW; for models from scratch")
    muon_lr: float = knob(0.02, "peak learning rate of Muon", low=0)
    weight_decay: float = knob(0.0, "decoupled weight decay", low=0)
    warmup: float = knob(0.03, "share of the steps over which the learning rate rises", low=0, high=1)
    max_grad_norm: float = knob(1.0, "gradients are scaled down to this norm; 0: never", low=0)
    max_length: int = knob(2048, "rows with more tokens (prompt and response) are skipped and counted", low=2)
    save_every: int = knob(100, "steps between checkpoints, from which a killed run goes on", role="run", low=1)
    report_to: ReportTo = knob("none", "where metrics go besides metrics.jsonl", role="run")


@dataclass(frozen=True, kw_only=True)
class Adapting(Knobs):
    """Whether weights or adapters are trained, and what is kept for the backward pass."""

    lora: bool = knob(False, "train low-rank adapters on the frozen weights; they are kept, and merged into the result")
    lora_rank: int = knob(16, "rank of the adapters", low=1)
    lora_alpha: int = knob(32, "the adapters count alpha / rank times", low=0)
    gradient_checkpointing: bool = knob(False, "less memory, a third more time", role="run")


@dataclass(frozen=True, kw_only=True)
class SupervisedStage(Adapting, Training, Stage):
    """What the stages that train on a fixed set of rows have."""


@dataclass(frozen=True, kw_only=True)
class Paid(Knobs):
    """How a paid service is asked."""

    model: str | None = knob(None, "claude: the model to ask; none is taken unasked")
    effort: Effort | None = knob(None, "claude: how much the model works on an answer; unset: its own default")
    max_tokens: int = knob(8192, "claude: longest answer, thoughts among it", low=1)
    dry_run: bool = knob(False, "claude: ask nothing; say how much there is to ask, and what it may cost", role="run")
    max_cost: float | None = knob(None, "claude: US dollars that may be spent, in all runs together", role="run", low=0)
    batch: bool = knob(False, "claude: in batches, for half the price and within a day", role="run")
    concurrency: int = knob(16, "claude: calls under way at a time", role="run", low=1)
    prices: Path | None = knob(None, "claude: TOML file of prices, in place of ours", role="run")
    allow_unpriced: bool = knob(False, "claude: go on with a model whose price is not known", role="run")
    max_retries: int = knob(6, "claude: how often a call that failed is made again", role="run", low=0)
    timeout: float = knob(600.0, "claude: seconds after which a call is given up", role="run", low=1)
    poll: float = knob(30.0, "claude: seconds between looks at a batch", role="run", low=0.01)
    resend_lost: bool = knob(
        False, "claude: a batch that is not to be found never was: ask again, perhaps paying twice", role="run"
    )
    discard_journal: bool = knob(False, "claude: forget what was answered, and pay for it again", role="run")
