"""Reward models: a reward for every token of a response. Used by PPO, ``score`` and the metrics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from tokalign.config.options import TemplateOptions
from tokalign.core import rewards as rewards_of
from tokalign.core import rl
from tokalign.errors import InputError, TokalignError, first_line
from tokalign.models import distributed
from tokalign.models.batch import Batch, Pair, by_length, pad_rows
from tokalign.models.converted import folder_of
from tokalign.models.loading import CLASSES, check_vocabulary, load_classifier, max_positions, max_positions_of
from tokalign.models.tokenizer import Tokenizer
from tokalign.runtime import endpoint


def class_probs(model: Any, batch: Batch) -> Tensor:
    """(B, T, 3): probabilities of bad, neutral and good at the response tokens, EOS included."""
    logits = model(**batch.inputs).logits
    return batch.gather(logits).float().softmax(-1)


def sequence_scores(model: Any, batch: Batch) -> Tensor:
    """(B,): score at the last token that is not padding.

    The pooling of transformers searches for the last token that is not padding, and so misses EOS if both have the
    same id. Encoders pool in their own way, so their own scores are used.
    """
    if not reads_last_token(model):
        logits = model(**batch.inputs).logits
        return logits.float().squeeze(-1)  # type: ignore[no-any-return]
    body, head = getattr(model, model.base_model_prefix), model.score
    hidden = body(**batch.inputs).last_hidden_state
    return head(hidden[batch.rows, batch.last].to(next(head.parameters()).dtype)).float().squeeze(-1)  # type: ignore[no-any-return]


def reads_last_token(model: Any) -> bool:
    """Whether a sequence classifier applies a ``score`` head to the last token; encoders pool in their own way."""
    return getattr(model, model.base_model_prefix, None) is not None and hasattr(model, "score")


@dataclass
class RewardModel:
    """A trained reward model and the way its outputs become rewards.

    ``level`` is ``token`` (bad, neutral, good at every token) or ``sequence`` (one score at the last token).
    For a token-level model, ``reading`` is ``expected``: p(good) − p(bad), or ``discrete``: −1, 0 or 1 for the most
    likely class. ``normalise`` is ``none``, ``word`` (share a reward among the tokens of its word) or ``span`` (among
    the tokens of its span), so that the number of tokens of an edit has no weight.
    """

    model: Any
    tokenizer: Tokenizer
    level: str
    reading: str = "expected"
    normalise: str = "none"
    most: int | None = None
    """Maximum number of tokens the model can read; read from the model if None, and None without such a limit."""

    def __post_init__(self) -> None:
        if self.most is None and self.model is not None:
            self.most = max_positions(self.model)

    @classmethod
    def load(
        cls,
        source: str | Path,
        dtype: str = "float32",
        reading: str = "expected",
        normalise: str = "none",
        template_options: TemplateOptions | None = None,
    ) -> "RewardModel":
        """Load a token classifier with classes bad, neutral and good, or any sequence classifier with one output.

        Args:
            source: a folder of a model or of adapters, a hub id, or the address of a vLLM server.
            dtype: type of the weights.
            reading: see the class.
            normalise: see the class.
            template_options: options of the chat template.

        Raises:
            InputError: the model cannot be loaded or is neither.
        """
        try:
            config = AutoConfig.from_pretrained(folder_of(source), trust_remote_code=False)
        except TokalignError:
            raise
        except Exception as e:  # the library can raise anything for a malformed configuration
            raise InputError(
                f"no reward model at {str(source)!r}: {first_line(e)}",
                remedy="train one with `tokalign train-rm`",
            ) from e
        names = tuple(str(config.id2label.get(i, "")) for i in range(config.num_labels))
        level = "token" if names == CLASSES else "sequence"
        if level == "sequence" and config.num_labels != 1:
            raise InputError(
                f"{str(source)!r} has the labels {names}, but a reward model needs {CLASSES} or one output",
                remedy="use a reward model from `tokalign train-rm`, or a sequence classifier with one output",
            )
        tokenizer = Tokenizer.load(source, template_options)
        if endpoint.is_url(source):
            return ServedRewardModel(str(source), tokenizer, level, reading, normalise)
        model = load_classifier(source, level, dtype, whole=True, to_use=True)
        check_vocabulary(model, tokenizer)
        return cls(model, tokenizer, level, reading, normalise)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def to(self, device: str | torch.device) -> "RewardModel":
        """Move the weights to a device and freeze them."""
        self.model.to(device).requires_grad_(False)
        return self

    def max_row_length(self, limit: int) -> int:
        """Maximum length of a row in tokens: ``limit``, or what the model can read if that is less."""
        return limit if self.most is None else min(limit, self.most)

    @torch.no_grad()
    def rate(self, pairs: Sequence[Pair], microbatch: int = 32) -> "Ratings":
        """Rate responses in batches of similar length.

        If a prompt with its response exceeds ``most`` tokens, the beginning of the prompt is cut.

        Args:
            pairs: prompt ids and response ids.
            microbatch: maximum number of responses in a forward pass.

        Returns:
            Ratings in the order of ``pairs``.

        Raises:
            InputError: a response alone has more than ``most`` tokens.
        """
        pairs = self._fitting(pairs)
        probs: list[Tensor] = [torch.empty(0)] * len(pairs)
        rewards: list[Tensor] = [torch.empty(0)] * len(pairs)
        device = self.device
        for group in self._groups(pairs, microbatch):
            part = [pairs[i] for i in group]
            batch = Batch.of(part, self.tokenizer.pad_id, device)
            mask = batch.response_mask
            if self.level == "token":
                p = self._probs(batch, part)
                reward = self._token_rewards(p)
                if self.normalise == "span":
                    reward = rewards_of.per_span(reward, mask)
                elif self.normalise == "word":
                    starts = torch.from_numpy(self.tokenizer.word_starts(batch.response_ids.cpu().numpy()))
                    reward = rewards_of.per_word(reward, starts.to(device) | ~mask)
            else:
                reward = rl.score_at_last_token(self._scores(batch, part), mask)
            for row, i in enumerate(group):
                n = len(pairs[i][1])
                rewards[i] = reward[row, :n].cpu()
                if self.level == "token":
                    probs[i] = p[row, :n].cpu()
        return Ratings(rewards, probs if self.level == "token" else None)

    def _groups(self, pairs: Sequence[Pair], microbatch: int) -> Sequence[Sequence[int]]:
        """Indices of the responses of each forward pass."""
        return by_length([len(p) + len(r) for p, r in pairs], microbatch, even=distributed.sharded())

    def _probs(self, batch: Batch, pairs: Sequence[Pair]) -> Tensor:
        """(B, T, 3): probabilities of bad, neutral and good at the response tokens of ``pairs``, in ``batch``."""
        return class_probs(self.model, batch)

    def _scores(self, batch: Batch, pairs: Sequence[Pair]) -> Tensor:
        """(B,): scores of the responses of ``pairs``, in ``batch``."""
        return sequence_scores(self.model, batch)

    def _fitting(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        most = self.most
        if most is None or all(len(p) + len(r) <= most for p, r in pairs):
            return pairs
        longest = max(len(r) for _, r in pairs)
        if longest > most:
            raise InputError(
                f"a response has {longest} tokens, but the reward model reads at most {most}",
                remedy="shorten responses (--max-new-tokens, --max-length), or use a reward model that reads more",
            )
        return [(p[max(len(p) + len(r) - most, 0) :], r) for p, r in pairs]

    def _token_rewards(self, probs: Tensor) -> Tensor:
        if self.reading == "discrete":
            return probs.argmax(-1).float() - 1
        return probs[..., 2] - probs[..., 0]


class ServedRewardModel(RewardModel):
    """A reward model on a vLLM server; its tokenizer is here.

    Args:
        address: see :func:`tokalign.runtime.endpoint.served`.
        tokenizer: tokenizer of the model.
        level: see :class:`RewardModel`.
        reading: see :class:`RewardModel`.
        normalise: see :class:`RewardModel`.
    """

    def __init__(self, address: str, tokenizer: Tokenizer, level: str, reading: str, normalise: str) -> None:
        self.address = address
        super().__init__(None, tokenizer, level, reading, normalise, most=max_positions_of(address))

    device = torch.device("cpu")

    def to(self, device: str | torch.device) -> "RewardModel":
        """Do nothing: the weights are on the server."""
        return self

    def _groups(self, pairs: Sequence[Pair], microbatch: int) -> Sequence[Sequence[int]]:
        """All responses together: the server forms its own batches."""
        return [range(len(pairs))] if pairs else []

    def _probs(self, batch: Batch, pairs: Sequence[Pair]) -> Tensor:
        logits = [self._checked(x, (len(p) + len(r), 3))[len(p) :] for (p, r), x in self._pooled(pairs)]
        return pad_rows(logits).softmax(-1)

    def _scores(self, batch: Batch, pairs: Sequence[Pair]) -> Tensor:
        return torch.cat([self._checked(x, (1,)) for _, x in self._pooled(pairs)])

    def _pooled(self, pairs: Sequence[Pair]) -> Iterable[tuple[Pair, Any]]:
        task = "token_classify" if self.level == "token" else "classify"
        return zip(pairs, endpoint.pooled(self.address, [[*p, *r] for p, r in pairs], task), strict=True)

    def _checked(self, output: Any, shape: tuple[int, ...]) -> Tensor:
        """Return the output of a row as a tensor of the given shape.

        Raises:
            InputError: it has another shape, or numbers that are not finite.
        """
        try:
            found = torch.tensor(output, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            found = torch.empty(0)
        if found.shape != shape or not found.isfinite().all():
            raise InputError(
                f"the server's output has the shape {tuple(found.shape)}, not {shape}, or is not finite",
                where=self.address,
                remedy="serve a reward model of tokalign with vLLM; see docs/engines.md",
            )
        return found


@dataclass(frozen=True)
class Ratings:
    """For each response i, ``rewards[i]`` (T_i,) and, from a token-level model, ``probs[i]`` (T_i, 3)."""

    rewards: list[Tensor]
    probs: list[Tensor] | None

    @property
    def sums(self) -> list[float]:
        """Sum of the token rewards of each response; the score for a sequence-level model."""
        return [float(r.sum()) for r in self.rewards]

    @property
    def means(self) -> list[float]:
        """Mean token reward of each response; the score for a sequence-level model."""
        if self.probs is None:
            return self.sums
        return [float(r.mean()) for r in self.rewards]


def best_of(rows: Sequence[dict[str, Any]], model: RewardModel, n: int) -> list[dict[str, Any]]:
    """Select the row with the highest mean reward from each group of ``n`` consecutive ``responses/1`` rows.

    The rows of a group are responses to the same prompt.
    """
    prompts = model.tokenizer.prompts([r["prompt"] for r in rows])
    responses = model.tokenizer.responses([r["response"] for r in rows])
    scores = model.rate(
        [
            (p, r.ids if row["finished"] else r.ids[:-1] or r.ids)
            for p, r, row in zip(prompts, responses, rows, strict=True)
        ]
    ).means
    groups = (range(i, i + n) for i in range(0, len(rows), n))
    return [rows[max(group, key=lambda i: scores[i])] for group in groups]
