"""Optimisers and learning rate schedules."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Muon):
    """PyTorch's Muon, faster for matrices on a CPU.

    PyTorch orthogonalises one matrix at a time in bfloat16, which is slow on CPUs without bfloat16 arithmetic (tens of
    times slower in ``bench/speed/muon_speed.py``). This class works in float32 on all matrices of the same shape at
    once. Its state and options are those of ``torch.optim.Muon``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all matrices that have a gradient. Returns the loss of ``closure``, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for (rows, columns), params in by_shape.items():
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
    """Orthogonalise matrices approximately, by the quintic Newton-Schulz iteration of ``torch.optim.Muon``.

    Args:
        matrices: (N, rows, columns).
        group: parameter group with ``ns_coefficients``, ``ns_steps`` and ``eps``.

    Returns:
        (N, rows, columns): the same singular vectors, with singular values near 1.
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
    """Several optimisers that act as one: Muon for matrices, AdamW for embeddings, norms and heads.

    ``param_groups`` are the members' own groups, so a scheduler that changes them also changes the members.
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
        """Load the result of :meth:`state_dict`."""
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)
        self.param_groups = [g for m in self.members for g in m.param_groups]


def make_optimizer(
    model: nn.Module, name: str, lr: float, muon_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make the optimiser of the trainable parameters of ``model``.

    Args:
        model: the model; parameters with ``requires_grad=False`` are left out.
        name: ``adamw``, or ``muon`` for Muon on the matrices of the body and AdamW on the rest.
        lr: learning rate of AdamW.
        muon_lr: learning rate of Muon.
        weight_decay: decoupled weight decay of both.
    """
    adam = {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.95), "fused": True}
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
    on_cpu = all(p.device.type == "cpu" and type(p) is nn.Parameter and type(p.data) is Tensor for p in matrices)
    return Composite(
        (Muon if on_cpu else torch.optim.Muon)(matrices, lr=muon_lr, weight_decay=weight_decay),
        torch.optim.AdamW(rest, **adam),  # type: ignore[arg-type]
    )


def warmup_then_linear(
    optimizer: torch.optim.Optimizer, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over the share ``warmup`` (0 to 1) of ``steps``, then linear decay to 0."""
    warmup_steps = max(1, round(steps * warmup))
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup_steps, max(0.0, (steps - s) / max(1, steps - warmup_steps)))
    )
