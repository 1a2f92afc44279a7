"""Optimisers and schedules."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Muon):
    """PyTorch's Muon for matrices in the memory of a CPU.

    PyTorch orthogonalises in bfloat16, one matrix after the other; a processor without such arithmetic takes tens of
    times as long for it (``bench/speed/muon_speed.py``). Here it is float32, all matrices of one shape together. State
    and settings are PyTorch's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for (rows, columns), params in alike.items():
                updates = orthogonal(torch.stack([self._momentum(p, group) for p in params]), group)
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))
        return loss

    def _momentum(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        assert p.grad is not None
        buffer: Tensor = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
        buffer.lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(buffer, group["momentum"])


def orthogonal(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """Singular values brought near 1 by the quintic Newton-Schulz iteration.

    Args:
        matrices: (N, rows, columns).
        group: ``ns_coefficients``, ``ns_steps`` and ``eps``, as in ``torch.optim.Muon``.

    Returns:
        (N, rows, columns).
    """
    a, b, c = group["ns_coefficients"]
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
    plain = all(p.device.type == "cpu" and type(p) is nn.Parameter and type(p.data) is Tensor for p in matrices)
    return Composite(
        (Muon if plain else torch.optim.Muon)(matrices, lr=muon_lr, weight_decay=weight_decay),
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
