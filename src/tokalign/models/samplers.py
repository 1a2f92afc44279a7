"""Samplers for models that the built-in sampler does not support, and the selection of a sampler for a model."""

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
from tokalign.models.draw import draw, uniform_numbers
from tokalign.models.loading import max_positions
from tokalign.models.policy import logits_at, response_logprobs
from tokalign.models.sampler import Engine, Sampled, Sampler, sample
from tokalign.models.tokenizer import Tokenizer

_PROBES = ("A", "Name a bird that cannot fly, and say why.", "The quick brown fox jumps over the lazy dog. " * 2)
_BEGINNING = "Answer with one short sentence, in plain words, and do not repeat the question. "
"""Beginning of all prompts of one test, long enough for a sampler to read it once."""
_TOKENS = 8
"""Number of tokens sampled to test a sampler."""


def wrong(dtype: str) -> float:
    """Difference in nats between a sampler's log-probabilities and the forward pass that rounding cannot explain."""
    return 0.02 if dtype == "float32" else 0.5


def choose(policy: Any, tokenizer: Tokenizer, options: SamplingOptions, dtype: str) -> Sampler:
    """Select the sampler of ``options``, or with ``auto`` the fastest one that matches the model; test it on the model.

    ``vllm`` starts an :class:`Engine`, which the caller closes.

    Raises:
        InputError: no selected sampler matches the model.
        UsageError, TokalignError: see :class:`VllmEngine`.
    """
    if options.sampler == "vllm":
        from tokalign.models.vllm_engine import VllmEngine

        return VllmEngine(policy, tokenizer, options, dtype)
    names = [n for n in SAMPLERS if options.sampler in (n, "auto")]
    problems = []
    for name in names:
        problem = _problem(SAMPLERS[name], policy, tokenizer, options, dtype)
        if not problem:
            return SAMPLERS[name]
        problems.append(f"{name}: {problem}")
    remedy = "use another model" if len(names) > 1 else "use --sampler auto, which selects a sampler that matches"
    raise InputError(f"no sampler matches this model: {'; '.join(problems)}", where=tokenizer.source, remedy=remedy)


@torch.no_grad()
def _problem(sampler: Sampler, policy: Any, tokenizer: Tokenizer, options: SamplingOptions, dtype: str) -> str:
    """Compare a sampler's most likely tokens with the forward pass without a cache; return the problem, or ""."""
    limit = max_positions(policy)
    max_new = _TOKENS if limit is None else max(1, min(_TOKENS, limit - 2))
    greedy = replace(options, temperature=0.0, top_p=1.0, max_new_tokens=max_new)
    # Without EOS, with rows that end early, and with prompts that begin with the same tokens.
    for beginning, ends in (("", []), ("", list(range(0, tokenizer.size, 2))), (_BEGINNING, [])):
        texts = [r.ids[:-1] or r.ids for r in tokenizer.responses([beginning + probe for probe in _PROBES])]
        prompts = texts if limit is None else [ids[: limit - max_new] for ids in texts]
        trial = copy(tokenizer)
        trial.ends = ends
        try:
            gap = _gap(policy, prompts, sampler(policy, prompts, list(range(len(prompts))), trial, greedy), tokenizer)
        except TokalignError:
            raise
        except Exception as e:  # models can raise anything
            return f"it fails: {first_line(e)}"
        if not gap <= wrong(dtype):
            return f"its log-probabilities differ by {gap:.2g} nats from those without a cache"
    return ""


def _gap(policy: Any, prompts: Sequence[list[int]], drawn: Sequence[Sampled], tokenizer: Tokenizer) -> float:
    """Compare sampled tokens with the model without a cache.

    Returns:
        The largest difference, in nats, between the log-probabilities of sampled and most likely tokens, and between
        those of the sampler and of the model.
    """
    pairs: list[Pair] = [(p, s.ids) for p, s in zip(prompts, drawn, strict=True)]
    batch = Batch.of(pairs, tokenizer.pad_id, next(policy.parameters()).device)
    stats = response_logprobs(policy, batch, size=tokenizer.size, best=True)
    assert stats.best is not None
    gaps = [(stats.best - stats.logprobs).max()]
    for k, s in enumerate(drawn):
        if s.logprobs is not None:
            gaps.append((s.logprobs - stats.logprobs[k, : len(s.ids)].cpu()).abs().max())
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
    """A :class:`Sampler` that recomputes the whole sequence for each token: slow, for any model that can be trained."""
    device = next(policy.parameters()).device
    uniforms = uniform_numbers(seeds, options.max_new_tokens).to(device)
    rows = [list(p) for p in prompts]
    logps: list[list[float]] = [[] for _ in rows]
    values: list[list[float]] = [[] for _ in rows]
    live = list(range(len(rows)))
    for t in range(options.max_new_tokens):
        if not live:
            break
        batch = Batch.of([(rows[i], []) for i in live], tokenizer.pad_id, device)
        rows_of_batch = torch.arange(len(live), device=device)
        with logits_at(policy, rows_of_batch, batch.last) as states:
            logits = policy(input_ids=batch.input_ids, use_cache=False).logits[..., : tokenizer.size].float()
        token, logp = draw(logits, options.temperature, options.top_p, uniforms[live, t])
        chosen = logp.tolist()
        new_values = value_head(states[0]).squeeze(-1).float().tolist() if value_head is not None else chosen
        for i, new, p, v in zip(live, token.tolist(), chosen, new_values, strict=True):
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
    """A :class:`Sampler` with ``generate`` of transformers, for caches that the built-in sampler does not support."""
    device = next(policy.parameters()).device
    width = max(map(len, prompts))
    input_ids = torch.tensor([[tokenizer.pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    lens = torch.tensor([len(p) for p in prompts], device=device)
    sampling: dict[str, Any] = {"do_sample": False}
    if options.temperature:
        sampling = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    # Never sample ids that the tokenizer does not have.
    suppressed = list(range(tokenizer.size, len(policy.get_output_embeddings().weight)))
    owner = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _without_generation_config(owner):
        torch.manual_seed(seeds[0])
        drawn = policy.generate(
            input_ids=input_ids,
            attention_mask=(torch.arange(width, device=device) >= width - lens[:, None]).long(),
            generation_config=GenerationConfig(
                max_new_tokens=options.max_new_tokens,
                eos_token_id=tokenizer.ends or None,
                pad_token_id=tokenizer.pad_id,
                suppress_tokens=suppressed or None,
                **sampling,
            ),
        )
    rows: list[list[int]] = drawn[:, width:].tolist()
    ends = [next((n for n, i in enumerate(row, 1) if i in tokenizer.ends), None) for row in rows]
    return [Sampled(row[:end], end is not None) for row, end in zip(rows, ends, strict=True)]


@contextmanager
def _without_generation_config(model: Any) -> Iterator[None]:
    """Disable the model's generation config, such as repetition penalties, within the context."""
    shipped, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = shipped


@contextmanager
def sampling_with(policy: Any, tokenizer: Tokenizer, options: SamplingOptions, dtype: str) -> Iterator[Sampler]:
    """Context with the sampler of :func:`choose`, which is closed at the end if it is an engine."""
    sampler = choose(policy, tokenizer, options, dtype)
    try:
        yield sampler
    finally:
        if isinstance(sampler, Engine):
            sampler.close()


SAMPLERS: dict[str, Sampler] = {"builtin": sample, "generate": generate, "uncached": uncached}
"""Samplers by name, fastest first."""
