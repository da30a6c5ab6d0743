"""Optimizers and schedules that a recipe names by path: torch's and the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.optim.groups import ParameterGroup
from glassbox.optim.python_optimizer import PythonOptimizer, TorchOptimizer
from glassbox.optim.schedules.python_schedule import PythonSchedule

SOURCE = """
import torch
from glassbox.optim.base import GroupedOptimizer

class Signum(GroupedOptimizer):
    def __init__(self, groups, *, momentum=0.9):
        super().__init__(groups)
        self.momentum = momentum
        self.buffers = {n: torch.zeros_like(p) for g in groups for n, p in g.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate):
        for group in self.groups:
            for name, parameter in group.parameters.items():
                if parameter.grad is not None:
                    buffer = self.buffers[name].lerp_(parameter.grad, 1 - self.momentum)
                    parameter.add_(buffer.sign(), alpha=-learning_rate * group.lr_scale)

    def state_dict(self):
        return {f"momentum.{name}": buffer for name, buffer in self.buffers.items()}

class Nothing:
    def __init__(self, groups):
        pass

def half(step, total, *, at=1):
    return 1.0 if step < at else 0.5

def wrong(step, total):
    return "much"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def gradients(model: nn.Module, seed: int) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    model(x).square().sum().backward()


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("torch.optim:Adagrad", {}),
        ("torch.optim:RMSprop", {"momentum": 0.5}),
        ("torch.optim:NAdam", {}),
        ("torch.optim:Rprop", {}),
    ],
)
def test_one_of_torchs_steps_as_it_does_by_hand(path: str, options: dict[str, float]) -> None:
    ours, theirs = network(), network()
    optimizer = PythonOptimizer(path=path, options=options).build(ours)
    by_hand = getattr(torch.optim, path.split(":")[1])(theirs.parameters(), lr=1.0, **options)
    for step in range(4):
        for model in (ours, theirs):
            model.zero_grad()
            gradients(model, step)
        optimizer.step(0.1 / (step + 1))
        by_hand.param_groups[0]["lr"] = 0.1 / (step + 1)
        by_hand.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("path", ["torch.optim:Adam", "torch.optim:SGD", "own"])
def test_a_resumed_run_is_an_unbroken_one(path: str, file: Path) -> None:
    path = f"{file}:Signum" if path == "own" else path
    options = {"momentum": 0.8} if "SGD" in path else {}
    spec = PythonOptimizer(path=path, options=options, weight_decay=0.0)
    whole, broken = network(), network()
    first, second = spec.build(whole), spec.build(broken)
    for step in range(6):
        if step == 3:
            saved = {name: tensor.clone() for name, tensor in second.state_dict().items()}
            assert saved
            assert all(isinstance(tensor, Tensor) for tensor in saved.values())
            second = spec.build(broken)
            second.load_state_dict(saved)
        for model, optimizer in ((whole, first), (broken, second)):
            optimizer.zero_grad()
            gradients(model, step)
            optimizer.step(0.01)
    for a, b in zip(whole.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)


def test_decay_falls_on_matrices_alone() -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = PythonOptimizer(path="torch.optim:AdamW", weight_decay=0.5).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.allclose(new, old * (0.95 if old.dim() == 2 else 1.0))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": "FILE:Nothing"}, "without a method 'step'"),
        ({"path": "torch.optim:SGD", "options": {"speed": 3}}, "unexpected keyword argument"),
        ({"path": "torch.optim:SGD", "options": {"lr": 3}}, "train.lr's business"),
        ({"path": "torch.optim:Rprop", "weight_decay": 0.1}, "knows no weight decay"),
        ({"path": "FILE:Signum", "options": {"speed": 3}}, "cannot be called with"),
    ],
)
def test_what_does_not_fit_is_one_line(spec: dict[str, object], message: str, file: Path) -> None:
    spec["path"] = str(spec["path"]).replace("FILE", str(file))
    with pytest.raises(UserError, match=message):
        PythonOptimizer(**spec).build(network())


def test_state_of_another_model_is_refused() -> None:
    optimizer = PythonOptimizer(path="torch.optim:Adam").build(network())
    with pytest.raises(ValueError, match=r"differ in 'exp_avg\.other'"):
        optimizer.load_state_dict({"exp_avg.other": torch.zeros(1)})
    assert isinstance(optimizer, TorchOptimizer)
    assert isinstance(optimizer.groups[0], ParameterGroup)


def test_a_schedule_is_asked_after_the_warm_up(file: Path) -> None:
    schedule = PythonSchedule(path=f"{file}:half", options={"at": 2}, warmup_steps=1)
    assert [schedule.factor(step, 5) for step in range(5)] == [0.5, 1.0, 1.0, 0.5, 0.5]
    with pytest.raises(UserError, match="gave 'much' at step 0"):
        PythonSchedule(path=f"{file}:wrong").factor(0, 5)
