"""Reward functions for PPO: reward models, whatever their tokenizer, and functions of the user's."""

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
from tokalign.models.tokenizer import Tokenizer, same_reading
from tokalign.runtime import invocation
from tokalign.runtime.disk import sha256

Function = Callable[[Sequence[Prompt], Sequence[str], Sequence[Sequence[tuple[int, int]]]], Sequence[Any]]
"""A reward of one's own: prompts, responses and, for each response, ``[start, end)`` of every token in it.

Gives for each response one number, paid at its last token, or one for every token.
"""


@dataclass(frozen=True)
class Emitted:
    """Responses as a policy emitted them."""

    prompts: Sequence[Prompt]
    pairs: Sequence[Pair]
    finished: Sequence[bool]
    tokenizer: Tokenizer

    @cached_property
    def located(self) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Their texts, and where in them each token stands; read only by who needs it."""
        return self.tokenizer.located([ids for _, ids in self.pairs])


class RewardFunction(Protocol):
    """Scores responses, token by token."""

    name: str
    averaged: bool
    """Whether what it pays is compared by the mean over tokens; else by the sum."""

    @property
    def dense(self) -> bool | None:
        """Whether it tells one token from another; else all it pays stands at the last. None: it has not paid yet."""

    def score(self, emitted: Emitted, microbatch: int) -> list[Tensor]:
        """(T_i,) for each response: a reward for each token that was emitted."""


class ModelReward:
    """A reward model, on its own tokens or, if ``foreign``, carried over by the characters they stand on."""

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
        kept = [max(n, 1) for n in sizes]
        prompts = self.model.tokenizer.prompts(emitted.prompts)
        rated = self.model.rate([(p, o.ids[:n]) for p, o, n in zip(prompts, own, kept, strict=True)], microbatch)
        paid = [torch.zeros(len(ids)) for _, ids in emitted.pairs]
        for i, rewards in enumerate(rated.rewards):
            if not sizes[i]:  # an empty text that did not end: there is nothing to pay
                continue
            if not self.dense:
                paid[i][-1] = rewards.sum()
                continue
            spread = project(
                rewards.double().numpy(), np.array(own[i].offsets[: kept[i]]), np.array(places[i]), len(texts[i])
            )
            paid[i] = torch.from_numpy(spread).float()
        return paid


class UserReward:
    """A function of the user's."""

    averaged = False

    def __init__(self, function: Function, name: str) -> None:
        self.function, self.name = function, name
        self.dense: bool | None = None

    def score(self, emitted: Emitted, microbatch: int) -> list[Tensor]:
        """See :class:`RewardFunction`.

        Raises:
            InputError: the function gave something else than numbers, or not as many as there are.
        """
        texts, places = emitted.located
        with torch.no_grad():
            given = list(self.function(list(emitted.prompts), texts, places))
        if len(given) != len(texts):
            raise InputError(f"{self.name} gave {len(given)} rewards for {len(texts)} responses", field=self.name)
        return [self._checked(g, len(p), k) for k, (g, p) in enumerate(zip(given, places, strict=True))]

    def _checked(self, given: Any, tokens: int, k: int) -> Tensor:
        try:
            numbers = torch.as_tensor(given, dtype=torch.float32, device="cpu").reshape(-1)
        except (TypeError, ValueError, RuntimeError) as e:
            raise InputError(f"{self.name} gave no number for response {k}: {given!r}", field=self.name) from e
        problem = ""
        if len(numbers) not in (1, tokens):
            problem = f"{len(numbers)} numbers for the {tokens} tokens of response {k}"
        elif not torch.isfinite(numbers).all():
            problem = f"{numbers[~numbers.isfinite()][0].item()} for response {k}"
        if problem:
            remedy = "give one finite number a response, or one for every token"
            raise InputError(f"{self.name} gave {problem}", field=self.name, remedy=remedy)
        if len(numbers) == tokens:
            self.dense = self.dense or tokens > 1
            return numbers
        return torch.cat([torch.zeros(tokens - 1), numbers])


def lineage(source: str) -> dict[str, Any]:
    """What pays, as an input of a stage: a function counts by the file that it stands in."""
    if not is_function(source):
        return dataset.model_lineage(source, "reward-model")
    named = function(source)
    found = inspect.getsourcefile(named if inspect.isroutine(named) else sys.modules[source.partition(":")[0]])
    return {"path": source, "kind": "function", "version": None, "sha256": found and sha256(Path(found)), "rows": None}


def function(source: str) -> Function:
    """What a source names.

    Raises:
        InputError: it cannot be imported, or is no function.
    """
    module, _, name = source.partition(":")
    if invocation.on_the_command_line() and "" not in sys.path:
        sys.path.insert(0, "")  # where the command was given
    try:
        found: Function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise InputError(
            f"no reward function {source!r}: {e}", remedy="name it MODULE:NAME, importable from here"
        ) from e
    if not callable(found):
        raise InputError(f"{source!r} is no function", remedy="name one: MODULE:NAME")
    return found


def load_for_judging(models: Sequence[str], dtype: str, device: str) -> tuple[list[RewardFunction], Tokenizer]:
    """Reward models and functions without a policy, to compare texts by; and the tokenizer that texts are cut by.

    Raises:
        UsageError: all are functions, which have no tokenizer.
    """
    loaded = [UserReward(function(s), s) if is_function(s) else RewardModel.load(s, dtype) for s in models]
    tokenizers = [m.tokenizer for m in loaded if isinstance(m, RewardModel)]
    if not tokenizers:
        raise UsageError("--judge reward needs a reward model", remedy="name one with --reward-model")
    reward_functions: list[RewardFunction] = []
    for source, m in zip(models, loaded, strict=True):
        if isinstance(m, RewardModel):
            m.model.to(device)
            reward_functions.append(ModelReward(m, Path(source).name, not same_reading(tokenizers[0], m.tokenizer)))
        else:
            reward_functions.append(m)
    return reward_functions, tokenizers[0]
