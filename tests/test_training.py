"""Supervised training: losses fall, trouble is named, optimisers do what they say."""

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokalign.artifacts.metrics import MetricsLog
from tokalign.artifacts.workspace import Workspace
from tokalign.config.options import SupervisedOptions
from tokalign.errors import TokalignError
from tokalign.training.losses import ModelLoss
from tokalign.training.optim import Composite, Muon, make_optimizer, orthogonal, warmup_then_linear
from tokalign.training.supervised import fit, gathered


class Line(torch.nn.Module):
    """y = w·x, as the Trainer wants a model."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(4, 4))
        self.b = torch.nn.Parameter(torch.zeros(4))
        self.device = torch.device("cpu")

    def save_pretrained(self, folder: str, state_dict: Any = None) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(state_dict or self.state_dict(), Path(folder) / "model.safetensors")


def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": [e["id"] for e in batch], "x": torch.stack([e["x"] for e in batch])}


class LineLoss(ModelLoss):
    """Squared error from y = 2x + 1."""

    def forward(self, inputs: dict[str, Any], total: float) -> torch.Tensor:
        x = inputs["x"]
        return ((x @ self.model.w + self.model.b - (2 * x + 1)) ** 2).mean(1).sum() / total


def examples(n: int = 40) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"id": f"r{i}", "x": torch.randn(4, generator=generator)} for i in range(n)]


def settings(**options: Any) -> SupervisedOptions:
    defaults: dict[str, Any] = {"batch_size": 8, "lr": 0.05, "epochs": 2.0, "quiet": True}
    return SupervisedOptions(**{**defaults, **options})


def train(folder: Path, **options: Any) -> tuple[Line, dict[str, Any]]:
    model = Line()
    fitted, trained = fit(
        "train", LineLoss(model), examples(), [1] * 40, [1] * 40, collate, settings(**options), Workspace.at(folder)
    )
    assert trained is model
    return model, fitted


def test_epochs_become_steps(tmp_path: Path) -> None:
    _, fitted = train(tmp_path, epochs=2.0)
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == list(range(1, 11))
    assert fitted == {"steps": 10, "final_loss": logged[-1]["loss"]}


def test_steps_win_over_epochs(tmp_path: Path) -> None:
    assert train(tmp_path, steps=3)[1]["steps"] == 3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_line_is_learnt(tmp_path: Path, optimizer: str) -> None:
    model, _ = train(tmp_path, steps=300, optimizer=optimizer)
    x = torch.randn(64, 4)
    assert LineLoss(model)({"x": x}, 64).item() < 0.05


def test_microbatches_give_the_same_weights(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", steps=5, microbatch=0)
    split, _ = train(tmp_path / "split", steps=5, microbatch=2)
    assert torch.allclose(whole.w, split.w, atol=1e-6)
    assert whole.w.abs().max() > 0.05


def test_a_loss_that_is_not_finite_names_step_and_rows(tmp_path: Path) -> None:
    class Broken(LineLoss):
        def forward(self, inputs: dict[str, Any], total: float) -> torch.Tensor:
            return super().forward(inputs, total) * (float("nan") if "r7" in inputs["id"] else 1.0)

    one = [1] * 8
    with pytest.raises(TokalignError, match=r"nan at step 1.*r7"):
        fit("train", Broken(Line()), examples(8), one, one, collate, settings(), Workspace.at(tmp_path))


def test_muon_takes_only_inner_matrices(policy: Any) -> None:
    optimizer = make_optimizer(policy, "muon", lr=1e-3, muon_lr=0.02, weight_decay=0.0)
    assert isinstance(optimizer, Composite)
    muon, adam = optimizer.members
    by_muon = {id(p) for g in muon.param_groups for p in g["params"]}
    by_adam = {id(p) for g in adam.param_groups for p in g["params"]}
    assert by_muon | by_adam == {id(p) for p in policy.parameters()}
    assert not by_muon & by_adam
    assert id(policy.get_input_embeddings().weight) in by_adam
    assert all(p.ndim == 2 for g in muon.param_groups for p in g["params"])


def test_our_muon_steps_as_pytorchs() -> None:
    """Up to the bfloat16 of PyTorch's; a matrix without a gradient is left alone by both."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (24, 8), (8, 24), (8, 8), (5, 5)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1}
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes[:-1]]
        for params, optimizer in zip((ours, theirs), optimizers, strict=True):
            for p, gradient in zip(params, gradients, strict=False):
                p.grad = gradient.clone()
            optimizer.step()
    for w, a, b in zip(start, ours, theirs, strict=True):
        assert (a - b).abs().max() < 0.02 * max(1.0, (b - w).abs().max().item())
    assert torch.equal(ours[-1], start[-1])
    assert [s.keys() for s in optimizers[0].state.values()] == [s.keys() for s in optimizers[1].state.values()]


