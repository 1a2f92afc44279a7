"""Rows of ``token-rewards`` artifacts, for every command that writes them."""

from collections.abc import Sequence
from typing import Any

from tokalign.artifacts.schemas import Prompt

DIGITS = 6
"""Decimal places of stored rewards and probabilities."""


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
    """Build a row.

    Args:
        key: id and sample number.
        prompt: the prompt.
        response: the scored response.
        tokens: text of each of the T tokens, for display.
        offsets: ``[start, end)`` of each token in the response, in code points.
        rewards: reward of each token.
        scores: mean and sum of the rewards.
        probs: (3, T) probabilities of bad, neutral and good; None for a sequence-level model.
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
