"""Rows of ``token-rewards``: made here alone, whoever scores."""

from collections.abc import Sequence
from typing import Any

from tokalign.artifacts.schemas import Prompt

DIGITS = 6
"""Places after the point that are kept."""


def token_rewards_row(
    key: tuple[str, int],
    prompt: Prompt,
    response: str,
    tokens: Sequence[str],
    offsets: Sequence[tuple[int, int]],
    rewards: Sequence[float],
    scores: tuple[float, float],
    probs: Sequence[Sequence[float]] | None = None,
) -> dict[str, Any]:
    """One row.

    Args:
        key: id and sample.
        prompt: what was asked.
        response: what is scored.
        tokens: T of them, for people to read.
        offsets: ``[start, end)`` of each in the response.
        rewards: one for each.
        scores: mean and sum of the response.
        probs: (3, T) of bad, neutral and good; None where there are none.
    """
    bad, neutral, good = ([round(p, DIGITS) for p in row] for row in probs) if probs is not None else (None,) * 3
    return {
        "id": key[0],
        "sample": key[1],
        "prompt": prompt,
        "response": response,
        "tokens": list(tokens),
        "offsets": offsets,
        "p_bad": bad,
        "p_neutral": neutral,
        "p_good": good,
        "reward": [round(r, DIGITS) for r in rewards],
        "score_mean": scores[0],
        "score_sum": scores[1],
    }
