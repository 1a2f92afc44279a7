"""Optimisers and schedules."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Composite(torch.optim.Optimizer):
    """Several optimisers as one. Muon takes matrices only, so embeddings, norms and heads go to AdamW.

    ``param_groups`` are the members' own, so a schedule that writes to them reaches the members.
    """

    def __init__(self, *members: torch.optim.Optimizer) -> None:
        self.members = members
        super().__init__([g for m in members for g in m.param_groups], {})
        self.param_groups = [g for m in members for g in m.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every member."""
        loss = None if closure is None else closure()
        for member in self.members:
            member.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of every member."""
        for member in self.members:
            member.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The members' states, in order."""
        return {"members": [m.state_dict() for m in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)
        self.param_groups = [g for m in self.members for g in m.param_groups]


def make_optimizer(
    model: nn.Module, name: str, lr: float, muon_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or Muon for the matrices of the body with AdamW for the rest."""
    adam = {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.95)}
    params = [p for p in model.parameters() if p.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(params, **adam)  # type: ignore[arg-type]
    outer = {
        id(p)
        for key, module in model.named_modules()
        if isinstance(module, nn.Embedding) or key in {"lm_head", "score", "classifier"}
        for p in module.parameters()
    }
    matrices = [p for p in params if p.ndim == 2 and id(p) not in outer]
    rest = [p for p in params if p.ndim != 2 or id(p) in outer]
    return Composite(
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay),
        torch.optim.AdamW(rest, **adam),  # type: ignore[arg-type]
    )


def warmup_then_linear(
    optimizer: torch.optim.Optimizer, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Rise over ``warmup`` of the steps, then fall to zero."""
    rise = max(1, round(steps * warmup))
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / rise, max(0.0, (steps - s) / max(1, steps - rise)))
    )
