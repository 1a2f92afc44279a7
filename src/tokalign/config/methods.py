"""Options of what computes: editors, judges, the losses of reward models, PPO. Nothing here says where results go."""

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

Editor = Literal["rules", "recorded", "claude", "human"]
Level = Literal["token", "sequence"]
Neutral = Literal["hard", "soft"]
Pairs = Literal["chosen", "edited", "both"]
Reading = Literal["expected", "discrete"]
Normalise = Literal["none", "word", "span"]
Granularity = Literal["token", "segment", "sequence"]
ValueModel = Literal["separate", "shared"]
KlEstimator = Literal["k1", "k3"]
Judge = Literal["playground", "claude", "reward", "recorded"]


@dataclass(frozen=True, kw_only=True)
class EditOptions(ClaudeOptions, RunOptions):
    """Options of editors."""

    editor: Editor | None = option(
        None,
        "claude; human; recorded: SOURCE carries edits made elsewhere; rules: the playground's, there the default",
    )
    min_similarity: float = option(
        0.3, "an edit that keeps less of the words is rejected (recorded: only counted)", low=0, high=1
    )
    prompt: Path | None = option(None, "claude: file that says how to edit, in place of our prompt", role="input")
    show_chosen: bool = option(True, "claude: show the preferred response as guidance")
    port: int = option(
        0, "human: where the page is served on this machine; 0: any that is free", role="run", high=65535
    )
    annotator: str = option("", "human: who edits; kept on every row", role="run")
    open: bool = option(True, "human: open the page in a browser", role="run")
    re_ask: bool = option(True, "claude: ask once more where a gate can say what is wrong with an edit")


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(ClaudeOptions, ComputeOptions, RunOptions):
    """Options of judges."""

    reference: str | None = option(None, "policy, or responses, to compare with", role="input")
    judge: Judge = option("playground", "who compares; recorded: someone did, see --judgements")
    reward_model: list[str] = option(
        [], "reward: what scores responses, one or more; and what picks the best of N", role="input"
    )
    judgements: str | None = option(None, "recorded: judgements made elsewhere: an artifact or a file", role="input")
    rubric: Path | None = option(None, "claude: file that says what makes a response better", role="input")
    both_orders: bool = option(True, "claude: show each pair both ways; a disagreement is a tie")
    batch_size: int = option(64, "responses sampled at a time", low=1)


@dataclass(frozen=True, kw_only=True)
class RewardModelOptions(Options):
    """What a reward model learns, and its loss."""

    level: Level = option(..., "token: bad / neutral / good at every token; sequence: Bradley-Terry")
    pairs: Pairs = option("chosen", "sequence level trains on chosen over rejected, edited over original, or both")
    weight_bad: float = option(1.0, "class weight of bad tokens in the loss", low=0)
    weight_neutral: float = option(0.2, "class weight of neutral tokens in the loss", low=0)
    weight_good: float = option(1.0, "class weight of good tokens in the loss", low=0)
    neutral: Neutral = option("hard", "what a neutral token is called: neutral, or (soft) as likely bad as good")
    label_smoothing: float = option(
        0.0, "token level: share of a label that goes to all classes alike", low=0, high=0.9
    )


@dataclass(frozen=True, kw_only=True)
class PpoOptions(LoraOptions, SamplingOptions, ComputeOptions, RunOptions):
    """Options of PPO: rewards, losses, optimisation."""

    granularity: Granularity = option(
        "token", "where rewards land: at every token, at the end of a sentence, at the last"
    )
    reward: Reading = option("expected", "token level: p(good) - p(bad), or the likeliest class as -1 / 0 / +1")
    normalise: Normalise = option(
        "none", "token level: share a reward among the tokens of its word, or of its run (span)"
    )
    batch_size: int = option(64, "prompts in a rollout", low=1)
    epochs: int = option(2, "passes over each rollout", low=1)
    minibatches: int = option(2, "optimiser steps in a pass", low=1)
    microbatch: int = option(16, "responses in one forward pass, of similar length", role="run", low=1)
    lr: float = option(1e-6, "learning rate of the policy", low=0)
    value_lr: float = option(5e-6, "learning rate of the value model", low=0)
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0: never", low=0)
    value_model: ValueModel = option("separate", "a network of its own, or (shared) a head on the policy's states")
    vf_coef: float = option(0.1, "weight of the value loss where the network is shared", low=0)
    kl_coef: float = option(0.2, "price of a nat of drift from the starting policy", low=0)
    kl_target: float = option(0.0, "nats a response at which --kl-coef is kept by adapting it; 0: it stays", low=0)
    kl_estimator: KlEstimator = option("k1", "k1: difference of log-probabilities; k3: never negative, less spread")
    gamma: float = option(1.0, "discount", low=0, high=1)
    gae_lambda: float = option(0.95, "trade of bias for variance in advantages", low=0, high=1)
    clip_range: float = option(0.2, "how far a probability ratio may move in one rollout", low=0)
    value_clip: float = option(0.2, "how far a value may move in one rollout; 0: anywhere", low=0)
    scale: bool = option(True, "divide rewards by the spread of a response's total over the first rollout")
    centre: bool = option(True, "token and segment: subtract the mean payment of the first rollout")
    missing_eos_penalty: float = option(1.0, "taken from the last reward of a response that never ends", low=0)
    length_guard: float = option(
        2.0, "nothing good is paid beyond so many times the 95th percentile of the first lengths; 0: off", low=0
    )
    max_length: int = option(2048, "longest prompt and response together; longer prompts are skipped", low=2)
    sample_batch: int = option(0, "responses sampled at a time; 0: all of a process", role="run", low=0)

    def role(self, field: Field[Any]) -> Role:
        """In half precision a response depends on those that it is drawn with."""
        return "rows" if field.name == "sample_batch" and self.dtype != "float32" else super().role(field)
