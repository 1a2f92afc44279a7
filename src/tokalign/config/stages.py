"""Every knob of every command: declared once, with its meaning, its bounds and what it is for.

One frozen dataclass a command, put together from the groups of :mod:`tokalign.config.options`. The command line, the
TOML tables and the manifests are all read off these fields.
"""

from dataclasses import Field, dataclass
from pathlib import Path
from typing import Any, Literal

from tokalign.config.options import (
    Adapting,
    Compute,
    Foreign,
    Knobs,
    Paid,
    ReportTo,
    Role,
    Sampling,
    Stage,
    SupervisedStage,
    Templates,
    knob,
)

Editor = Literal["rules", "recorded", "claude", "human"]
ExportTo = Literal["trl", "trl-sft", "hh-rlhf", "csv", "alpaca-eval"]
Unit = Literal["word", "token"]
Align = Literal["levenshtein", "lcs", "blocks"]
Level = Literal["token", "sequence"]
Neutral = Literal["hard", "soft"]
Pairs = Literal["chosen", "edited", "both"]
Reading = Literal["expected", "discrete"]
Normalise = Literal["none", "word", "span"]
Granularity = Literal["token", "segment", "sequence"]
ValueModel = Literal["separate", "shared"]
KlEstimator = Literal["k1", "k3"]
EvalJudge = Literal["playground", "reward"]
Judge = Literal["playground", "claude", "reward", "recorded"]
LengthControl = Literal["none", "minimal", "alpaca-eval"]
TableFormat = Literal["terminal", "markdown", "csv", "latex"]


@dataclass(frozen=True, kw_only=True)
class PlaygroundConfig(Stage):
    """Knobs of ``tokalign playground``."""

    preferences: int = knob(4000, "preference pairs", low=1)
    sft: int = knob(6000, "prompts with a response, to train the starting policy", low=1)
    prompts: int = knob(2560, "prompts to train PPO on", low=1)
    heldout: int = knob(256, "prompts to choose checkpoints and tune on", low=1)
    test: int = knob(1024, "prompts to report on, once", low=1)
    loose: float = knob(
        0.0, "share of flawed answers that are worded loosely too: their edit rewrites the sentence", low=0, high=1
    )


@dataclass(frozen=True, kw_only=True)
class EditConfig(Paid, Foreign, Stage):
    """Knobs of ``tokalign edit``."""

    source: str = knob(
        ..., "preferences (or recorded edits): an artifact, a file or a dataset", role="input", positional=True
    )
    editor: Editor | None = knob(
        None,
        "claude; human; recorded: SOURCE carries edits made elsewhere; rules: the playground's, there the default",
    )
    min_similarity: float = knob(
        0.3, "an edit that keeps less of the words is rejected (recorded: only counted)", low=0, high=1
    )
    prompt: Path | None = knob(None, "claude: file that says how to edit, in place of our prompt", role="input")
    show_chosen: bool = knob(True, "claude: show the preferred response as guidance")
    port: int = knob(0, "human: where the page is served on this machine; 0: any that is free", role="run", high=65535)
    annotator: str = knob("", "human: who edits; kept on every row", role="run")
    open: bool = knob(True, "human: open the page in a browser", role="run")
    re_ask: bool = knob(True, "claude: ask once more where a gate can say what is wrong with an edit")


@dataclass(frozen=True, kw_only=True)
class DiffConfig(Templates, Foreign, Stage):
    """Knobs of ``tokalign diff``."""

    edits: str = knob(..., "edits: an artifact, a file or a dataset", role="input", positional=True)
    tokenizer: str = knob(
        ..., "model folder or hub id whose tokenizer to use, or tiny: learn one on EDITS", role="input"
    )
    vocab: int = knob(4096, "tiny: largest vocabulary", low=300)
    unit: Unit = knob("word", "what is aligned: words, projected onto tokens, or tokens (the paper's way)")
    align: Align = knob("blocks", "blocks: keep long runs; lcs: keep most; levenshtein: the paper's way")
    merge: int = knob(2, "blocks: a run of so many kept words, or fewer, inside an edit is a part of it", low=0)
    whole_sentence: float = knob(
        0.8, "blocks: a sentence of which this share changed was changed as a whole; above 1: never", low=0.1
    )
    omissions: bool = knob(False, "call the token bad, too, before which something was missing")
    max_length: int = knob(2048, "rows with more tokens (prompt and response) are skipped and counted", low=2)
    workers: int = knob(0, "processes, a core each; 0: as many as there are cores and rows for", role="run", low=0)


