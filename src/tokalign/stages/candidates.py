"""The responses of a candidate: existing ones, or samples from a policy (one per prompt, or the best of n)."""

import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts import manifest
from tokalign.artifacts.schemas import Answer, PromptRow, ResponseRow
from tokalign.artifacts.writer import Writer
from tokalign.config.stages import EvalWinrateConfig
from tokalign.data import dataset
from tokalign.data.conversation import plain
from tokalign.errors import InputError, UsageError
from tokalign.models.function_names import is_function

REFERENCE = "reference"
"""Name of the side that all candidates are compared with."""


class Side(NamedTuple):
    """A candidate or the reference: a policy, or existing responses."""

    name: str
    path: str
    n: int = 1
    """Responses sampled per prompt; the reward model selects the best."""

    @property
    def has_responses(self) -> bool:
        """Whether ``path`` contains responses, so that none are sampled."""
        return dataset.is_rows(self.path) or manifest.kind_of(Path(self.path)) == "responses"

    def lineage(self) -> dict[str, Any]:
        """Return the lineage of the policy or the responses, for the inputs of a manifest.

        Raises:
            InputError: there is nothing at ``path``, or it is damaged.
        """
        if dataset.is_rows(self.path):
            return dataset.read_rows(self.path, ResponseRow, "responses").lineage
        found = dataset.model_lineage(self.path, "policy", "responses")
        return {**found, "sha256": f"{found['sha256']}@{self.n}"} if self.n > 1 else found


def parse_side(name: str, path: str) -> Side:
    """Parse ``PATH`` or ``PATH@N`` (best of N).

    Raises:
        UsageError: N is 0, or ``PATH@N`` contains responses instead of a policy.
    """
    match = re.fullmatch(r"(.+)@(\d+)", path)
    if not match or Path(path).exists():
        return Side(name, path)
    if int(match[2]) < 1:
        raise UsageError(f"{path}: best of {match[2]}", remedy="give PATH@N with N of at least 1")
    best = Side(name, match[1], int(match[2]))
    if best.n > 1 and best.has_responses:
        remedy = "give a policy, or select the best responses with tokalign generate --n N --reward-model DIR"
        raise UsageError(f"{path}: {best.path} contains responses, not a policy", remedy=remedy)
    return best


def readable(
    data: dataset.Rows[PromptRow], sides: Sequence[Side], config: EvalWinrateConfig
) -> tuple[dataset.Rows[PromptRow], list[str]]:
    """Keep the prompts that every policy can answer and every reward model that is used can read.

    Returns:
        the remaining prompts, and notes on how they are rendered.

    Raises:
        InputError: no prompt is left.
        UsageError: a chat template option is invalid for a model.
    """
    policies = [s.path for s in sides if not s.has_responses]
    reward_models = config.reward_model if config.judge == "reward" or any(s.n > 1 for s in sides) else []
    models = [path for path in reward_models if not is_function(path)]
    if not policies and not models:
        return data, []
    from tokalign.models import loading
    from tokalign.models.prompts import renderable
    from tokalign.models.sampler import answerable
    from tokalign.models.tokenizer import Tokenizer

    of_policies = {path: Tokenizer.load(path, config) for path in dict.fromkeys(policies)}
    tokenizers = [*of_policies.values(), *(Tokenizer.load(path) for path in models if path not in of_policies)]
    data, notes = renderable(data, tokenizers, config.strict)
    for path, tokenizer in of_policies.items():
        data = answerable(data, loading.max_positions_of(path), tokenizer, config, config.strict)
    return data, notes


def responses(
    side: Side,
    data: dataset.Rows[PromptRow],
    config: EvalWinrateConfig,
    out: Writer | None,
    advance: Callable[[int], None],
) -> list[Answer]:
    """Return one response per prompt, in the order of the prompts: read, or sampled from the policy.

    Args:
        side: whose responses.
        data: the prompts.
        config: options of the command.
        out: artifact in which samples are saved, as a part; not needed for existing responses.
        advance: called with the number of prompts of each sampled chunk.

    Raises:
        InputError: a prompt has no response, or several.
    """
    if not side.has_responses:
        assert out is not None
        inputs = {"prompts": data.lineage, "policy": side.lineage()}
        if side.n > 1:
            inputs["reward_model"] = dataset.model_lineage(config.reward_model[0], "reward-model")
        with out.part("responses", config, inputs, f"responses/{side.name}") as nested:
            if nested.finished is None:
                _sample(side, data, config, nested, advance)
        return [Answer(r.response, r.finished) for r in dataset.read_rows(nested.folder, ResponseRow, "responses")]
    by_id: dict[str, ResponseRow] = {}
    by_prompt: dict[str, deque[ResponseRow]] = {}
    for r in dataset.read_rows(side.path, ResponseRow, "responses"):
        if r.id in by_id:
            remedy = "keep one of them, or select the best with tokalign generate --n N --reward-model DIR"
            raise InputError(f"several responses to prompt {r.id!r}", where=side.path, field="sample", remedy=remedy)
        by_id[r.id] = r
        by_prompt.setdefault(_key(r), deque()).append(r)
    answers = []
    for row in data:
        match = by_id.get(row.id)
        if match is None or _key(match) != _key(row):  # ids generated while reading do not identify a prompt
            same_prompt = by_prompt.get(_key(row))
            match = same_prompt.popleft() if same_prompt else None
        if match is None:
            remedy = "give responses to all prompts of --prompts"
            raise InputError(f"no response to prompt {row.id!r}", where=side.path, field="id", remedy=remedy)
        answers.append(Answer(match.response, match.finished))
    return answers


def _key(row: PromptRow | ResponseRow) -> str:
    """Return the prompt as a string. A single user turn equals its text."""
    prompt = plain(row.prompt)
    return prompt if isinstance(prompt, str) else repr([(t["role"], t["content"]) for t in prompt])


def _sample(
    side: Side, data: dataset.Rows[PromptRow], config: EvalWinrateConfig, nested: Writer, advance: Callable[[int], None]
) -> None:
    from tokalign.models import loading
    from tokalign.models.reward import RewardModel, best_of
    from tokalign.models.sampler import CHUNK, respond_to
    from tokalign.models.samplers import sampling_with
    from tokalign.models.tokenizer import Tokenizer

    tokenizer, device = Tokenizer.load(side.path, config), loading.pick_device(config.device)
    policy = loading.load_policy(side.path, config.dtype, to_use=True).to(device)
    loading.check_vocabulary(policy, tokenizer)
    model = RewardModel.load(config.reward_model[0], config.dtype) if side.n > 1 else None
    if model is not None:
        model.to(device)
    with sampling_with(policy, tokenizer, config, config.dtype) as sampler, nested.rows() as file:
        for part in file.left(data, CHUNK):
            seed = config.seed + file.taken + (side.name == REFERENCE)  # the reference has its own random numbers
            drawn = respond_to(part, policy, tokenizer, config, seed, config.batch_size, side.name, side.n, sampler)
            file.append_json(drawn if model is None else best_of(drawn, model, side.n))
            advance(len(part))
    nested.commit({"in": len(data), "out": file.written})
