"""Every option of every command: declared once, with its meaning, its bounds and what it is for.

One frozen dataclass a command, put together from the groups of :mod:`tokalign.config.options`. The command line, the
TOML tables and the manifests are all read off these fields.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokalign.config.methods import EditOptions, JudgeOptions, Normalise, PpoOptions, Reading, RewardModelOptions
from tokalign.config.options import (
    ComputeOptions,
    Options,
    ReadOptions,
    ReportTo,
    SamplingOptions,
    StageOptions,
    SupervisedOptions,
    TemplateOptions,
    option,
)

ExportTo = Literal["trl", "trl-sft", "hh-rlhf", "csv", "alpaca-eval"]
Unit = Literal["word", "token"]
Align = Literal["levenshtein", "lcs", "blocks"]
EvalJudge = Literal["playground", "reward"]
LengthControl = Literal["none", "minimal", "alpaca-eval"]
TableFormat = Literal["terminal", "markdown", "csv", "latex"]


@dataclass(frozen=True, kw_only=True)
class PlaygroundConfig(StageOptions):
    """Options of ``tokalign playground``."""

    preferences: int = option(4000, "preference pairs", low=1)
    sft: int = option(6000, "prompts with a response, to train the starting policy", low=1)
    prompts: int = option(2560, "prompts to train PPO on", low=1)
    heldout: int = option(256, "prompts to choose checkpoints and tune on", low=1)
    test: int = option(1024, "prompts to report on, once", low=1)
    loose: float = option(
        0.0, "share of flawed answers that are worded loosely too: their edit rewrites the sentence", low=0, high=1
    )


@dataclass(frozen=True, kw_only=True)
class EditConfig(EditOptions, ReadOptions, StageOptions):
    """Options of ``tokalign edit``."""

    source: str = option(
        ..., "preferences (or recorded edits): an artifact, a file or a dataset", role="input", positional=True
    )


@dataclass(frozen=True, kw_only=True)
class DiffConfig(TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign diff``."""

    edits: str = option(..., "edits: an artifact, a file or a dataset", role="input", positional=True)
    tokenizer: str = option(
        ..., "model folder or hub id whose tokenizer to use, or tiny: learn one on EDITS", role="input"
    )
    vocab: int = option(4096, "tiny: largest vocabulary", low=300)
    unit: Unit = option("word", "what is aligned: words, projected onto tokens, or tokens (the paper's way)")
    align: Align = option("blocks", "blocks: keep long runs; lcs: keep most; levenshtein: the paper's way")
    merge: int = option(2, "blocks: a run of so many kept words, or fewer, inside an edit is a part of it", low=0)
    whole_sentence: float = option(
        0.8, "blocks: a sentence of which this share changed was changed as a whole; above 1: never", low=0.1
    )
    omissions: bool = option(False, "call the token bad, too, before which something was missing")
    max_length: int = option(2048, "rows with more tokens (prompt and response) are skipped and counted", low=2)
    workers: int = option(0, "processes, a core each; 0: as many as there are cores and rows for", role="run", low=0)


