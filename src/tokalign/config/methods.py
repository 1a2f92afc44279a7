"""Options of editors, judges, labels, reward models and PPO. Nothing here says where results go."""

from dataclasses import Field, dataclass
from pathlib import Path
from typing import Any, Literal

from tokalign.config.options import (
    ClaudeOptions,
    ComputeOptions,
    LoraOptions,
    Options,
    Role,
    RunOptions,
    SamplingOptions,
    option,
)

Unit = Literal["word", "token"]
Align = Literal["levenshtein", "lcs", "blocks"]
Editor = Literal["rules", "recorded", "claude", "human"]
Level = Literal["token", "sequence"]
Neutral = Literal["hard", "soft"]
Pairs = Literal["chosen", "edited", "both"]
Reading = Literal["expected", "discrete"]
Normalise = Literal["none", "word", "span"]
Granularity = Literal["token", "segment", "sequence"]
ValueModel = Literal["separate", "shared"]
KlEstimator = Literal["k1", "k3"]


@dataclass(frozen=True, kw_only=True)
class EditOptions(ClaudeOptions, RunOptions):
    """Options of editors."""

    editor: Editor | None = option(
        None,
        "who edits: claude, human (on a local page), recorded (SOURCE contains edits), or rules (playground texts "
        "only, and the default for them)",
    )
    min_similarity: float = option(
        0.3,
        "smallest share of the words that an edit must keep; claude, rules: rejected below it; human: a warning; "
        "recorded: only counted",
        low=0,
        high=1,
    )
    prompt: Path | None = option(
        None, "claude: file with editing instructions; replaces the built-in prompt", role="input"
    )
    show_chosen: bool = option(True, "claude: include the preferred response in the request, as guidance")
    port: int = option(0, "human: local port of the annotation page; 0: any free port", role="run", high=65535)
    annotator: str = option("", "human: name of the annotator, saved in every row", role="run")
    open: bool = option(True, "human: open the annotation page in a browser", role="run")
    re_ask: bool = option(True, "claude: request a rejected edit once more, with a description of what was wrong")


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(ClaudeOptions, ComputeOptions, RunOptions):
    """Options of judges."""

    reference: str | None = option(None, "policy or responses that all candidates are compared with", role="input")
    judge: str = option(
        "playground",
        "who compares: playground (rules; playground prompts only), claude, reward (scores of --reward-model), "
        "recorded (--judgements) or a Python function as MODULE:NAME that scores responses",
    )
    reward_model: list[str] = option(
        [],
        "reward model folder, hub id or MODULE:NAME for --judge reward; repeatable; the first also selects the best "
        "of N",
        role="input",
    )
    judgements: str | None = option(
        None, "recorded: existing judgements, an artifact or a file with id, candidate, order, preference", role="input"
    )
    rubric: Path | None = option(
        None, "claude: file with the criteria of a better response; replaces the built-in rubric", role="input"
    )
    both_orders: bool = option(True, "claude: judge each pair in both orders and average the two verdicts")
    batch_size: int = option(64, "responses sampled or scored at a time", low=1)


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Options):
    """How a response and its edit are aligned, and which tokens are labelled."""

    unit: Unit = option(
        "word", "what to align: words, whose labels are projected onto tokens, or tokens (as in the paper)"
    )
    align: Align = option(
        "blocks",
        "blocks: keep words in long runs; lcs: keep as many words as possible; levenshtein: fewest operations (as in "
        "the paper)",
    )
    merge: int = option(
        2, "blocks: a run of this many kept words or fewer inside an edit becomes part of the edit; 0 disables", low=0
    )
    whole_sentence: float = option(
        0.8, "blocks: if this share of a sentence changed, count all of it as changed; above 1 disables", low=0.1
    )
    omissions: bool = option(False, "also label the token before which something was missing as bad")


@dataclass(frozen=True, kw_only=True)
class RewardModelOptions(Options):
    """Training target and loss of a reward model."""

    level: Level = option(
        ...,
        "token: classify every token as bad, neutral or good; sequence: one score per response (Bradley-Terry loss)",
    )
    pairs: Pairs = option(
        "chosen", "sequence level: train on chosen over rejected (chosen), edited over original (edited), or both"
    )
    weight_bad: float = option(1.0, "token level: loss weight of the class bad", low=0)
    weight_neutral: float = option(0.2, "token level: loss weight of the class neutral", low=0)
    weight_good: float = option(1.0, "token level: loss weight of the class good", low=0)
    neutral: Neutral = option(
        "hard", "token level: target of a neutral token, either the class neutral (hard) or half bad, half good (soft)"
    )
    label_smoothing: float = option(
        0.0, "token level: share of the target spread equally over all classes; 0 disables", low=0, high=0.9
    )