@dataclass(frozen=True, kw_only=True)
class TrainSftConfig(SupervisedStage, Templates, Foreign):
    """Knobs of ``tokalign train-sft``."""

    data: str = knob(..., "sft or edits: an artifact, a file or a dataset", role="input", positional=True)
    model: str = knob(..., "model folder or hub id, or tiny: a small Llama from scratch", role="input")
    vocab: int = knob(4096, "tiny: largest vocabulary", low=300)
    lr: float = knob(2e-5, "peak learning rate of AdamW", low=0)
    epochs: float = knob(3.0, "passes over the data, where --steps is 0", low=0)


@dataclass(frozen=True, kw_only=True)
class TrainRmConfig(SupervisedStage, Templates, Foreign):
    """Knobs of ``tokalign train-rm``."""

    labels: str = knob(
        ...,
        "token labels made by diff; sequence level also preferences: an artifact, a file or a dataset",
        role="input",
        positional=True,
    )
    model: str = knob(..., "model folder or hub id, or tiny: a small Llama from scratch", role="input")
    vocab: int = knob(4096, "tiny, on preferences: largest vocabulary", low=300)
    level: Level = knob(..., "token: bad / neutral / good at every token; sequence: Bradley-Terry")
    pairs: Pairs = knob("chosen", "sequence level trains on chosen over rejected, edited over original, or both")
    weight_bad: float = knob(1.0, "class weight of bad tokens in the loss", low=0)
    weight_neutral: float = knob(0.2, "class weight of neutral tokens in the loss", low=0)
    weight_good: float = knob(1.0, "class weight of good tokens in the loss", low=0)
    neutral: Neutral = knob("hard", "what a neutral token is called: neutral, or (soft) as likely bad as good")
    label_smoothing: float = knob(0.0, "token level: share of a label that goes to all classes alike", low=0, high=0.9)
    cut_prompts: bool = knob(False, "a prompt that is too long loses its beginning; else the row is skipped")
    heldout: float = knob(0.1, "share of the prompts, by hash, kept for the metrics", low=0, high=0.9)
    patience: int = knob(
        0, "stop when held-out accuracy has not risen for so many looks, keep the best; 0: keep the last", low=0
    )
    eval_every: int = knob(0, "steps between looks at the held-out rows; 0: once a pass", low=0)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(Sampling, Compute, Templates, Foreign, Stage):
    """Knobs of ``tokalign generate``."""

    prompts: str | None = knob(
        None, "prompts: an artifact, a file (.txt: one a line), a dataset; -: stdin", role="input", positional=True
    )
    prompt: list[str] = knob([], "a prompt, in place of PROMPTS; repeatable", role="input", env=False)
    policy: str = knob(..., "policy folder or hub id", role="input")
    n: int = knob(1, "responses a prompt; with --reward-model only the best is kept", low=1)
    reward_model: str | None = knob(None, "best-of-n by this reward model", role="input")
    batch_size: int = knob(64, "responses sampled at a time", low=1)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Compute, Templates, Foreign, Stage):
    """Knobs of ``tokalign score``."""

    responses: str = knob(
        ...,
        "responses, or edits (both sides are scored): an artifact, a file or a dataset",
        role="input",
        positional=True,
    )
    reward_model: str = knob(..., "reward model folder or hub id", role="input")
    tokenizer: str | None = knob(
        None, "model folder or hub id: carry the rewards over to the tokens of its tokenizer", role="input"
    )
    reward: Reading = knob("expected", "token level: p(good) - p(bad), or the likeliest class as -1 / 0 / +1")
    normalise: Normalise = knob(
        "none", "token level: share a reward among the tokens of its word, or of its run (span)"
    )
    batch_size: int = knob(32, "responses in one forward pass", low=1, role="run")
    max_length: int = knob(2048, "rows with more tokens (prompt and response) are skipped and counted", low=2)
    cut_prompts: bool = knob(False, "a prompt that is too long loses its beginning; else the row is skipped")


