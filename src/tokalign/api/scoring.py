"""Reward models: text in, a reward at every token out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tokalign.api.checks import checked_prompts, checked_text
from tokalign.artifacts.schemas import Prompt
from tokalign.config.methods import Normalise, Reading
from tokalign.config.options import Dtype, fits, wanted
from tokalign.data import dataset
from tokalign.errors import UsageError
from tokalign.models import loading
from tokalign.models import reward as rewards


class ScoredToken(NamedTuple):
    """A token of a response and its reward; the probabilities are None for a sequence-level model."""

    text: str
    start: int
    """``[start, end)`` in code points of the response."""
    end: int
    reward: float
    p_bad: float | None
    p_neutral: float | None
    p_good: float | None


class ScoredResponse(NamedTuple):
    """A response and its rewards."""

    score: float
    """The mean reward of its tokens; of a sequence-level model its one score, which stands at the last token."""
    tokens: list[ScoredToken]


class RewardModel:
    """A reward model of ``tokalign train-rm``, or any sequence classifier of transformers with one output."""

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
        """Load from a folder or a hub id.

        Args:
            source: what to load; an artifact is checked against its manifest.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            dtype: of weights and arithmetic.
            reward: token level: p(good) − p(bad), or the likeliest class as −1 / 0 / +1.
            normalise: token level: share a reward among the tokens of its word, or of its run (``span``).

        Raises:
            InputError: there is no reward model, or it is damaged.
        """
        given = (("dtype", dtype, Dtype), ("reward", reward, Reading), ("normalise", normalise, Normalise))
        for name, value, hint in given:
            if not fits(value, hint):
                raise UsageError(f"{name} is {value!r}", remedy=f"give {wanted(hint)}")
        dataset.model_lineage(str(source), "reward-model")
        model = rewards.RewardModel.load(source, dtype, reward, normalise)
        model.model.to(loading.pick_device(device))
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
        """Score responses, each to the prompt at its place.

        Args:
            prompts: texts, or conversations as lists of ``{"role": …, "content": …}``.
            responses: as many.
            finished: whether each ended (then its EOS is rewarded too) or was cut; None: all ended.
            batch_size: responses in one forward pass.

        Raises:
            InputError: a text is none, or the chat template of the model refuses a prompt.
            UsageError: there are not as many of one as of the other.
        """
        tokenizer = self._model.tokenizer
        sizes = {len(prompts), len(responses), *([len(finished)] if finished is not None else [])}
        if len(sizes) > 1 or batch_size < 1:
            raise UsageError(
                f"{len(prompts)} prompts, {len(responses)} responses, batch_size {batch_size}",
                remedy="as many of both (and of finished), and batches of 1 or more",
            )
        prompts = checked_prompts(prompts)
        responses = [checked_text(r, f"responses[{k}]") for k, r in enumerate(responses)]
        if not prompts:
            return []
        ends = finished if finished is not None else [True] * len(responses)
        read = [
            r if end or len(r.ids) == 1 else r._replace(ids=r.ids[:-1], offsets=r.offsets[:-1])
            for r, end in zip(tokenizer.responses(responses), ends, strict=True)
        ]
        pairs = [(prompt, r.ids) for prompt, r in zip(tokenizer.prompts(prompts), read, strict=True)]
        rated = self._model.rate(pairs, batch_size)
        found = []
        for k, (r, score) in enumerate(zip(read, rated.means, strict=True)):
            probs = [(None,) * 3] * len(r.ids) if rated.probs is None else rated.probs[k].tolist()
            cells = zip(tokenizer.pieces(r.ids), r.offsets, rated.rewards[k].tolist(), probs, strict=True)
            found.append(ScoredResponse(score, [ScoredToken(t, *place, reward, *p) for t, place, reward, p in cells]))
        return found
