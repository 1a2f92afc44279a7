"""Reward models: a reward for every token of a response. Used by PPO, ``score`` and the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from tokalign.config.options import TemplateOptions
from tokalign.core import rewards as rewards_of
from tokalign.core import rl
from tokalign.errors import InputError, first_line
from tokalign.models import distributed
from tokalign.models.batch import Batch, Pair, by_length
from tokalign.models.converted import folder_of
from tokalign.models.loading import CLASSES, check_vocabulary, load_classifier, max_positions
from tokalign.models.tokenizer import Tokenizer


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
        if self.most is None:
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
            source: a folder of a model or of adapters, or a hub id.
            dtype: type of the weights.
            reading: see the class.
            normalise: see the class.
            template_options: options of the chat template.

        Raises:
            InputError: the model cannot be loaded or is neither.
        """
        try:
            config = AutoConfig.from_pretrained(folder_of(source), trust_remote_code=False)
        except InputError:
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
        model, tokenizer = (
            load_classifier(source, level, dtype, whole=True, to_use=True),
            Tokenizer.load(source, template_options),
        )
        check_vocabulary(model, tokenizer)
        return cls(model, tokenizer, level, reading, normalise)

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
        device = next(self.model.parameters()).device
        for group in by_length([len(p) + len(r) for p, r in pairs], microbatch, even=distributed.sharded()):
            batch = Batch.of([pairs[i] for i in group], self.tokenizer.pad_id, device)
            mask = batch.response_mask
            if self.level == "token":
                p = class_probs(self.model, batch)
                reward = self._token_rewards(p)
                if self.normalise == "span":
                    reward = rewards_of.per_span(reward, mask)
                elif self.normalise == "word":
                    starts = torch.from_numpy(self.tokenizer.word_starts(batch.response_ids.cpu().numpy()))
                    reward = rewards_of.per_word(reward, starts.to(device) | ~mask)
            else:
                reward = rl.score_at_last_token(sequence_scores(self.model, batch), mask)
            for row, i in enumerate(group):
                n = len(pairs[i][1])
                rewards[i] = reward[row, :n].cpu()
                if self.level == "token":
                    probs[i] = p[row, :n].cpu()
        return Ratings(rewards, probs if self.level == "token" else None)

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
