"""Reward functions for PPO: reward models with any tokenizer, and user functions."""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tokalign.artifacts.schemas import Prompt
from tokalign.core.rewards import project
from tokalign.data import dataset
from tokalign.errors import InputError, UsageError
from tokalign.models.batch import Pair
from tokalign.models.function_names import is_function
from tokalign.models.reward import RewardModel
from tokalign.models.tokenizer import Tokenizer, same_tokenization
from tokalign.runtime import invocation
from tokalign.runtime.disk import sha256

Function = Callable[[Sequence[Prompt], Sequence[str], Sequence[Sequence[tuple[int, int]]]], Sequence[Any]]
"""A user reward function. Arguments: prompts, responses and, for each response, ``[start, end)`` of each of its tokens.

Returns, for each response, one number, which is placed at the last token, or one number per token.
"""


@dataclass(frozen=True)
class Emitted:
    """Responses as emitted by a policy."""

    prompts: Sequence[Prompt]
    pairs: Sequence[Pair]
    finished: Sequence[bool]
    tokenizer: Tokenizer

    @cached_property
    def located(self) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Texts of the responses, and ``[start, end)`` of each token in its text, in code points."""
        return self.tokenizer.located([ids for _, ids in self.pairs])


class RewardFunction(Protocol):
    """Scores the tokens of responses."""

    name: str
    averaged: bool
    """Whether responses are compared by their mean token reward; otherwise by the sum."""

    @property
    def dense(self) -> bool | None:
        """Whether it returns a reward for each token; otherwise one at the last token. None until this is known."""

    def score(self, emitted: Emitted, microbatch: int) -> list[Tensor]:
        """(T_i,) for each response: a reward for each emitted token. ``microbatch``: responses per forward pass."""


class ModelReward:
    """A reward model. If it tokenizes differently from the policy (``foreign``), rewards are mapped by offsets."""

    def __init__(self, model: RewardModel, name: str, foreign: bool) -> None:
        self.model, self.name, self.foreign = model, name, foreign
        self.dense = self.averaged = model.level == "token"

    def score(self, emitted: Emitted, microbatch: int) -> list[Tensor]:
        """See :class:`RewardFunction`."""
        if not self.foreign:
            return self.model.rate(emitted.pairs, microbatch).rewards
        texts, places = emitted.located
        own = self.model.tokenizer.responses(texts)
        sizes = [len(o.ids) if done else len(o.ids) - 1 for o, done in zip(own, emitted.finished, strict=True)]
        lengths = [max(n, 1) for n in sizes]
        prompts = self.model.tokenizer.prompts(emitted.prompts)
        rated = self.model.rate([(p, o.ids[:n]) for p, o, n in zip(prompts, own, lengths, strict=True)], microbatch)
        scores = [torch.zeros(len(ids)) for _, ids in emitted.pairs]
        for i, rewards in enumerate(rated.rewards):
            if not sizes[i]:  # an empty text without EOS has no tokens to score
                continue
            if not self.dense:
                scores[i][-1] = rewards.sum()
                continue
            spread = project(
                rewards.double().numpy(), np.array(own[i].offsets[: lengths[i]]), np.array(places[i]), len(texts[i])
            )
            scores[i] = torch.from_numpy(spread).float()
        return scores


class UserReward:
    """A reward function written by the user."""

    averaged = False

    def __init__(self, function: Function, name: str) -> None:
        self.function, self.name = function, name
        self.dense: bool | None = None

    def score(self, emitted: Emitted, microbatch: int) -> list[Tensor]:
        """See :class:`RewardFunction`.

        Raises:
            InputError: the function returned values that are not finite numbers, or the wrong number of them.
        """
        texts, places = emitted.located
        with torch.no_grad():
            returned = list(self.function(list(emitted.prompts), texts, places))
        if len(returned) != len(texts):
            message = f"{self.name} returned {len(returned)} rewards for {len(texts)} responses"
            raise InputError(message, field=self.name, remedy="return one item for each response")
        return [self._checked(value, len(p), k) for k, (value, p) in enumerate(zip(returned, places, strict=True))]

    def _checked(self, value: Any, tokens: int, k: int) -> Tensor:
        remedy = "return one finite number per response, or one per token"
        try:
            numbers = torch.as_tensor(value, dtype=torch.float32, device="cpu").reshape(-1)
        except (TypeError, ValueError, RuntimeError) as e:
            message = f"{self.name} returned {value!r} for response {k}, not numbers"
            raise InputError(message, field=self.name, remedy=remedy) from e
        problem = ""
        if len(numbers) not in (1, tokens):
            problem = f"{len(numbers)} numbers for the {tokens} tokens of response {k}"
        elif not torch.isfinite(numbers).all():
            problem = f"{numbers[~numbers.isfinite()][0].item()} for response {k}"
        if problem:
            raise InputError(f"{self.name} returned {problem}", field=self.name, remedy=remedy)
        if len(numbers) == tokens:
            self.dense = self.dense or tokens > 1
            return numbers
        return torch.cat([torch.zeros(tokens - 1), numbers])


def lineage(source: str) -> dict[str, Any]:
    """Lineage entry of a reward model or function; a function is identified by the hash of its source file."""
    if not is_function(source):
        return dataset.model_lineage(source, "reward-model")
    return function_lineage(source)


def function_lineage(source: str) -> dict[str, Any]:
    """Lineage entry of a function ``MODULE:NAME``."""
    loaded = function(source)
    file = inspect.getsourcefile(loaded if inspect.isroutine(loaded) else sys.modules[source.partition(":")[0]])
    return {"path": source, "kind": "function", "version": None, "sha256": file and sha256(Path(file)), "rows": None}


def function(source: str) -> Function:
    """Import the function that ``MODULE:NAME`` names.

    Raises:
        InputError: it cannot be imported or is not callable.
    """
    module, _, name = source.partition(":")
    if invocation.on_the_command_line() and "" not in sys.path:
        sys.path.insert(0, "")  # the current folder
    try:
        found: Function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise InputError(
            f"cannot import the function {source!r}: {e}",
            remedy="use MODULE:NAME, with a module that can be imported from the current folder",
        ) from e
    if not callable(found):
        raise InputError(f"{source!r} is not callable", remedy="name a function, as MODULE:NAME")
    return found


def load_for_judging(models: Sequence[str], dtype: str, device: str) -> tuple[list[RewardFunction], Tokenizer]:
    """Load reward models and functions to compare texts without a policy.

    Args:
        models: folders, hub ids or ``MODULE:NAME``.
        dtype: type of the weights.
        device: where the models run.

    Returns:
        The reward functions, and the tokenizer of the first reward model, which tokenizes the texts.

    Raises:
        UsageError: there are only user functions, which have no tokenizer.
    """
    loaded = [UserReward(function(s), s) if is_function(s) else RewardModel.load(s, dtype) for s in models]
    tokenizers = [m.tokenizer for m in loaded if isinstance(m, RewardModel)]
    if not tokenizers:
        raise UsageError("--judge reward needs a reward model", remedy="add one with --reward-model")
    reward_functions: list[RewardFunction] = []
    for source, m in zip(models, loaded, strict=True):
        if isinstance(m, RewardModel):
            m.to(device)
            reward_functions.append(
                ModelReward(m, Path(source).name, not same_tokenization(tokenizers[0], m.tokenizer))
            )
        else:
            reward_functions.append(m)
    return reward_functions, tokenizers[0]
