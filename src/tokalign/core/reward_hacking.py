"""Signs of reward hacking. Pure.

Shapes: B responses, T tokens. ``response_mask`` (B, T) bool, **True = counts**.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

GROWN = 1.5
"""Largest ratio of the mean length to that of the first rollout, or of the latter to the former."""
REPEATED = 0.1
"""Largest increase of the share of repeated n-grams since the first rollout."""
DRIFTED = 0.5
"""Largest KL from the reference, in nats per token."""
TURNED = 3.0
"""Largest drop of the win rate below its best value, in standard errors."""


def repetition(ids: Tensor, response_mask: Tensor, n: int = 4) -> float:
    """Share (0 to 1) of the n-grams that occurred earlier in the same response; 0 if there are no n-grams.

    Args:
        ids: (B, T) token ids.
        response_mask: (B, T) bool, True = counts; padding is on the right.
        n: tokens per n-gram.
    """
    if ids.shape[1] < n:
        return 0.0
    complete = response_mask[:, n - 1 :]
    powers = torch.tensor([1_000_003**k % 2**31 for k in range(n)], device=ids.device)
    codes, order = (ids.unfold(1, n, 1) * powers).sum(-1).masked_fill(~complete, -1).sort(1)
    repeated = (codes[:, 1:] == codes[:, :-1]) & complete.gather(1, order[:, 1:])
    return float(repeated.sum() / complete.sum().clamp(min=1))


def signs(first: Mapping[str, float], now: Mapping[str, float], best_win_rate: float | None) -> dict[str, str]:
    """Detect signs of reward hacking.

    Args:
        first: ``length`` (mean, in tokens) and ``repetition`` of the first rollout.
        now: the same of the current rollout, and its ``kl`` (nats per response). Also ``win_rate`` and
            ``win_rate_error`` (standard error), in percent, if the policy was evaluated.
        best_win_rate: highest win rate so far, in percent; None: not evaluated yet.

    Returns:
        A message for each sign, by name (``length``, ``repetition``, ``kl``, ``win_rate``); empty if there are none.
    """
    found = {}
    if now["length"] > GROWN * first["length"]:
        found["length"] = f"responses have grown from {first['length']:.0f} to {now['length']:.0f} tokens"
    if now["length"] < first["length"] / GROWN:
        found["length"] = f"responses have shrunk from {first['length']:.0f} to {now['length']:.0f} tokens"
    if now["repetition"] > first["repetition"] + REPEATED:
        found["repetition"] = f"{now['repetition']:.0%} of the text repeats itself, {first['repetition']:.0%} at first"
    if now["kl"] > DRIFTED * now["length"]:
        found["kl"] = f"the policy has drifted {now['kl']:.0f} nats a response from where it started"
    if best_win_rate is not None and "win_rate" in now:
        fallen = best_win_rate - now["win_rate"]
        if fallen > TURNED * now["win_rate_error"]:
            found["win_rate"] = f"the win rate has fallen from {best_win_rate:.1f} to {now['win_rate']:.1f} %"
    return found
