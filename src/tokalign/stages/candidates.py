"""The responses of a candidate: read from where they are, or sampled from a policy, one or the best of several."""

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
"""Name of the side that all are compared with."""


class Side(NamedTuple):
    """Who answers: a policy, or responses that are there."""

    name: str
    path: str
    n: int = 1
    """Responses drawn to a prompt, of which the reward model's favourite is taken."""

    @property
    def is_there(self) -> bool:
        """Whether the responses need not be sampled."""
        return dataset.is_rows(self.path) or manifest.kind_of(Path(self.path)) == "responses"

    def lineage(self) -> dict[str, Any]:
        """Where it comes from, as an input of a stage.

        Raises:
            InputError: it is not there.
        """
        if dataset.is_rows(self.path):
            return dataset.read_rows(self.path, ResponseRow, "responses").lineage
        found = dataset.model_lineage(self.path, "policy", "responses")
        return {**found, "sha256": f"{found['sha256']}@{self.n}"} if self.n > 1 else found


def side(name: str, path: str) -> Side:
    """``PATH`` or ``PATH@N``."""
    found = re.fullmatch(r"(.+)@(\d+)", path)
    if not found or Path(path).exists():
        return Side(name, path)
    if int(found[2]) < 1:
        raise UsageError(f"best of {found[2]}", remedy="PATH@N with N of 1 or more")
    best = Side(name, found[1], int(found[2]))
    if best.n > 1 and best.is_there:
        remedy = "best of N samples from a policy; of responses: tokalign generate --n N --reward-model DIR"
        raise UsageError(f"{best.path} holds responses, not a policy", remedy=remedy)
    return best


def readable(
    data: dataset.Rows[PromptRow], sides: Sequence[Side], config: EvalWinrateConfig
) -> tuple[dataset.Rows[PromptRow], list[str]]:
    """The prompts that every policy, and every reward model that judges, can read and answer; what is left out for all.

    Raises:
        InputError: none is.
        UsageError: what is asked of a chat template cannot be.
    """
    policies = [s.path for s in sides if not s.is_there]
    read_by = config.reward_model if config.judge == "reward" or any(s.n > 1 for s in sides) else []
    models = [path for path in read_by if not is_function(path)]
    if not policies and not models:
        return data, []
    from tokalign.models import loading
    from tokalign.models.prompts import renderable
    from tokalign.models.sampler import answerable
    from tokalign.models.tokenizer import Tokenizer

    own = {path: Tokenizer.load(path, config) for path in dict.fromkeys(policies)}
    tokenizers = [*own.values(), *(Tokenizer.load(path) for path in models if path not in own)]
    data, notes = renderable(data, tokenizers, config.strict)
    for path, tokenizer in own.items():
        data = answerable(data, loading.places_of(path), tokenizer, config, config.strict)
    return data, notes


def responses(
    who: Side,
    data: dataset.Rows[PromptRow],
    config: EvalWinrateConfig,
    out: Writer | None,
    advance: Callable[[int], None],
) -> list[Answer]:
    """Responses in the order of the prompts; what is sampled is kept as a part of ``out``.

    Raises:
        InputError: a prompt has none, or several.
    """
    if not who.is_there:
        assert out is not None
        inputs = {"prompts": data.lineage, "policy": who.lineage()}
        if who.n > 1:
            inputs["reward_model"] = dataset.model_lineage(config.reward_model[0], "reward-model")
        with out.part("responses", config, inputs, f"responses/{who.name}") as nested:
            if nested.finished is None:
                _sample(who, data, config, nested, advance)
        return [Answer(r.response, r.finished) for r in dataset.read_rows(nested.folder, ResponseRow, "responses")]
    by_id: dict[str, ResponseRow] = {}
    by_prompt: dict[str, deque[ResponseRow]] = {}
    for r in dataset.read_rows(who.path, ResponseRow, "responses"):
        if r.id in by_id:
            remedy = "keep one of them, or the best: tokalign generate --n N --reward-model DIR"
            raise InputError(f"several responses to prompt {r.id!r}", where=who.path, field="sample", remedy=remedy)
        by_id[r.id] = r
        by_prompt.setdefault(_key(r), deque()).append(r)
    texts = []
    for row in data:
        found = by_id.get(row.id)
        if found is None or _key(found) != _key(row):  # ids that were made up on reading say nothing
            alike = by_prompt.get(_key(row))
            found = alike.popleft() if alike else None
        if found is None:
            raise InputError(
                f"no response to prompt {row.id!r}", where=who.path, field="id", remedy="answer the same prompts"
            )
        texts.append(Answer(found.response, found.finished))
    return texts


def _key(row: PromptRow | ResponseRow) -> str:
    """The prompt, a single user turn and its text being the same."""
    prompt = plain(row.prompt)
    return prompt if isinstance(prompt, str) else repr([(t["role"], t["content"]) for t in prompt])


def _sample(
    who: Side, data: dataset.Rows[PromptRow], config: EvalWinrateConfig, nested: Writer, advance: Callable[[int], None]
) -> None:
    from tokalign.models import loading
    from tokalign.models.reward import RewardModel, best_of
    from tokalign.models.sampler import CHUNK, respond_to
    from tokalign.models.samplers import choose
    from tokalign.models.tokenizer import Tokenizer

    tokenizer, device = Tokenizer.load(who.path, config), loading.pick_device(config.device)
    policy = loading.load_policy(who.path, config.dtype, to_use=True).to(device)
    loading.check_vocabulary(policy, tokenizer)
    model = RewardModel.load(config.reward_model[0], config.dtype) if who.n > 1 else None
    if model is not None:
        model.model.to(device)
    sampler = choose(policy, tokenizer, config, config.dtype)
    with nested.rows() as file:
        for part in file.left(data, CHUNK):
            seed = config.seed + file.taken + (who.name == REFERENCE)  # the reference has draws of its own
            drawn = respond_to(part, policy, tokenizer, config, seed, config.batch_size, who.name, who.n, sampler)
            file.append_json(drawn if model is None else best_of(drawn, model, who.n))
            advance(len(part))
    nested.commit({"in": len(data), "out": file.written})
