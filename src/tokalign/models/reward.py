"""Reward models as PPO, ``score`` and the metrics use them: text in, a reward at every response token out."""

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
from tokalign.models.batch import Batch, Pair, by_length, pad_rows
from tokalign.models.loading import CLASSES, check_vocabulary, load_classifier, positions
from tokalign.models.tokenizer import Tokenizer


def class_probs(model: Any, batch: Batch) -> Tensor:
    """(B, T, 3): probabilities of bad, neutral, good at response tokens, EOS included."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return batch.gather(logits).float().softmax(-1)


def sequence_scores(model: Any, batch: Batch) -> Tensor:
    """(B,): the score at the last counted token.

    Read at that position rather than through the model's own pooling, which looks for the last token
    that is not padding and so misses EOS where the two share an id. Encoders pool in their own way.
    """
    if not reads_last_token(model):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return logits.float().squeeze(-1)  # type: ignore[no-any-return]
    body, head = getattr(model, model.base_model_prefix), model.score
    hidden = body(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    rows = torch.arange(len(hidden), device=hidden.device)
    return head(hidden[rows, batch.last].to(next(head.parameters()).dtype)).float().squeeze(-1)  # type: ignore[no-any-return]


def reads_last_token(model: Any) -> bool:
    """Whether a sequence-level model has a head that is read at one token; encoders pool in their own way."""
    return getattr(model, model.base_model_prefix, None) is not None and hasattr(model, "score")


@dataclass
class RewardModel:
    """A trained reward model and how to read it.

    ``level`` is ``token`` (bad / neutral / good at every token) or ``sequence`` (one score).
    ``reading``, for a token model: ``expected`` p(good) - p(bad), or ``discrete`` -1 / 0 / +1. ``normalise``: ``word``
    divides a reward by the tokens of its word, ``span`` shares it among the tokens of its run; a fix then weighs the
    same whatever the number of its subwords.
    """

    model: Any
    tokenizer: Tokenizer
    level: str
    reading: str = "expected"
    normalise: str = "none"
    most: int | None = None
    """Tokens that it can read, where there is a bound; found out unless it is given."""

    def __post_init__(self) -> None:
        if self.most is None:
            self.most = positions(self.model)

    @classmethod
    def load(
        cls,
        source: str | Path,
        dtype: str = "float32",
        reading: str = "expected",
        normalise: str = "none",
        template_options: TemplateOptions | None = None,
    ) -> "RewardModel":
        """Load a token classifier with our three classes or any sequence classifier with one output.

        Raises:
            InputError: it is neither.
        """
        try:
            config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
        except Exception as e:  # whatever a foreign configuration leads a library to
            raise InputError(
                f"no reward model at {str(source)!r}: {first_line(e)}",
                remedy="make one with `tokalign train-rm`",
            ) from e
        names = tuple(str(config.id2label.get(i, "")) for i in range(config.num_labels))
        level = "token" if names == CLASSES else "sequence"
        if level == "sequence" and config.num_labels != 1:
            raise InputError(
                f"{str(source)!r} has labels {names}, neither {CLASSES} nor a single score",
                remedy="use a reward model made by `tokalign train-rm`, or a sequence classifier with one output",
            )
        model, tokenizer = (
            load_classifier(source, level, dtype, whole=True, to_use=True),
            Tokenizer.load(source, template_options),
        )
        check_vocabulary(model, tokenizer)
        return cls(model, tokenizer, level, reading, normalise)

    @torch.no_grad()
    def rate(self, pairs: Sequence[Pair], microbatch: int = 32) -> "Ratings":
        """Rate responses, in batches of similar length, results in the order given.

        A prompt that does not fit beside its response into the places that a model has learnt loses its beginning.

        Raises:
            InputError: a response alone has more tokens than the model has places.
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
                f"the reward model reads {most} tokens, and a response has {longest}",
                remedy="shorter responses (--max-new-tokens, --max-length), or a reward model that reads more",
            )
        return [(p[max(len(p) + len(r) - most, 0) :], r) for p, r in pairs]

    def _token_rewards(self, probs: Tensor) -> Tensor:
        if self.reading == "discrete":
            return probs.argmax(-1).float() - 1
        return probs[..., 2] - probs[..., 0]


@dataclass(frozen=True)
class Ratings:
    """Per response i: ``rewards[i]`` (T_i,) and, from a token model, ``probs[i]`` (T_i, 3)."""

    rewards: list[Tensor]
    probs: list[Tensor] | None

    def padded(self, width: int) -> Tensor:
        """(B, width), zeros on the right."""
        return pad_rows(self.rewards, width)

    @property
    def sums(self) -> list[float]:
        """Total reward of each response; of a sequence model, its score."""
        return [float(r.sum()) for r in self.rewards]

    @property
    def means(self) -> list[float]:
        """Mean token reward of each response; of a sequence model, its score."""
        if self.probs is None:
            return self.sums
        return [float(r.mean()) for r in self.rewards]


def best_of(rows: Sequence[dict[str, Any]], model: RewardModel, n: int) -> list[dict[str, Any]]:
    """Of every ``n`` rows of ``responses/1``, which answer one prompt, the one that the model likes best."""
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
