"""Figures of one run of the experiment on restaurant reviews (real.py): stars, length, guards and KL of every arm."""

import json
import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import lab
import stars
from real_statistics import SAMPLES
from tokalign.models import loading
from tokalign.models.batch import Batch
from tokalign.models.policy import response_logprobs
from tokalign.models.tokenizer import Tokenizer


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def nats(model: Any, tokenizer: Tokenizer, prompts: Sequence[Any], responses: Sequence[str], dtype: str) -> list[float]:
    """Negative log-probability of each response, in nats, computed in ``dtype``."""
    rows = list(zip(tokenizer.prompts(list(prompts)), tokenizer.responses(list(responses)), strict=True))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][1].ids))
    found = [0.0] * len(rows)
    half = dtype != "float32"
    with torch.inference_mode(), torch.autocast("cpu", getattr(torch, dtype) if half else None, enabled=half):
        for k in range(0, len(order), 32):
            group = order[k : k + 32]
            batch = Batch.of([(rows[i][0], rows[i][1].ids) for i in group], tokenizer.pad_id)
            sums = response_logprobs(model, batch).logprobs.sum(1).tolist()
            for i, logprob in zip(group, sums, strict=True):
                found[i] = -logprob
    return found


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
    compared = _compared(won)
    prompts, first = [row["prompt"] for row in compared], slice(None, None, SAMPLES)
    tokenizer, untouched, start = Tokenizer.load(sft), loading.load_policy(base), loading.load_policy(sft)
    found = {}
    for arm, side in {"sft": "reference", **{name: name for name in lab.stats(won)["candidates"]}}.items():
        texts = [row[side] for row in compared]

        def read(model: Any, texts: list[str] = texts) -> float:
            return sum(nats(model, tokenizer, prompts[first], texts[first], dtype))

        tokens = sum(len(r.ids) for r in tokenizer.responses(texts[first]))
        found[arm] = {
            "stars": [round(star, 2) for star in stars.stars(prompts, texts)],
            "vader": [round(v, 2) for v in stars.vader(texts)],
            "words": [len(text.split()) for text in texts],
            "finished": _finished(won, side),
            **guards(prompts, texts),
            "perplexity": round(math.exp(read(untouched) / tokens), 1),
        }
        if arm in policies:
            kl = (read(start) - read(loading.load_policy(policies[arm]))) / len(texts[first])
            found[arm]["kl"] = round(kl, 2)
    return found


def _compared(won: Path) -> list[dict[str, Any]]:
    """Responses of all sides, in the order of the test prompts."""
    return sorted(_rows(won / "compared.jsonl"), key=lambda row: tuple(map(int, row["id"].split("-")[1:])))


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
    """Some test prompts, evenly spread, with the first response of every side."""
    rows = _compared(won)[::SAMPLES]
    sides = ["reference", *lab.stats(won)["candidates"]]
    spread = [rows[k * len(rows) // n] for k in range(n)]
    return [{"prompt": row["prompt"], **{side: row[side] for side in sides}} for row in spread]