@dataclass(frozen=True, kw_only=True)
class RewardOptions(Options):
    """How the output of a token-level reward model becomes rewards."""

    reward: Reading = option(
        "expected",
        "token-level models: reward p(good) - p(bad) (expected), or the most likely class as -1, 0 or 1 (discrete)",
    )
    normalise: Normalise = option(
        "none",
        "token-level models: share a reward among the tokens of its word, or of its span (neighbouring tokens whose "
        "rewards have the same sign)",
    )


@dataclass(frozen=True, kw_only=True)
class PpoOptions(RewardOptions, LoraOptions, SamplingOptions, ComputeOptions, RunOptions):
    """Options of PPO: rewards, losses, optimisation."""

    granularity: Granularity = option(
        "token",
        "where rewards are placed: at every token, at the last token of each sentence (segment), or at the last "
        "token of the response (sequence)",
    )
    batch_size: int = option(64, "prompts per rollout, over all processes", low=1)
    epochs: int = option(2, "passes over each rollout", low=1)
    minibatches: int = option(2, "optimiser steps per pass", low=1)
    microbatch: int = option(16, "responses per forward pass; affects memory and speed only", role="run", low=1)
    lr: float = option(1e-6, "learning rate of the policy", low=0, with_lora=2e-4)
    value_lr: float = option(5e-6, "learning rate of the value model", low=0, with_lora=1e-3)
    max_grad_norm: float = option(1.0, "clip gradients to this norm; 0 disables", low=0)
    value_model: ValueModel = option(
        "separate", "separate: a second network; shared: a value head on the policy's hidden states"
    )
    vf_coef: float = option(0.1, "weight of the value loss with --value-model shared", low=0)
    kl_coef: float = option(
        0.2, "coefficient of the KL penalty for moving away from the starting policy; 0 disables", low=0
    )
    kl_target: float = option(
        0.0, "adapt --kl-coef to hold the KL divergence per response at this many nats; 0 disables", low=0
    )
    kl_estimator: KlEstimator = option(
        "k1", "estimator of the KL penalty: k1, the log-ratio; k3, never negative and with less variance"
    )
    gamma: float = option(1.0, "discount factor; 1 disables", low=0, high=1)
    gae_lambda: float = option(0.95, "lambda of GAE: lower values give less variance and more bias", low=0, high=1)
    clip_range: float = option(0.2, "clip probability ratios to 1 ± this value", low=0)
    importance_cap: float = option(
        2.0,
        "largest weight of a token for the difference between sampler and policy, which half precision rounds "
        "differently; 0: no weights, and the old log-probabilities are always computed again in half precision",
        low=0,
    )
    value_clip: float = option(0.2, "clip values to the rollout's values ± this value; 0 disables", low=0)
    scale: bool = option(
        True, "divide rewards by the standard deviation of a response's total reward in the first rollout"
    )
    centre: bool = option(
        True,
        "subtract the mean reward per payout position of the first rollout; no effect with one reward per response",
    )
    length_normalise: bool = option(
        False,
        "align for the mean reward of a response's tokens instead of their sum: each token is paid the change of the "
        "mean up to it; no effect on a model that gives one score per response",
    )
    missing_eos_penalty: float = option(
        1.0, "subtracted at the last token of a response that does not end with EOS; 0 disables", low=0
    )
    length_guard: float = option(
        2.0,
        "set positive rewards to 0 beyond this multiple of the 95th percentile of response lengths in the first "
        "rollout; 0 disables",
        low=0,
    )
    max_length: int = option(
        2048, "maximum tokens of prompt and response; prompts without room for --max-new-tokens are skipped", low=2
    )
    sample_batch: int = option(
        0, "responses that a process samples at a time, to save memory; 0: all at once", role="run", low=0
    )

    def role(self, field: Field[Any]) -> Role:
        """Return the role of an option. In half precision, a response depends on the others in its batch."""
        return "rows" if field.name == "sample_batch" and self.dtype != "float32" else super().role(field)
