"""Rollouts of PPO: sampled responses with log-probabilities, values and rewards. The processes share the work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tokalign.artifacts.schemas import Prompt
from tokalign.core import rl
from tokalign.core.words import split
from tokalign.models import distributed
from tokalign.models.batch import Batch, Pair, by_length, pad_rows
from tokalign.models.engines import take_weights
from tokalign.models.reward_functions import Emitted, RewardFunction
from tokalign.models.sampler import Engine, Sampled
from tokalign.models.samplers import choose
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo.mismatch import Mismatch
from tokalign.ppo.networks import Networks


class PromptItem(NamedTuple):
    """A prompt (text or messages) and its token ids."""

    prompt: Prompt
    ids: list[int]


class Response(NamedTuple):
    """One response of T tokens with its statistics: tensors (T,) on the CPU."""

    ids: list[int]
    """Token ids, EOS last if ``finished``."""
    finished: bool
    """Whether the response ends with EOS."""
    logprobs: Tensor
    importance: Tensor
    ref_logprobs: Tensor
    values: Tensor
    scores: list[Tensor]
    """Rewards of each reward function, at the tokens for which it gives them."""
    segments: Tensor
    """Index of the sentence of each token, long; zeros unless ``--granularity`` is ``segment``."""


@dataclass(frozen=True)
class Rollout:
    """A sampled batch: B responses of up to T tokens, padded on the right with 0. Tensors are (B, T)."""

    pairs: list[Pair]
    """Prompt ids and response ids of each row."""
    finished: list[bool]
    """Whether each response ends with EOS."""
    response_mask: Tensor
    """Bool, **True = counts**."""
    logprobs: Tensor
    """Log-probabilities under the policy before the update, at the sampling temperature."""
    importance: Tensor
    """Weights of the tokens for the difference between sampler and policy; 1 if ``logprobs`` are the sampler's."""
    ref_logprobs: Tensor
    """Log-probabilities under the reference, at the sampling temperature."""
    values: Tensor
    """Value of the state before each token."""
    scores: list[Tensor]
    """Rewards of each reward function, before placing and scaling."""
    segments: Tensor
    """Index of the sentence of each token, long."""
    by_sampler: bool
    """Whether ``logprobs`` are the sampler's; otherwise those of the training forward pass."""

    @classmethod
    def of(
        cls, items: Sequence[PromptItem], responses: Sequence[Response], device: torch.device, by_sampler: bool
    ) -> "Rollout":
        """Pad the responses to the longest and move them to ``device``; ``items`` are their prompts."""
        lengths = torch.tensor([len(r.ids) for r in responses])

        def padded(rows: Sequence[Tensor]) -> Tensor:
            return pad_rows(rows).to(device)

        return cls(
            [(item.ids, r.ids) for item, r in zip(items, responses, strict=True)],
            [r.finished for r in responses],
            (torch.arange(int(lengths.max())) < lengths[:, None]).to(device),
            padded([r.logprobs for r in responses]),
            padded([r.importance for r in responses]),
            padded([r.ref_logprobs for r in responses]),
            padded([r.values for r in responses]),
            [padded(rows) for rows in zip(*(r.scores for r in responses), strict=True)],
            padded([r.segments for r in responses]),
            by_sampler,
        )

    @property
    def ids(self) -> Tensor:
        """(B, T) long: response token ids, 0 at padding."""
        return pad_rows([torch.tensor(r) for _, r in self.pairs]).to(self.response_mask.device)

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each prompt and response together."""
        return [len(p) + len(r) for p, r in self.pairs]

    def batch(self, rows: Sequence[int], pad_id: int) -> Batch:
        """The given rows as the input of a model."""
        return Batch.of([self.pairs[i] for i in rows], pad_id, self.response_mask.device)


class Collector:
    """Collects rollouts. Each process samples and scores its part of the prompts; all get the whole rollout.

    Args:
        networks: networks of the run.
        reward_functions: reward functions, in the order of ``Rollout.scores``.
        tokenizer: the policy's tokenizer.

    Raises:
        InputError: no sampler matches the policy.
    """

    def __init__(self, networks: Networks, reward_functions: Sequence[RewardFunction], tokenizer: Tokenizer) -> None:
        self.networks, self.reward_functions, self.tokenizer = networks, reward_functions, tokenizer
        with networks.sampling() as policy:
            self.sampler = choose(policy, tokenizer, networks.options, networks.options.dtype)
        self.mismatch = Mismatch(networks.options, isinstance(self.sampler, Engine))

    def draw(self, items: Sequence[PromptItem], seeds: Sequence[int]) -> tuple[list[int], list[Sampled]]:
        """Sample responses to this process's part of the prompts.

        Args:
            items: all prompts of the batch; the same in all processes.
            seeds: one seed per prompt.

        Returns:
            Indices into ``items`` of this process's part, and a response for each.
        """
        order = sorted(range(len(items)), key=lambda i: -len(items[i].ids))
        local_indices = distributed.local_part(order)
        options, responses = self.networks.options, list[Sampled]()
        size = options.sample_batch or len(local_indices)
        with self.networks.sampling() as policy:
            take_weights(self.sampler, policy)
            for rows in (local_indices[k : k + size] for k in range(0, len(local_indices), size)):
                prompts, prompt_seeds = [items[i].ids for i in rows], [seeds[i] for i in rows]
                responses += self.sampler(policy, prompts, prompt_seeds, self.tokenizer, options, self.networks.head)
        return local_indices, responses

    def evaluate(
        self, items: Sequence[PromptItem], local_indices: Sequence[int], sampled: Sequence[Sampled]
    ) -> Rollout:
        """Score the responses of this process with networks and reward functions, and gather the rollout.

        Collective: every process must call it.

        Args:
            items: all prompts of the batch.
            local_indices: this process's indices, from :meth:`draw`.
            sampled: this process's responses, from :meth:`draw`.

        Raises:
            TokalignError: the sampler's log-probabilities are too far from those of the model.
        """
        pairs: list[Pair] = [(items[i].ids, s.ids) for i, s in zip(local_indices, sampled, strict=True)]
        finished = [s.finished for s in sampled]
        emitted = Emitted([items[i].prompt for i in local_indices], pairs, finished, self.tokenizer)
        options = self.networks.options
        logprobs, importance, ref_logprobs, values = self._read(pairs, sampled)
        scores = [reward_function.score(emitted, options.microbatch) for reward_function in self.reward_functions]
        segments = [torch.zeros(len(r), dtype=torch.long) for _, r in pairs]
        if options.granularity == "segment":
            segments = sentences(*emitted.located)
        responses = [
            (
                i,
                Response(
                    pairs[k][1],
                    finished[k],
                    logprobs[k],
                    importance[k],
                    ref_logprobs[k],
                    values[k],
                    list(rewards),
                    segments[k],
                ),
            )
            for k, (i, rewards) in enumerate(zip(local_indices, zip(*scores, strict=True), strict=True))
        ]
        return Rollout.of(items, distributed.gathered(responses), self.networks.device, bool(self.mismatch.reuse))

    @torch.no_grad()
    def _read(self, pairs: list[Pair], sampled: Sequence[Sampled]) -> tuple[list[Tensor], ...]:
        """Statistics of each response, (T_i,) on the CPU.

        Returns:
            Old log-probabilities, importance weights, log-probabilities under the reference, and values.
        """
        logprobs, importance, refs, values = ([torch.empty(0)] * len(pairs) for _ in range(4))
        sizes, microbatch = [len(p) + len(r) for p, r in pairs], self.networks.options.microbatch
        mismatch = self.mismatch
        for group in by_length(sizes, microbatch, even=distributed.sharded()):
            batch = Batch.of([pairs[i] for i in group], self.tokenizer.pad_id, self.networks.device)
            known = [sampled[i] for i in group]
            without_values = self.networks.shared and any(s.values is None for s in known)
            read = None if mismatch.reuse and not without_values else self.networks.read(batch)
            if read is not None:
                mismatch.add(known, read.logprobs)
                if mismatch.reuse is None:
                    mismatch.conclude()
            ref = self.networks.ref_logprobs(batch)
            value = read and read.values if self.networks.shared else self.networks.values(batch)
            for row, i in enumerate(group):
                size, own = len(pairs[i][1]), sampled[i]
                refs[i] = ref[row, :size].cpu()
                logprobs[i] = _either(own.logprobs if mismatch.reuse else None, read and read.logprobs, row, size)
                values[i] = _either(own.values if mismatch.reuse else None, value, row, size)
                importance[i] = mismatch.importance(logprobs[i], own.logprobs)
        mismatch.conclude()
        return logprobs, importance, refs, values


def _either(known: Tensor | None, read: Tensor | None, row: int, size: int) -> Tensor:
    """``known`` (T_i,) from the sampler or, if it is None, the first ``size`` columns of a row of ``read`` (B, T)."""
    if known is not None:
        return known
    assert read is not None
    return read[row, :size].cpu()


def sentences(texts: Sequence[str], places: Sequence[Sequence[tuple[int, int]]]) -> list[Tensor]:
    """For each text, (T_i,) long: index of the sentence in which each token ends, non-decreasing.

    Args:
        texts: response texts.
        places: ``[start, end)`` of each token in its text, in code points.
    """
    words = split(texts)
    found = []
    for k, spans in enumerate(places):
        own_words = slice(words.rows[k], words.rows[k + 1])
        starts = torch.from_numpy(words.begins[own_words][words.starts[own_words]] - words.places[k])
        last = torch.tensor([max(end - 1, 0) for _, end in spans])
        found.append(torch.searchsorted(starts, last, right=True).cummax(0).values)
    return found


def payout_positions(granularity: str, rollout: Rollout) -> Tensor:
    """(B, T) bool: True at the payout positions of ``granularity`` (``token``, ``segment`` or ``sequence``)."""
    mask = rollout.response_mask
    if granularity == "token":
        return mask
    return rl.segment_ends(rollout.segments, mask) if granularity == "segment" else rl.last_token(mask)