@dataclass(frozen=True, kw_only=True)
class TrainSftConfig(SupervisedOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign train-sft``."""

    data: str = option(..., "sft or edits: an artifact, a file or a dataset", role="input", positional=True)
    model: str = option(..., "model folder or hub id, or tiny: a small Llama from scratch", role="input")
    vocab: int = option(4096, "tiny: largest vocabulary", low=300)
    lr: float = option(2e-5, "peak learning rate of AdamW", low=0)
    epochs: float = option(3.0, "passes over the data, where --steps is 0", low=0)


@dataclass(frozen=True, kw_only=True)
class TrainRmConfig(RewardModelOptions, SupervisedOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign train-rm``."""

    labels: str = option(
        ...,
        "token labels made by diff; sequence level also preferences: an artifact, a file or a dataset",
        role="input",
        positional=True,
    )
    model: str = option(..., "model folder or hub id, or tiny: a small Llama from scratch", role="input")
    vocab: int = option(4096, "tiny, on preferences: largest vocabulary", low=300)
    cut_prompts: bool = option(False, "a prompt that is too long loses its beginning; else the row is skipped")
    heldout: float = option(0.1, "share of the prompts, by hash, kept for the metrics", low=0, high=0.9)
    patience: int = option(
        0, "stop when held-out accuracy has not risen for so many looks, keep the best; 0: keep the last", low=0
    )
    eval_every: int = option(0, "steps between looks at the held-out rows; 0: once a pass", low=0)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SamplingOptions, ComputeOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign generate``."""

    prompts: str | None = option(
        None, "prompts: an artifact, a file (.txt: one a line), a dataset; -: stdin", role="input", positional=True
    )
    prompt: list[str] = option([], "a prompt, in place of PROMPTS; repeatable", role="input", env=False)
    policy: str = option(..., "policy folder or hub id", role="input")
    n: int = option(1, "responses a prompt; with --reward-model only the best is kept", low=1)
    reward_model: str | None = option(None, "best-of-n by this reward model", role="input")
    batch_size: int = option(64, "responses sampled at a time", low=1)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ComputeOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign score``."""

    responses: str = option(
        ...,
        "responses, or edits (both sides are scored): an artifact, a file or a dataset",
        role="input",
        positional=True,
    )
    reward_model: str = option(..., "reward model folder or hub id", role="input")
    tokenizer: str | None = option(
        None, "model folder or hub id: carry the rewards over to the tokens of its tokenizer", role="input"
    )
    reward: Reading = option("expected", "token level: p(good) - p(bad), or the likeliest class as -1 / 0 / +1")
    normalise: Normalise = option(
        "none", "token level: share a reward among the tokens of its word, or of its run (span)"
    )
    batch_size: int = option(32, "responses in one forward pass", low=1, role="run")
    max_length: int = option(2048, "rows with more tokens (prompt and response) are skipped and counted", low=2)
    cut_prompts: bool = option(False, "a prompt that is too long loses its beginning; else the row is skipped")


@dataclass(frozen=True, kw_only=True)
class TrainPpoConfig(PpoOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign train-ppo``."""

    prompts: str = option(
        ..., "prompts: an artifact, a file (.txt: one a line), a dataset; -: stdin", role="input", positional=True
    )
    policy: str = option(..., "policy to start from, and to stay near", role="input")
    reward_model: list[str] = option(
        ..., "reward model folder or hub id, or a function as MODULE:NAME; several are summed", role="input"
    )
    reward_weight: list[float] = option([], "what each reward model counts, in their order; 1 if not given")
    steps: int = option(
        200, "rollouts, each followed by --epochs passes; a finished run is carried on to more", role="more", low=1
    )
    eval_prompts: str | None = option(None, "prompts to choose the best checkpoint on", role="input")
    eval_judge: EvalJudge = option("reward", "who compares with the starting policy there")
    eval_every: int = option(10, "steps between evaluations", low=1)
    patience: int = option(0, "stop when the win rate has not risen for so many evaluations; 0: never", low=0)
    stop_kl: float = option(0.0, "stop when a rollout is so many nats a response away from the start; 0: never", low=0)
    save_every: int = option(10, "steps between checkpoints, from which a killed run goes on", role="run", low=1)
    sample_every: int = option(10, "steps between responses kept with their rewards; 0: none", role="run", low=0)
    report_to: ReportTo = option("none", "where metrics go besides metrics.jsonl", role="run")


@dataclass(frozen=True, kw_only=True)
class EvalWinrateConfig(JudgeOptions, SamplingOptions, TemplateOptions, ReadOptions, StageOptions):
    """Options of ``tokalign eval-winrate``."""

    prompts: str | None = option(
        None, "prompts: an artifact, a file (.txt: one a line), a dataset; -: stdin", role="input"
    )
    prompt: list[str] = option([], "a prompt, in place of --prompts; repeatable", role="input", env=False)
    candidate: list[str] = option(
        [], "NAME=PATH of a policy or of responses; PATH@N: the best of N; repeatable", role="input"
    )
    annotations: Path | None = option(
        None, "AlpacaEval's annotations.json: its win rates again, without judge or prompts", role="input"
    )
    length_control: LengthControl = option(
        "minimal", "win rate at equal length: by lengths alone, or by --difficulty too"
    )
    difficulty: Path | None = option(
        None, "alpaca-eval: CSV with index and instruction_difficulty, or AlpacaEval's df_gamed.csv", role="input"
    )
    table_format: TableFormat = option("terminal", "how the table of win rates is printed", role="run")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(ReadOptions, StageOptions):
    """Options of ``tokalign export``."""

    source: str = option(
        ...,
        "edits, preferences or responses: an artifact, a file or a dataset",
        role="input",
        positional=True,
    )
    to: ExportTo = option(..., "layout: trl (DPO), trl-sft, hh-rlhf or csv for pairs, alpaca-eval for responses")
    out: Path = option(..., "file to write: .jsonl, .json or .parquet; with csv any name", role="out")
    fresh: bool = option(False, "replace a file that is there", role="run")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Options):
    """Options of ``tokalign report``."""

    folders: list[Path] = option(
        ..., "folders of artifacts; several hold the same runs with other seeds", role="input", positional=True
    )
    out: Path = option(..., "file to write: .html", role="out")
    only: list[str] = option([], "only artifacts whose path below a folder matches this glob; repeatable", role="run")
    title: str = option("What tokalign did", "title of the page", role="run")
    examples: int = option(4, "examples of labels and of rewards", role="run", low=0)
    fresh: bool = option(False, "replace a file that is there", role="run")
    json: bool = option(False, "print what was written as one JSON object", role="run")
    quiet: bool = option(False, "no summary", role="run")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Options):
    """Options of ``tokalign verify``."""

    folders: list[Path] = option(..., "artifacts, or folders of artifacts", role="input", positional=True)
    json: bool = option(False, "print the findings on stdout as one JSON object", role="run")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(Options):
    """Options of ``tokalign show``."""

    artifact: Path = option(..., "an artifact, or a folder of artifacts", role="input", positional=True)
    id: str | None = option(None, "only the row with this id", role="run")
    grep: str | None = option(None, "only rows with a text in which this regular expression is found", role="run")
    sort: str | None = option(
        None, "by this column of numbers, e.g. similarity; -similarity: largest first", role="run"
    )
    skip: int = option(0, "rows to pass over first", low=0, role="run")
    limit: int = option(5, "how many rows", low=1, role="run")
    context: int = option(12, "words shown on either side of an edit in a long text", low=1, role="run")
    full: bool = option(False, "show long texts whole", role="run")
    pager: bool = option(True, "on a terminal, page through $PAGER", role="run")
    json: bool = option(False, "print the manifest on stdout as one JSON object", role="run")
