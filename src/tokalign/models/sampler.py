"""Sample responses: the built-in decoding loop, which returns the log-probabilities that PPO needs.

Finished rows are removed from the batch, so that long responses do not slow down the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tokalign.artifacts.schemas import PromptRow
from tokalign.config.options import SamplingOptions
from tokalign.data.rows import Rows
from tokalign.errors import InputError, TokalignError
from tokalign.models.batch import by_length
from tokalign.models.draw import draw, uniform_numbers
from tokalign.models.kv_cache import can_spread, growing_cache, keep_rows, spread
from tokalign.models.loading import max_positions
from tokalign.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampled:
    """A sampled response: T ids, with EOS last if ``finished``.

    ``logprobs`` (T,) are at the sampling temperature, before top-p. ``values`` (T,) are those of the states before the
    tokens, if a value head was given. Both are None if the sampler does not return them.
    """

    ids: list[int]
    finished: bool
    logprobs: Tensor | None = None
    values: Tensor | None = None


class Sampler(Protocol):
    """Samples responses. Other engines can implement this; they get the current policy and the seeds."""

    def __call__(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        tokenizer: Tokenizer,
        options: SamplingOptions,
        value_head: Any = None,
    ) -> list[Sampled]:
        """Sample a response to each prompt. The same policy, prompts and seeds give the same responses.

        ``value_head`` maps hidden states (…, hidden) to values (…, 1).
        """


@runtime_checkable
class Engine(Sampler, Protocol):
    """A sampler with a copy of the policy's weights, from which it samples; its argument ``policy`` is not used."""

    name: str

    def sync(self, policy: Any) -> None:
        """Copy the weights of ``policy``.

        Raises:
            TokalignError: the engine cannot take them over, or does not follow the policy afterwards.
        """

    def close(self) -> None:
        """Free the memory of the engine."""


CHUNK = 256
"""Number of prompts answered between two points where an interrupted run can resume."""


def new_seeds(n: int, generator: torch.Generator) -> list[int]:
    """Draw ``n`` different seeds of 32 bits, all that a CPU generator uses."""
    seeds: dict[int, None] = {}
    while len(seeds) < n:
        drawn: list[int] = torch.randint(2**62, (n - len(seeds),), generator=generator).tolist()
        seeds |= dict.fromkeys(i % 2**32 for i in drawn)
    return list(seeds)


def respond(
    policy: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    seeds: Sequence[int],
    batch_size: int,
    sampler: "Sampler | None" = None,
) -> list[tuple[str, bool]]:
    """Sample a response to each prompt, in batches of similar length.

    Args:
        policy: a causal language model.
        tokenizer: its tokenizer.
        prompts: prompt ids.
        options: sampling options.
        seeds: a seed for each response; the same seeds give the same responses.
        batch_size: maximum number of responses sampled together; engines get all and form their own batches.
        sampler: the sampler to use; None: the built-in one.

    Returns:
        For each prompt, the text of the response and whether it ended with EOS.

    Raises:
        InputError: a prompt with its response is longer than the policy can read.
    """
    limit, longest = max_positions(policy), max(map(len, prompts), default=0)
    if limit is not None and longest + options.max_new_tokens > limit:
        raise InputError(
            f"the policy reads at most {limit} tokens, but a prompt has {longest} and --max-new-tokens is "
            f"{options.max_new_tokens}",
            field="prompt",
            remedy="lower --max-new-tokens or remove the prompt",
        )
    texts: list[tuple[str, bool]] = [("", False)] * len(prompts)
    size = len(prompts) if isinstance(sampler, Engine) else batch_size
    for group in by_length([len(p) for p in prompts], size, even=True):
        drawn = (sampler or sample)(policy, [prompts[i] for i in group], [seeds[i] for i in group], tokenizer, options)
        for i, s in zip(group, drawn, strict=True):
            texts[i] = (tokenizer.decode(s.ids), s.finished)
    return texts


def answerable(
    rows: Rows[PromptRow], limit: int | None, tokenizer: Tokenizer, options: SamplingOptions, strict: bool = False
) -> Rows[PromptRow]:
    """Keep the prompts that leave room for a response if the policy reads at most ``limit`` tokens (None: no limit)."""
    if limit is None:
        return rows
    room = limit - options.max_new_tokens

    def why_not(row: PromptRow) -> str:
        fits = len(tokenizer.prompts([row.prompt])[0]) <= room
        return (
            "" if fits else f"longer, with {options.max_new_tokens} new tokens, than the {limit} that the policy reads"
        )

    return rows.where(why_not, strict)


def respond_to(
    rows: Sequence[PromptRow],
    policy: Any,
    tokenizer: Tokenizer,
    options: SamplingOptions,
    seed: int,
    batch_size: int,
    generator: str,
    n: int = 1,
    sampler: "Sampler | None" = None,
) -> list[dict[str, Any]]:
    """Sample ``n`` responses to each prompt, as ``responses/1`` rows. ``generator`` names the policy in the rows."""
    prompts = [p for p in tokenizer.prompts([r.prompt for r in rows]) for _ in range(n)]
    seeds = new_seeds(len(prompts), torch.Generator().manual_seed(seed))
    texts = respond(policy, tokenizer, prompts, options, seeds, batch_size, sampler)
    return [
        {
            "id": row.id,
            "sample": k,
            "prompt": row.prompt,
            "response": texts[i * n + k][0],
            "finished": texts[i * n + k][1],
            "generator": generator,
        }
        for i, row in enumerate(rows)
        for k in range(n)
    ]


PREFIX = 16
"""Smallest number of first tokens, the same in all prompts, that are worth a forward pass of their own."""