def test_orthogonal_is_the_iteration_in_double_precision() -> None:
    settings = {"ns_coefficients": (3.4445, -4.775, 2.0315), "ns_steps": 5, "eps": 1e-7}
    matrices = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    for given, found in zip(matrices, orthogonal(matrices, settings), strict=True):
        u, sizes, v = np.linalg.svd(given.double().numpy(), full_matrices=False)
        sizes = sizes / np.sqrt((sizes**2).sum())
        for _ in range(5):
            sizes = 3.4445 * sizes - 4.775 * sizes**3 + 2.0315 * sizes**5
        assert np.abs(u @ np.diag(sizes) @ v - found.numpy()).max() < 1e-4
        assert sizes.min() > 0.3 and sizes.max() < 1.5


def test_composite_state_survives_saving(policy: Any) -> None:
    def step(optimizer: torch.optim.Optimizer) -> None:
        for p in policy.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()

    first = make_optimizer(policy, "muon", 1e-3, 0.02, 0.0)
    step(first)
    weights = {k: v.clone() for k, v in policy.state_dict().items()}
    state = copy.deepcopy(first.state_dict())
    step(first)
    expected = [p.clone() for p in policy.parameters()]
    policy.load_state_dict(weights)
    second = make_optimizer(policy, "muon", 1e-3, 0.02, 0.0)
    second.load_state_dict(state)
    step(second)
    assert all(torch.equal(a, b) for a, b in zip(expected, policy.parameters(), strict=True))


def test_schedule_rises_then_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_then_linear(optimizer, steps=10, warmup=0.2)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert optimizer.param_groups[0]["lr"] == 0


def test_sharded_weights_are_put_together_by_the_first_process(tmp_path: Path, policy: Any) -> None:
    class Sharded:
        """Stands for the trainer, whose own task it is to gather."""

        def save_model(self, folder: str) -> None:
            policy.save_pretrained(folder)

    whole = gathered(Sharded(), policy, tmp_path / "whole")
    assert type(whole) is type(policy)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), policy.parameters(), strict=True))


def test_the_log_of_an_earlier_run_survives_a_kill_before_the_next_line(tmp_path: Path) -> None:
    from tokalign.artifacts.metrics import MetricsLog

    with MetricsLog(Workspace.at(tmp_path)) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 1.0})
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()[:2]
    MetricsLog(Workspace.at(tmp_path), after=2)  # and now the process is killed: nothing is closed
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == before


def test_a_run_that_goes_on_keeps_its_place_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, Any]] = []

    class Run:
        def log(self, numbers: dict[str, float], step: int) -> None: ...

        def finish(self) -> None: ...

    def init(**options: Any) -> Run:
        begun.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for after in (0, 3, 0):
        with MetricsLog(Workspace.at(tmp_path), "wandb", after=after) as log:
            log.write(after + 1, {"loss": 1.0})
    first, second, anew = (options["id"] for options in begun)
    assert first == second != anew
    assert {options["resume"] for options in begun} == {"allow"}
