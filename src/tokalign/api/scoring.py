"""Score responses in memory: a reward for every token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tokalign.api.checks import checked_prompts, checked_text
from tokalign.artifacts.schemas import Prompt
from tokalign.config.methods import Normalise, Reading
from tokalign.config.options import Dtype, describe_type, fits
from tokalign.data import dataset
from tokalign.errors import UsageError
from tokalign.models import loading
from tokalign.models import reward as rewards


class ScoredToken(NamedTuple):
    """A token of a response, its reward and its class probabilities (None for a sequence-level model)."""

    text: str
    start: int
    """First code point of the token in the response."""
    end: int
    """Code point after its last one."""
    reward: float
    p_bad: float | None
    p_neutral: float | None
    p_good: float | None


class ScoredResponse(NamedTuple):
    """The score of a response and the rewards of its tokens."""

    score: float
    """Mean of the token rewards; for a sequence-level model its single score, which is placed at the last token."""
    tokens: list[ScoredToken]


class RewardModel:
    """A reward model made by ``tokalign train-rm``, or any sequence classifier of transformers with one output."""

    def __init__(self, model: rewards.RewardModel) -> None:
        self._model = model

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        reward: Literal["expected", "discrete"] = "expected",
        normalise: Literal["none", "word", "span"] = "none",
    ) -> "RewardModel":
        """Load a reward model.

        Args:
            source: folder or hub id; an artifact is checked against its manifest.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            dtype: data type of weights and computation.
            reward: token-level models: ``expected`` is p(good) − p(bad), ``discrete`` the most likely class as −1, 0
                or 1.
            normalise: token-level models: share a reward among the tokens of its ``word``, or of its ``span``
                (neighbouring tokens whose rewards have the same sign).

        Raises:
            InputError: there is no reward model at ``source``, or it is damaged.
            UsageError: ``dtype``, ``reward`` or ``normalise`` is not one of the choices.
        """
        options = (("dtype", dtype, Dtype), ("reward", reward, Reading), ("normalise", normalise, Normalise))
        for name, value, hint in options:
            if not fits(value, hint):
                raise UsageError(f"{name} is {value!r}", remedy=f"give {describe_type(hint)}")
        dataset.model_lineage(str(source), "reward-model")
        model = rewards.RewardModel.load(source, dtype, reward, normalise)
        model.to(loading.pick_device(device))
        return cls(model)

    @property
    def level(self) -> str:
        """``token`` or ``sequence``."""
        return self._model.level

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        finished: Sequence[bool] | None = None,
        batch_size: int = 32,
    ) -> list[ScoredResponse]:
        """Score one response to each prompt.

        Args:
            prompts: N texts, or conversations as lists of ``{"role": …, "content": …}``.
            responses: N texts.
            finished: N flags: False for a response that was cut off, whose EOS gets no reward; None: all ended.
            batch_size: responses per forward pass.

        Returns:
            N scored responses, in the same order.

        Raises:
            InputError: a text is not a string, or the chat template of the model refuses a prompt.
            UsageError: the arguments have different lengths, or ``batch_size`` is below 1.
        """
        tokenizer = self._model.tokenizer
        sizes = {len(prompts), len(responses), *([len(finished)] if finished is not None else [])}
        if len(sizes) > 1 or batch_size < 1:
            raise UsageError(
                f"{len(prompts)} prompts, {len(responses)} responses, batch_size {batch_size}",
                remedy="give lists of equal length (finished too) and a batch_size of at least 1",
            )
        prompts = checked_prompts(prompts)
        responses = [checked_text(r, f"responses[{k}]") for k, r in enumerate(responses)]
        if not prompts:
            return []
        ended = finished if finished is not None else [True] * len(responses)
        encoded = [
            r if end or len(r.ids) == 1 else r._replace(ids=r.ids[:-1], offsets=r.offsets[:-1])
            for r, end in zip(tokenizer.responses(responses), ended, strict=True)
        ]
        pairs = [(prompt, r.ids) for prompt, r in zip(tokenizer.prompts(prompts), encoded, strict=True)]
        ratings = self._model.rate(pairs, batch_size)
        scored = []
        for k, (r, score) in enumerate(zip(encoded, ratings.means, strict=True)):
            probs = [(None,) * 3] * len(r.ids) if ratings.probs is None else ratings.probs[k].tolist()
            tokens = zip(tokenizer.pieces(r.ids), r.offsets, ratings.rewards[k].tolist(), probs, strict=True)
            scored.append(ScoredResponse(score, [ScoredToken(t, *span, reward, *p) for t, span, reward, p in tokens]))
        return scored