def shared_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """Number of first tokens that are the same in all rows; at least one token of each row is left."""
    low, high = min(rows), max(rows)  # in lexicographic order, all others lie between these
    most = min(map(len, rows)) - 1
    return next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b or k == most), most)


def _padded(rows: Sequence[tuple[int, ...]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pad prompts on the left, so that the next token of every row is in the same column.

    Returns:
        (U, width) long each: token ids; the attention mask, 1 at tokens; and positions, 0 at padding.
    """
    width = max(map(len, rows))
    input_ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    sizes = torch.tensor([len(row) for row in rows], device=device)
    mask = (torch.arange(width, device=device) >= width - sizes[:, None]).long()
    return input_ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def _read_prefix(policy: Any, rows: Sequence[tuple[int, ...]], cache: Any, positions: Tensor) -> int:
    """Read the first tokens of all rows into the cache, once, if they are the same.

    Args:
        policy: a causal language model.
        rows: U different prompts.
        cache: an empty cache.
        positions: (U, width) position in its prompt of each token, padded with 0 on the left.

    Returns:
        Number of columns, from the left, that are in the cache now.
    """
    same = shared_prefix(rows) if len(rows) > 1 and can_spread(cache) else 0
    if same < PREFIX:
        return 0
    prefix = torch.tensor([rows[0][:same]], device=positions.device)
    policy(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
    spread(cache, positions[:, :same])  # rows are padded on the left: these columns hold padding or the prefix
    return same


@torch.no_grad()
def sample(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    tokenizer: Tokenizer,
    options: SamplingOptions,
    value_head: Any = None,
) -> list[Sampled]:
    """The built-in :class:`Sampler`. ``temperature`` 0 selects the most likely token.

    Each response has its own random numbers, so in float32 it does not depend on the other responses in its batch
    (half precision rounds differently). A prompt that occurs several times is read once, and so are the first tokens
    of all prompts if they are the same, such as a system message.
    """
    device = next(policy.parameters()).device
    max_new = options.max_new_tokens
    row_of: dict[tuple[int, ...], int] = {}
    copies = [row_of.setdefault(tuple(p), len(row_of)) for p in prompts]
    input_ids, mask, positions = _padded(list(row_of), tokenizer.pad_id, device)
    uniforms = uniform_numbers(seeds, max_new).to(device)

    tokens = torch.full((len(prompts), max_new), tokenizer.pad_id, device=device)
    logps, values = torch.zeros(2, len(prompts), max_new, device=device)
    lengths = torch.full((len(prompts),), max_new, device=device)
    live = torch.arange(len(prompts), device=device)  # index of the response in each row of the batch
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    ends = torch.tensor(tokenizer.ends, device=device)
    cache = growing_cache(policy.config)
    known = _read_prefix(policy, list(row_of), cache, positions)
    input_ids, positions = input_ids[:, known:], positions[:, known:]
    states: list[Tensor] = []
    handle = policy.get_output_embeddings().register_forward_pre_hook(partial(_last, states))
    try:
        for t in range(max_new):
            logits = (
                policy(
                    input_ids=input_ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1, : tokenizer.size]
                .float()
            )
            state = states.pop()
            if t == 0 and len(row_of) < len(prompts):
                rows = torch.tensor(copies, device=device)
                logits, state, mask, positions = logits[rows], state[rows], mask[rows], positions[rows]
                keep_rows(cache, rows)
            token, logp = draw(logits, options.temperature, options.top_p, uniforms[live, t])
            if value_head is not None:
                values[live, t] = value_head(state).squeeze(-1).float()
            running = ~done[live]
            tokens[live, t] = torch.where(running, token, tokenizer.pad_id)
            logps[live, t] = torch.where(running, logp, 0.0)
            ended = running & torch.isin(token, ends)
            lengths[live[ended]] = t + 1
            done[live[ended]] = True
            running &= ~ended
            left = int(running.sum())
            if left == 0:
                break
            if left <= 0.8 * len(live):  # dropping rows copies the cache, so wait until many have ended
                keep = running.nonzero().squeeze(1)
                keep_rows(cache, keep)
                live, mask, positions, token = live[keep], mask[keep], positions[keep], token[keep]
            input_ids = token[:, None]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            positions = positions[:, -1:] + 1
    finally:
        handle.remove()
    return _sampled(tokens, lengths, done, logps, None if value_head is None else values)


def _last(states: list[Tensor], _: Any, args: tuple[Tensor]) -> tuple[Tensor]:
    """Keep the last hidden state of each row in ``states``, and give it alone to the output layer, in one piece.

    For a view of longer rows PyTorch copies the weights of the layer once a row on CPUs: 2 GB for 32 rows of a model
    with 49,152 tokens and 576 dimensions.
    """
    state = args[0][:, -1:].contiguous()
    states.append(state[:, 0])
    return (state,)


def _sampled(tokens: Tensor, lengths: Tensor, done: Tensor, logps: Tensor, values: Tensor | None) -> list[Sampled]:
    """Cut the rows (B, T) of a batch of responses to their lengths.

    Raises:
        TokalignError: a log-probability is not finite.
    """
    tokens, logps = tokens.cpu(), logps.cpu()
    if not logps.isfinite().all():
        raise TokalignError("the policy's logits are not finite", remedy="use --dtype float32 or bfloat16")
    kept = None if values is None else values.cpu()
    return [
        Sampled(tokens[i, :n].tolist(), end, logps[i, :n], None if kept is None else kept[i, :n])
        for i, (n, end) in enumerate(zip(lengths.tolist(), done.tolist(), strict=True))
    ]
