"""Samplers for models that the built-in one cannot serve, and the choice of one that is right for a model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig

from tokalign.config.options import SamplingOptions
from tokalign.errors import InputError, TokalignError, first_line
from tokalign.models.batch import Batch, Pair
from tokalign.models.loading import positions
from tokalign.models.policy import reading, response_logprobs
from tokalign.models.sampler import Sampled, Sampler, draw, numbers, sample
from tokalign.models.tokenizer import Tokenizer

_PROBES = ("A", "Name a bird that cannot fly, and say why.", "The quick brown fox jumps over the lazy dog. " * 2)
_TOKENS = 8
"""Tokens that are drawn to try a sampler."""


def wrong(dtype: str) -> float:
    """Nats by which a sampler's log-probabilities cannot differ from the training forward's by rounding alone."""
    return 0.02 if dtype == "float32" else 0.5


def choose(policy: Any, tokenizer: Tokenizer, options: SamplingOptions, dtype: str) -> Sampler:
    """The sampler that is asked for or, by ``auto``, the fastest that is right for the model; it is tried on it.

    Raises:
        InputError: it is not right, or none is.
    """
    names = [n for n in SAMPLERS if options.sampler in (n, "auto")]
    problems = []
    for name in names:
        problem = _problem(SAMPLERS[name], policy, tokenizer, options, dtype)
        if not problem:
            return SAMPLERS[name]
        problems.append(f"{name}: {problem}")
    remedy = "another model" if len(names) > 1 else "--sampler auto takes one that is right, if there is one"
    raise InputError(f"no sampler for this model: {'; '.join(problems)}", where=tokenizer.source, remedy=remedy)


@torch.no_grad()
def _problem(sampler: Sampler, policy: Any, tokenizer: Tokenizer, options: SamplingOptions, dtype: str) -> str:
    """What is wrong with what a sampler draws: the likeliest tokens, by the model's forward pass without a cache."""
    texts = [r.ids[:-1] or r.ids for r in tokenizer.responses(_PROBES)]
    room = positions(policy)
    most = _TOKENS if room is None else max(1, min(_TOKENS, room - 2))
    prompts = texts if room is None else [ids[: room - most] for ids in texts]
    greedy = replace(options, temperature=0.0, top_p=1.0, max_new_tokens=most)
    for ends in ([], list(range(0, tokenizer.size, 2))):  # once to the last token, once with rows that end early
        trial = copy(tokenizer)
        trial.ends = ends
        try:
            gap = _gap(policy, prompts, sampler(policy, prompts, list(range(len(prompts))), trial, greedy), tokenizer)
        except TokalignError:
            raise
        except Exception as e:  # whatever a model makes of it
            return f"it fails: {first_line(e)}"
        if not gap <= wrong(dtype):
            return f"it is {gap:.2g} nats from the model without a cache"
    return ""


def _gap(policy: Any, prompts: Sequence[list[int]], drawn: Sequence[Sampled], tokenizer: Tokenizer) -> float:
    """Nats between likeliest tokens as they were drawn and as the model without a cache has them."""
    pairs: list[Pair] = [(p, s.ids) for p, s in zip(prompts, drawn, strict=True)]
    batch = Batch.of(pairs, tokenizer.pad_id, next(policy.parameters()).device)
    said = response_logprobs(policy, batch, size=tokenizer.size, best=True)
    assert said.best is not None
    gaps = [(said.best - said.logprobs).max()]
    for k, s in enumerate(drawn):
        if s.logprobs is not None:
            gaps.append((s.logprobs - said.logprobs[k, : len(s.ids)].cpu()).abs().max())
    return max(map(float, gaps))


@torch.no_grad()
def uncached(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    tokenizer: Tokenizer,
    options: SamplingOptions,
    value_head: Any = None,
) -> list[Sampled]:
    """A :class:`Sampler` that reads everything anew for each token: slow, and right for whatever can be trained."""
    device = next(policy.parameters()).device
    uniforms = numbers(seeds, options.max_new_tokens).to(device)
    rows = [list(p) for p in prompts]
    logps: list[list[float]] = [[] for _ in rows]
    values: list[list[float]] = [[] for _ in rows]
    live = list(range(len(rows)))
    for t in range(options.max_new_tokens):
        if not live:
            break
        batch = Batch.of([(rows[i], []) for i in live], tokenizer.pad_id, device)
        every = torch.arange(len(live), device=device)
        with reading(policy, every, batch.last) as states:
            logits = policy(input_ids=batch.input_ids, use_cache=False).logits[..., : tokenizer.size].float()
        logp = (logits / (options.temperature or 1.0)).log_softmax(-1)
        token = draw(logp, options.temperature, options.top_p, uniforms[live, t])
        chosen = logp.gather(1, token[:, None]).squeeze(1).tolist()
        worth = value_head(states[0]).squeeze(-1).float().tolist() if value_head is not None else chosen
        for i, new, p, v in zip(live, token.tolist(), chosen, worth, strict=True):
            rows[i].append(new)
            logps[i].append(p)
            values[i].append(v)
        live = [i for i in live if rows[i][-1] not in tokenizer.ends]
    return [
        Sampled(
            row[len(prompt) :],
            row[-1] in tokenizer.ends,
            torch.tensor(logps[i]),
            None if value_head is None else torch.tensor(values[i]),
        )
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    ]


@torch.no_grad()
def generate(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    tokenizer: Tokenizer,
    options: SamplingOptions,
    value_head: Any = None,
) -> list[Sampled]:
    """A :class:`Sampler` by ``generate`` of transformers, for models whose cache the built-in one cannot keep."""
    device = next(policy.parameters()).device
    width = max(map(len, prompts))
    input_ids = torch.tensor([[tokenizer.pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    lens = torch.tensor([len(p) for p in prompts], device=device)
    drawing: dict[str, Any] = {"do_sample": False}
    if options.temperature:
        drawing = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    beyond = list(range(tokenizer.size, len(policy.get_output_embeddings().weight)))  # ids that the tokenizer lacks
    owner = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _plainly(owner):
        torch.manual_seed(seeds[0])
        drawn = policy.generate(
            input_ids=input_ids,
            attention_mask=(torch.arange(width, device=device) >= width - lens[:, None]).long(),
            generation_config=GenerationConfig(
                max_new_tokens=options.max_new_tokens,
                eos_token_id=tokenizer.ends or None,
                pad_token_id=tokenizer.pad_id,
                suppress_tokens=beyond or None,
                **drawing,
            ),
        )
    rows: list[list[int]] = drawn[:, width:].tolist()
    ends = [next((n for n, i in enumerate(row, 1) if i in tokenizer.ends), None) for row in rows]
    return [Sampled(row[:end], end is not None) for row, end in zip(rows, ends, strict=True)]


@contextmanager
def _plainly(model: Any) -> Iterator[None]:
    """Within, nothing that a model ships for its use, such as a penalty on repetition, bends its probabilities."""
    shipped, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = shipped


SAMPLERS: dict[str, Sampler] = {"builtin": sample, "generate": generate, "uncached": uncached}
"""The fastest first."""
