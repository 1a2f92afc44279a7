"""Figures of one run of the experiment on restaurant reviews (real.py): stars, length, guards and KL of every arm."""

import json
import math
import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import lab
import stars
from tokalign.models import loading
from tokalign.models.batch import Batch
from tokalign.models.policy import response_logprobs
from tokalign.models.tokenizer import Tokenizer

MOST = 128
"""Number of responses for which log-probabilities are computed: one of each prompt."""


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


class Reading:
    """Mean log-probabilities of responses under several policies.

    Args:
        tokenizer: folder of the tokenizer of all policies.
        dtype: compute type.
    """

    def __init__(self, tokenizer: Path, dtype: str) -> None:
        self.tokenizer, self.dtype = Tokenizer.load(tokenizer), dtype

    def nats(self, policy: Path, prompts: Sequence[Any], responses: Sequence[str]) -> tuple[float, int]:
        """Summed negative log-probability of the responses, and their number of tokens, EOS included."""
        model = loading.load_policy(policy)
        rows = list(zip(self.tokenizer.prompts(list(prompts)), self.tokenizer.responses(list(responses)), strict=True))
        rows.sort(key=lambda row: len(row[1].ids))
        total, tokens = 0.0, 0
        with torch.inference_mode(), self._arithmetic():
            for k in range(0, len(rows), 32):
                batch = Batch.of([(p, r.ids) for p, r in rows[k : k + 32]], self.tokenizer.pad_id)
                total -= float(response_logprobs(model, batch).logprobs.sum())
                tokens += int(batch.response_mask.sum())
        return total, tokens

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == "float32" else torch.autocast("cpu", getattr(torch, self.dtype))


def names(prompt: str) -> set[str]:
    """Words of the restaurant's name and of the cuisine."""
    words = prompt.lower().removeprefix("review ").replace("(", " ").replace(").", " ").split()
    return set(words) - {"the", "and", "-", "&", "restaurant"}


def guards(prompts: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Distinct-2, and the share of responses that name a word of the restaurant's name or cuisine.

    Distinct-2: the number of different neighbouring pairs of words, divided by that of all pairs.
    """
    words = [[word.strip(".,!?()").lower() for word in text.split()] for text in texts]
    pairs = [pair for row in words for pair in pairwise(row)]
    named = [bool(names(p) & set(row)) for p, row in zip(prompts, words, strict=True)]
    return {"distinct_2": round(len(set(pairs)) / max(1, len(pairs)), 3), "named": round(statistics.mean(named), 3)}


def arms(won: Path, policies: dict[str, Path], base: Path, sft: Path, dtype: str) -> dict[str, Any]:
    """Figures of the reference (``sft``) and of every candidate.

    ``stars``, ``vader`` and ``words`` have one number per response, in the order of the test prompts. ``kl``: nats per
    response, an estimate from one response per prompt. ``perplexity``: under the untouched model, of the same.

    Args:
        won: folder of eval-winrate.
        policies: folder of each candidate that is a policy; others were selected from samples of the reference.
        base: the untouched model.
        sft: the starting policy.
        dtype: compute type.
    """
    compared = sorted(_rows(won / "compared.jsonl"), key=lambda row: tuple(map(int, row["id"].split("-")[1:])))
    prompts = [row["prompt"] for row in compared]
    sides = {"sft": "reference"} | {name: name for name in lab.stats(won)["candidates"]}
    each = slice(None, None, math.ceil(len(compared) / MOST))
    reading, found = Reading(sft, dtype), {}
    for arm, side in sides.items():
        texts = [row[side] for row in compared]
        own = {"sft": sft, **policies}.get(arm)
        nats, tokens = reading.nats(base, prompts[each], texts[each])
        found[arm] = {
            "stars": [round(star, 2) for star in stars.stars(prompts, texts)],
            "vader": [round(v, 2) for v in stars.vader(texts)],
            "words": [len(text.split()) for text in texts],
            "finished": _finished(won, side),
            **guards(prompts, texts),
            "perplexity": round(math.exp(nats / tokens), 1),
        }
        if own:
            ours, start = (reading.nats(policy, prompts[each], texts[each])[0] for policy in (own, sft))
            found[arm]["kl"] = round((start - ours) / len(texts[each]), 2)
    return found


def _finished(won: Path, side: str) -> float | None:
    """Share of responses that end with EOS; None for responses that the comparison has not sampled."""
    file = won / "responses" / side / "data.jsonl"
    return round(statistics.mean(row["finished"] for row in _rows(file)), 3) if file.is_file() else None


def course(ppo: Path) -> list[dict[str, float]]:
    """Win rate on the held-out prompts by step, with the KL of the rollout at that step."""
    kept = ("step", "win_rate", "win_rate_error", "kl", "kl_coef", "length", "finished")
    return [
        {key: round(row[key], 3) for key in kept if key in row}
        for row in _rows(ppo / "metrics.jsonl")
        if "win_rate" in row
    ]


def seconds(ppo: Path) -> float:
    """Median seconds of a PPO step, without evaluations."""
    rows = _rows(ppo / "metrics.jsonl")
    taken: list[float] = [sum(v for k, v in row.items() if k.startswith("seconds_")) for row in rows]
    return round(statistics.median(taken), 1)


def reward_model(measured: Path) -> dict[str, Any]:
    """Figures of a reward model on the test edits."""
    found = lab.stats(measured)
    return {key: found[key] for key in ("edited_over_original", "flips", "auroc") if key in found}


def samples(won: Path, n: int) -> list[dict[str, Any]]:
    """Prompts with all responses, evenly spread over the test prompts."""
    rows = sorted(_rows(won / "compared.jsonl"), key=lambda row: tuple(map(int, row["id"].split("-")[1:])))
    sides = ["reference", *lab.stats(won)["candidates"]]
    spread = [rows[k * len(rows) // n] for k in range(n)]
    return [{"prompt": row["prompt"], **{side: row[side] for side in sides}} for row in spread]