@dataclass(frozen=True, kw_only=True)
class TrainPpoConfig(Adapting, Sampling, Compute, Templates, Foreign, Stage):
    """Knobs of ``tokalign train-ppo``."""

    prompts: str = knob(
        ..., "prompts: an artifact, a file (.txt: one a line), a dataset; -: stdin", role="input", positional=True
    )
    policy: str = knob(..., "policy to start from, and to stay near", role="input")
    reward_model: list[str] = knob(
        ..., "reward model folder or hub id, or a function as MODULE:NAME; several are summed", role="input"
    )
    reward_weight: list[float] = knob([], "what each reward model counts, in their order; 1 if not given")
    granularity: Granularity = knob(
        "token", "where rewards land: at every token, at the end of a sentence, at the last"
    )
    reward: Reading = knob("expected", "token level: p(good) - p(bad), or the likeliest class as -1 / 0 / +1")
    normalise: Normalise = knob(
        "none", "token level: share a reward among the tokens of its word, or of its run (span)"
    )
    steps: int = knob(
        200, "rollouts, each followed by --epochs passes; a finished run is carried on to more", role="more", low=1
    )
    batch_size: int = knob(64, "prompts in a rollout", low=1)
    epochs: int = knob(2, "passes over each rollout", low=1)
    minibatches: int = knob(2, "optimiser steps in a pass", low=1)
    microbatch: int = knob(16, "responses in one forward pass, of similar length", role="run", low=1)
    lr: float = knob(1e-6, "learning rate of the policy", low=0)
    value_lr: float = knob(5e-6, "learning rate of the value model", low=0)
    max_grad_norm: float = knob(1.0, "gradients are scaled down to this norm; 0: never", low=0)
    value_model: ValueModel = knob("separate", "a network of its own, or (shared) a head on the policy's states")
    vf_coef: float = knob(0.1, "weight of the value loss where the network is shared", low=0)
    kl_coef: float = knob(0.2, "price of a nat of drift from the starting policy", low=0)
    kl_target: float = knob(0.0, "nats a response at which --kl-coef is kept by adapting it; 0: it stays", low=0)
    kl_estimator: KlEstimator = knob("k1", "k1: difference of log-probabilities; k3: never negative, less spread")
    gamma: float = knob(1.0, "discount", low=0, high=1)
    gae_lambda: float = knob(0.95, "trade of bias for variance in advantages", low=0, high=1)
    clip_range: float = knob(0.2, "how far a probability ratio may move in one rollout", low=0)
    value_clip: float = knob(0.2, "how far a value may move in one rollout; 0: anywhere", low=0)
    scale: bool = knob(True, "divide rewards by the spread of a response's total over the first rollout")
    centre: bool = knob(True, "token and segment: subtract the mean payment of the first rollout")
    missing_eos_penalty: float = knob(1.0, "taken from the last reward of a response that never ends", low=0)
    length_guard: float = knob(
        2.0, "nothing good is paid beyond so many times the 95th percentile of the first lengths; 0: off", low=0
    )
    max_length: int = knob(2048, "longest prompt and response together; longer prompts are skipped", low=2)
    sample_batch: int = knob(0, "responses sampled at a time; 0: all of a process", role="run", low=0)
    eval_prompts: str | None = knob(None, "prompts to choose the best checkpoint on", role="input")
    eval_judge: EvalJudge = knob("reward", "who compares with the starting policy there")
    eval_every: int = knob(10, "steps between evaluations", low=1)
    patience: int = knob(0, "stop when the win rate has not risen for so many evaluations; 0: never", low=0)
    stop_kl: float = knob(0.0, "stop when a rollout is so many nats a response away from the start; 0: never", low=0)
    save_every: int = knob(10, "steps between checkpoints, from which a killed run goes on", role="run", low=1)
    sample_every: int = knob(10, "steps between responses kept with their rewards; 0: none", role="run", low=0)
    report_to: ReportTo = knob("none", "where metrics go besides metrics.jsonl", role="run")

    def role(self, field: Field[Any]) -> Role:
        """In half precision a response depends on those that it is drawn with."""
        return "rows" if field.name == "sample_batch" and self.dtype != "float32" else super().role(field)


