"""The options of each command: one frozen dataclass per command, with help text, bounds and role of every option.

Each combines the groups of :mod:`tokalign.config.options` and :mod:`tokalign.config.methods`. The command line, the
TOML tables and the manifests are derived from these fields.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokalign.config.methods import (
    EditOptions,
    JudgeOptions,
    LabelOptions,
    PpoOptions,
    RewardModelOptions,
    RewardOptions,
)
from tokalign.config.options import (
    ComputeOptions,
    Options,
    ReadOptions,
    ReportTo,
    SamplingOptions,
    StageOptions,
    SupervisedOptions,
    TemplateOptions,
    TimeOptions,
    option,
)
from tokalign.config.sharding import ShardOptions

ExportTo = Literal["trl", "trl-sft", "hh-rlhf", "csv", "alpaca-eval"]
LengthControl = Literal["none", "minimal", "alpaca-eval"]
TableFormat = Literal["terminal", "markdown", "csv", "latex"]


@dataclass(frozen=True, kw_only=True)
class PlaygroundConfig(StageOptions):
    """Options of ``tokalign playground``."""

    preferences: int = option(4000, "number of preference pairs", low=1)
    sft: int = option(6000, "number of prompts with a response, for SFT of the starting policy", low=1)
    prompts: int = option(2560, "number of prompts for PPO", low=1)
    heldout: int = option(256, "number of held-out prompts, for selecting checkpoints and tuning", low=1)
    test: int = option(1024, "number of test prompts, for the final evaluation only", low=1)
    loose: float = option(
        0.0,
        "share of the flawed answers that are also worded loosely, so that their edit rewrites the sentence",
        low=0,
        high=1,
    )


@dataclass(frozen=True, kw_only=True)
class EditConfig(EditOptions, ReadOptions, ShardOptions):
    """Options of ``tokalign edit``."""

    source: str = option(
        ...,
        "preferences, or edits (recorded, or to review): an artifact, a file or a dataset id",
        role="input",
        positional=True,
    )


@dataclass(frozen=True, kw_only=True)
class DiffConfig(LabelOptions, TemplateOptions, ReadOptions, ShardOptions):
    """Options of ``tokalign diff``."""

    edits: str = option(..., "edits: an artifact, a file or a dataset id", role="input", positional=True)
    tokenizer: str = option(
        ...,
        "model folder, GGUF file or hub id whose tokenizer to use; tiny trains a small tokenizer on EDITS",
        role="input",
    )
    vocab: int = option(4096, "with --tokenizer tiny: maximum vocabulary size", low=300)
    max_length: int = option(2048, "maximum tokens of prompt and response; longer rows are skipped and counted", low=2)
    workers: int = option(
        0, "number of processes; 0: one per core, fewer for small inputs; no effect on the result", role="run", low=0
    )


@dataclass(frozen=True, kw_only=True)
class TrainSftConfig(SupervisedOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign train-sft``."""

    data: str = option(
        ...,
        "prompts with responses, or edits (the edited responses are used): an artifact, a file or a dataset id",
        role="input",
        positional=True,
    )
    model: str = option(..., "model folder, GGUF file or hub id; tiny trains a small Llama from scratch", role="input")
    vocab: int = option(4096, "with --model tiny: maximum vocabulary size", low=300)
    lr: float = option(2e-5, "peak learning rate of AdamW", low=0, with_lora=2e-4)
    epochs: float = option(3.0, "passes over the data; used if --steps is 0", low=0)


