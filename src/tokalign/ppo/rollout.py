"""A rollout: responses, what the four networks say of them, and what they are paid. Shared among processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tokalign.artifacts.schemas import Prompt
from tokalign.core import rl
from tokalign.core.words import split
from tokalign.errors import TokalignError
from tokalign.models import distributed
from tokalign.models.batch import Batch, Pair, by_length, pad_rows
from tokalign.models.reward_functions import Emitted, RewardFunction
from tokalign.models.sampler import Sampled
from tokalign.models.samplers import choose, wrong
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo.networks import Networks

MISMATCH = 1e-3
"""Nats by which the sampler's log-probabilities may differ from the training forward and still serve."""


class PromptItem(NamedTuple):
    """A prompt as it is, and its ids."""

    prompt: Prompt
    ids: list[int]


class Response(NamedTuple):
    """One response of T tokens and what was made of it; all (T,), on the CPU."""

    ids: list[int]
    finished: bool
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    scores: list[Tensor]
    """What each reward function gives, where it gives it."""
    segments: Tensor
    """The number of the sentence that each token is of."""


@dataclass(frozen=True)
class Rollout:
    """A sampled batch: B responses, T tokens, padded on the right. (B, T) each; mask **True = counts**."""

    pairs: list[Pair]
    finished: list[bool]
    response_mask: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    scores: list[Tensor]
    """(B, T) of each reward function."""
    segments: Tensor

    @classmethod
    def of(cls, items: Sequence[PromptItem], responses: Sequence[Response], device: torch.device) -> "Rollout":
        """Pad responses to the longest."""
        lengths = torch.tensor([len(r.ids) for r in responses])

        def padded(rows: Sequence[Tensor]) -> Tensor:
            return pad_rows(rows).to(device)

        return cls(
            [(a.ids, r.ids) for a, r in zip(items, responses, strict=True)],
            [r.finished for r in responses],
            (torch.arange(int(lengths.max())) < lengths[:, None]).to(device),
            padded([r.logprobs for r in responses]),
            padded([r.ref_logprobs for r in responses]),
            padded([r.values for r in responses]),
            [padded(rows) for rows in zip(*(r.scores for r in responses), strict=True)],
            padded([r.segments for r in responses]),
        )

    @property
    def ids(self) -> Tensor:
        """(B, T) long: what was emitted, 0 at padding."""
        return pad_rows([torch.tensor(r) for _, r in self.pairs]).to(self.response_mask.device)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each prompt with its response."""
        return [len(p) + len(r) for p, r in self.pairs]

    def batch(self, rows: Sequence[int], pad_id: int) -> Batch:
        """Some of them, ready for a model."""
        return Batch.of([self.pairs[i] for i in rows], pad_id, self.response_mask.device)


class Collector:
    """Makes rollouts. Of several processes each makes its part, and all get the whole."""

    def __init__(self, networks: Networks, reward_functions: Sequence[RewardFunction], tokenizer: Tokenizer) -> None:
        self.networks, self.reward_functions, self.tokenizer = networks, reward_functions, tokenizer
        with networks.sampling() as policy:
            self.sampler = choose(policy, tokenizer, networks.options, networks.options.dtype)
        self.reuse_logprobs: bool | None = None
        """Whether the sampler's log-probabilities serve as the old ones; found out on the first rollout."""

    def draw(self, items: Sequence[PromptItem], seeds: Sequence[int]) -> tuple[list[int], list[Sampled]]:
        """Responses to this process's part of the prompts, and which part that is."""
        order = sorted(range(len(items)), key=lambda i: -len(items[i].ids))
        mine = distributed.local_part(order)
        options, drawn = self.networks.options, list[Sampled]()
        size = options.sample_batch or len(mine)
        with self.networks.sampling() as policy:
            for part in (mine[k : k + size] for k in range(0, len(mine), size)):
                prompts, own = [items[i].ids for i in part], [seeds[i] for i in part]
                drawn += self.sampler(policy, prompts, own, self.tokenizer, options, self.networks.head)
        return mine, drawn

    def evaluate(self, items: Sequence[PromptItem], mine: Sequence[int], sampled: Sequence[Sampled]) -> Rollout:
        """What networks and reward functions say of the responses of all processes."""
        pairs: list[Pair] = [(items[i].ids, s.ids) for i, s in zip(mine, sampled, strict=True)]
        finished = [s.finished for s in sampled]
        emitted = Emitted([items[i].prompt for i in mine], pairs, finished, self.tokenizer)
        options = self.networks.options
        logprobs, ref_logprobs, values = self._read(pairs, sampled)
        scores = [reward_function.score(emitted, options.microbatch) for reward_function in self.reward_functions]
        segments = [torch.zeros(len(r), dtype=torch.long) for _, r in pairs]
        if options.granularity == "segment":
            segments = sentences(*emitted.located)
        made = [
            (i, Response(pairs[k][1], finished[k], logprobs[k], ref_logprobs[k], values[k], list(given), segments[k]))
            for k, (i, given) in enumerate(zip(mine, zip(*scores, strict=True), strict=True))
        ]
        return Rollout.of(items, distributed.gathered(made), self.networks.device)

    @torch.no_grad()
    def _read(self, pairs: list[Pair], sampled: Sequence[Sampled]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Log-probabilities under policy and reference, and values: (T_i,) each."""
        logprobs, refs, values = ([torch.empty(0)] * len(pairs) for _ in range(3))
        sizes, most = [len(p) + len(r) for p, r in pairs], self.networks.options.microbatch
        widest = 0.0
        for group in by_length(sizes, most, even=distributed.sharded()):
            batch = Batch.of([pairs[i] for i in group], self.tokenizer.pad_id, self.networks.device)
            known = [sampled[i] for i in group]
            enough = self.reuse_logprobs and not (self.networks.shared and any(s.values is None for s in known))
            read = None if enough else self.networks.read(batch)
            if read is not None:
                apart = gap(known, read.logprobs)
                widest = max(widest, 0.0 if apart == float("inf") else apart)
                if self.reuse_logprobs is None:
                    self.reuse_logprobs = distributed.all_reduce_max(apart > MISMATCH) == 0
            ref = self.networks.ref_logprobs(batch)
            value = read and read.values if self.networks.shared else self.networks.values(batch)
            for row, i in enumerate(group):
                size = len(pairs[i][1])
                refs[i] = ref[row, :size].cpu()
                logprobs[i] = _either(
                    sampled[i].logprobs if self.reuse_logprobs else None, read and read.logprobs, row, size
                )
                values[i] = _either(sampled[i].values if self.reuse_logprobs else None, value, row, size)
        refuse_gap(distributed.all_reduce_max(widest), self.networks.options.dtype)
        return logprobs, refs, values


def refuse_gap(nats: float, dtype: str) -> None:
    """Stop where the sampler's log-probabilities are so far from the training forward's that one of both is wrong.

    Raises:
        TokalignError: they are.
    """
    if nats > wrong(dtype):
        raise TokalignError(
            f"the sampler does not follow the model: log-probabilities differ by {nats:.2g} nats",
            remedy="--sampler generate or uncached; please report the model",
        )


def _either(known: Tensor | None, read: Tensor | None, row: int, size: int) -> Tensor:
    """What the sampler knows of a response (T_i,), else what was read of it, a row of (B, T)."""
    if known is not None:
        return known
    assert read is not None
    return read[row, :size].cpu()


def gap(known: Sequence[Sampled], found: Tensor) -> float:
    """The largest difference of log-probabilities known and found (B, T); endless where a sampler knows none."""
    rows = [s.logprobs for s in known if s.logprobs is not None]
    if len(rows) < len(known):
        return float("inf")
    return float((pad_rows(rows, found.shape[1]).to(found.device) - found).abs().max())


def sentences(texts: Sequence[str], places: Sequence[Sequence[tuple[int, int]]]) -> list[Tensor]:
    """(T_i,) long for each text: the number of the sentence in which each token, ``[start, end)``, ends."""
    words = split(texts)
    found = []
    for k, spans in enumerate(places):
        own = slice(words.rows[k], words.rows[k + 1])
        starts = torch.from_numpy(words.begins[own][words.starts[own]] - words.places[k])
        last = torch.tensor([max(end - 1, 0) for _, end in spans])
        found.append(torch.searchsorted(starts, last, right=True).cummax(0).values)
    return found


def payout_positions(granularity: str, rollout: Rollout) -> Tensor:
    """(B, T) bool: the positions at which rewards are placed."""
    mask = rollout.response_mask
    if granularity == "token":
        return mask
    return rl.segment_ends(rollout.segments, mask) if granularity == "segment" else rl.last_token(mask)