@dataclass(frozen=True, kw_only=True)
class EvalWinrateConfig(Paid, Sampling, Compute, Templates, Foreign, Stage):
    """Knobs of ``tokalign eval-winrate``."""

    prompts: str | None = knob(
        None, "prompts: an artifact, a file (.txt: one a line), a dataset; -: stdin", role="input"
    )
    prompt: list[str] = knob([], "a prompt, in place of --prompts; repeatable", role="input", env=False)
    candidate: list[str] = knob(
        [], "NAME=PATH of a policy or of responses; PATH@N: the best of N; repeatable", role="input"
    )
    reference: str | None = knob(None, "policy, or responses, to compare with", role="input")
    judge: Judge = knob("playground", "who compares; recorded: someone did, see --judgements")
    reward_model: list[str] = knob(
        [], "reward: what scores responses, one or more; and what picks the best of N", role="input"
    )
    judgements: str | None = knob(None, "recorded: judgements made elsewhere: an artifact or a file", role="input")
    annotations: Path | None = knob(
        None, "AlpacaEval's annotations.json: its win rates again, without judge or prompts", role="input"
    )
    rubric: Path | None = knob(None, "claude: file that says what makes a response better", role="input")
    both_orders: bool = knob(True, "claude: show each pair both ways; a disagreement is a tie")
    length_control: LengthControl = knob(
        "minimal", "win rate at equal length: by lengths alone, or by --difficulty too"
    )
    difficulty: Path | None = knob(
        None, "alpaca-eval: CSV with index and instruction_difficulty, or AlpacaEval's df_gamed.csv", role="input"
    )
    batch_size: int = knob(64, "responses sampled at a time", low=1)
    table_format: TableFormat = knob("terminal", "how the table of win rates is printed", role="run")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Foreign, Stage):
    """Knobs of ``tokalign export``."""

    source: str = knob(
        ...,
        "edits, preferences or responses: an artifact, a file or a dataset",
        role="input",
        positional=True,
    )
    to: ExportTo = knob(..., "layout: trl (DPO), trl-sft, hh-rlhf or csv for pairs, alpaca-eval for responses")
    out: Path = knob(..., "file to write: .jsonl, .json or .parquet; with csv any name", role="out")
    fresh: bool = knob(False, "replace a file that is there", role="run")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Knobs):
    """Knobs of ``tokalign report``."""

    folders: list[Path] = knob(
        ..., "folders of artifacts; several hold the same runs with other seeds", role="input", positional=True
    )
    out: Path = knob(..., "file to write: .html", role="out")
    only: list[str] = knob([], "only artifacts whose path below a folder matches this glob; repeatable", role="run")
    title: str = knob("What tokalign did", "title of the page", role="run")
    examples: int = knob(4, "examples of labels and of rewards", role="run", low=0)
    fresh: bool = knob(False, "replace a file that is there", role="run")
    json: bool = knob(False, "print what was written as one JSON object", role="run")
    quiet: bool = knob(False, "no summary", role="run")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Knobs):
    """Knobs of ``tokalign verify``."""

    folders: list[Path] = knob(..., "artifacts, or folders of artifacts", role="input", positional=True)
    json: bool = knob(False, "print the findings on stdout as one JSON object", role="run")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(Knobs):
    """Knobs of ``tokalign show``."""

    artifact: Path = knob(..., "an artifact, or a folder of artifacts", role="input", positional=True)
    id: str | None = knob(None, "only the row with this id", role="run")
    grep: str | None = knob(None, "only rows with a text in which this regular expression is found", role="run")
    sort: str | None = knob(None, "by this column of numbers, e.g. similarity; -similarity: largest first", role="run")
    skip: int = knob(0, "rows to pass over first", low=0, role="run")
    limit: int = knob(5, "how many rows", low=1, role="run")
    context: int = knob(12, "words shown on either side of an edit in a long text", low=1, role="run")
    full: bool = knob(False, "show long texts whole", role="run")
    pager: bool = knob(True, "on a terminal, page through $PAGER", role="run")
    json: bool = knob(False, "print the manifest on stdout as one JSON object", role="run")