@dataclass(frozen=True, kw_only=True)
class TrainRmConfig(RewardModelOptions, SupervisedOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign train-rm``."""

    labels: str = option(
        ...,
        "token labels, an artifact of diff; at sequence level also preferences: an artifact, a file or a dataset id",
        role="input",
        positional=True,
    )
    model: str = option(..., "model folder, GGUF file or hub id; tiny trains a small Llama from scratch", role="input")
    vocab: int = option(4096, "with --model tiny on preferences: maximum vocabulary size", low=300)
    lr: float = option(1e-5, "peak learning rate of AdamW", low=0, with_lora=5e-4)
    cut_prompts: bool = option(False, "cut the beginning of a prompt that is too long, instead of skipping the row")
    heldout: float = option(
        0.1, "share of the prompts held out for the metrics, selected by hash; 0 disables", low=0, high=0.9
    )
    patience: int = option(
        0, "stop after this many held-out evaluations without a new best and keep the best weights; 0 disables", low=0
    )
    eval_every: int = option(0, "with --patience: steps between held-out evaluations; 0: once per epoch", low=0)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingOptions, ComputeOptions, TemplateOptions, ReadOptions, ShardOptions):
    """Options of ``tokalign generate``."""

    prompts: str | None = option(
        None,
        "prompts: an artifact, a file (.txt: one per line), a dataset id, or - for stdin",
        role="input",
        positional=True,
    )
    prompt: list[str] = option([], "a prompt, instead of PROMPTS; repeatable", role="input", env=False)
    policy: str = option(..., "policy folder, GGUF file or hub id", role="input")
    n: int = option(1, "responses per prompt; with --reward-model only the best one is kept", low=1)
    reward_model: str | None = option(
        None, "reward model folder or hub id that selects the best of n; unset: keep all", role="input"
    )
    batch_size: int = option(64, "responses sampled at a time", low=1)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(RewardOptions, ComputeOptions, TemplateOptions, ReadOptions, ShardOptions):
    """Options of ``tokalign score``."""

    responses: str = option(
        ...,
        "responses, or edits (original and edited are scored): an artifact, a file or a dataset id",
        role="input",
        positional=True,
    )
    reward_model: str = option(..., "reward model folder or hub id", role="input")
    tokenizer: str | None = option(
        None,
        "model folder, GGUF file or hub id with another tokenizer: map the rewards to its tokens, by characters; unset "
        "keeps the reward model's",
        role="input",
    )
    batch_size: int = option(32, "responses per forward pass; affects memory and speed only", low=1, role="run")
    max_length: int = option(2048, "maximum tokens of prompt and response; longer rows are skipped and counted", low=2)
    cut_prompts: bool = option(False, "cut the beginning of a prompt that is too long, instead of skipping the row")


@dataclass(frozen=True, kw_only=True)
class EvalRmConfig(RewardOptions, ComputeOptions, StageOptions):
    """Options of ``tokalign eval-rm``."""

    labels: str = option(..., "labels: a token-labels artifact", role="input", positional=True)
    reward_model: str = option(..., "reward model folder or hub id", role="input")
    max_length: int = option(2048, "maximum tokens of prompt and response; longer rows are skipped and counted", low=2)
    cut_prompts: bool = option(False, "cut the beginning of a prompt that is too long, instead of skipping the row")


@dataclass(frozen=True, kw_only=True)
class TrainPpoConfig(PpoOptions, TimeOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign train-ppo``."""

    prompts: str = option(
        ...,
        "prompts: an artifact, a file (.txt: one per line), a dataset id, or - for stdin",
        role="input",
        positional=True,
    )
    policy: str = option(
        ..., "policy to start from, folder, GGUF file or hub id; also the reference of the KL penalty", role="input"
    )
    reward_model: list[str] = option(
        ...,
        "reward model folder or hub id, or a Python function as MODULE:NAME; repeatable, the rewards are summed",
        role="input",
    )
    reward_weight: list[float] = option(
        [], "weight of each --reward-model, repeated in the same order; unset: 1 for each"
    )
    steps: int = option(
        200,
        "PPO steps (a rollout and --epochs passes over it); a finished run continues if you raise --steps",
        role="more",
        low=1,
    )
    eval_prompts: str | None = option(
        None, "held-out prompts for selecting the best checkpoint; unset: the last is kept", role="input"
    )
    eval_judge: str = option(
        "reward",
        "who compares policy and starting policy on --eval-prompts: reward (the training reward), playground (rules) "
        "or a Python function as MODULE:NAME",
    )
    eval_every: int = option(10, "steps between evaluations on --eval-prompts", low=1)
    patience: int = option(0, "stop after this many evaluations without a higher win rate; 0 disables", low=0)
    stop_kl: float = option(
        0.0,
        "stop if the mean KL divergence of a rollout from the starting policy exceeds this, in nats per response; "
        "0 disables",
        low=0,
    )
    save_every: int = option(10, "steps between checkpoints; an interrupted run resumes from one", role="run", low=1)
    sample_every: int = option(
        10, "steps between saved sample responses with their rewards, in samples/; 0 disables", role="run", low=0
    )
    look_samples: int = option(
        0,
        "responses to --eval-prompts that are saved at each evaluation, beside those of the starting policy and the "
        "verdict, in looks/",
        role="run",
        low=0,
    )
    report_to: ReportTo = option(
        "none", "also send metrics to tensorboard or wandb; metrics.jsonl is always written", role="run"
    )


@dataclass(frozen=True, kw_only=True)
class EvalWinrateConfig(JudgeOptions, SamplingOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign eval-winrate``."""

    prompts: str | None = option(
        None, "prompts: an artifact, a file (.txt: one per line), a dataset id, or - for stdin", role="input"
    )
    prompt: list[str] = option([], "a prompt, instead of --prompts; repeatable", role="input", env=False)
    candidate: list[str] = option(
        [],
        "NAME=PATH of a policy or of responses; PATH@N takes the best of N samples by --reward-model; repeatable",
        role="input",
    )
    annotations: Path | None = option(
        None, "AlpacaEval's annotations.json: recompute its win rates, without judge and prompts", role="input"
    )
    length_control: LengthControl = option(
        "minimal",
        "length-controlled win rate: minimal uses the lengths only, alpaca-eval also --difficulty; none disables",
    )
    difficulty: Path | None = option(
        None,
        "with --length-control alpaca-eval: CSV with index and instruction_difficulty, or AlpacaEval's df_gamed.csv",
        role="input",
    )
    table_format: TableFormat = option(
        "terminal", "format of the table of win rates; all but terminal print to stdout", role="run"
    )


@dataclass(frozen=True, kw_only=True)
class MergeConfig(Options):
    """Options of ``tokalign merge``."""

    shards: list[Path] = option(
        ..., "artifacts of all parts of one run, made with --shard; in any order", role="input", positional=True
    )
    out: Path = option(..., "output folder", role="out")
    fresh: bool = option(False, "replace an output folder that holds another run", role="run")
    json: bool = option(False, "print the manifest to stdout as one JSON object", role="run")
    quiet: bool = option(False, "show no summary", role="run")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(ReadOptions, StageOptions):
    """Options of ``tokalign export``."""

    source: str = option(
        ...,
        "edits, preferences or responses: an artifact, a file or a dataset id",
        role="input",
        positional=True,
    )
    to: ExportTo = option(
        ..., "output layout: trl (for DPO), trl-sft, hh-rlhf or csv for pairs; alpaca-eval for responses"
    )
    out: Path = option(..., "output file: .jsonl, .json or .parquet; with --to csv any name", role="out")
    fresh: bool = option(False, "replace an existing output file", role="run")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Options):
    """Options of ``tokalign report``."""

    folders: list[Path] = option(
        ...,
        "folders of artifacts; give several if they hold the same runs with different seeds",
        role="input",
        positional=True,
    )
    out: Path = option(..., "output file: .html", role="out")
    only: list[str] = option(
        [], "include only artifacts whose path below the folder matches this glob; repeatable", role="run"
    )
    title: str = option("tokalign report", "title of the page", role="run")
    examples: int = option(4, "number of examples of labels and of rewards; 0 disables", role="run", low=0)
    fresh: bool = option(False, "replace an existing output file", role="run")
    json: bool = option(False, "print the result, file name and counts, to stdout as one JSON object", role="run")
    quiet: bool = option(False, "show no summary", role="run")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Options):
    """Options of ``tokalign verify``."""

    folders: list[Path] = option(..., "artifacts, or folders of artifacts", role="input", positional=True)
    json: bool = option(False, "print the findings to stdout as one JSON object", role="run")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(Options):
    """Options of ``tokalign show``."""

    artifact: Path = option(..., "artifact, or folder of artifacts", role="input", positional=True)
    id: str | None = option(None, "show only rows with this id", role="run")
    grep: str | None = option(None, "show only rows with a text that matches this regular expression", role="run")
    sort: str | None = option(
        None,
        "sort rows by a numeric column, such as similarity; in descending order with a minus sign, -similarity",
        role="run",
    )
    skip: int = option(0, "number of rows to skip", low=0, role="run")
    limit: int = option(5, "number of rows to show", low=1, role="run")
    context: int = option(12, "words shown before and after each edit in a long text", low=1, role="run")
    full: bool = option(False, "show long texts in full", role="run")
    pager: bool = option(True, "in a terminal, use the pager $PAGER", role="run")
    json: bool = option(False, "print the manifest to stdout as one JSON object", role="run")
