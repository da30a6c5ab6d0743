"""Our optimizers behind torch's interface: with torch's schedulers, closures and state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import LlamaShape
from glassbox.optim.adamw import AdamW, AdamWConfig
from glassbox.optim.groups import ParameterGroup, model_groups
from glassbox.optim.muon import MuonConfig
from glassbox.optim.sgd import SgdConfig
from glassbox.optim.torch_interface import TorchInterface


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def groups(model: nn.Module) -> list[ParameterGroup]:
    return model_groups(model, 0.1)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, steps: range
) -> list[Tensor]:
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(5, 6, dtype=torch.float64)).pow(2).sum().backward()
        optimizer.step()
        schedule.step()
    return [p.detach().clone() for p in model.parameters()]


SCHEDULES: list[Callable[[torch.optim.Optimizer], Any]] = [
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12),
    lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, max_lr=0.02, total_steps=13, cycle_momentum=False
    ),
    lambda o: torch.optim.lr_scheduler.LambdaLR(o, [lambda s: 1.0, lambda s: 0.5**s]),
]


@pytest.mark.parametrize("schedule", range(3))
def test_under_a_scheduler_of_torchs_it_is_torchs_adamw(schedule: int) -> None:
    """float64: the formulas differ in order alone, by rounding that ten steps do not enlarge past 1e-10."""
    ours, theirs = module(), module()
    one = TorchInterface(AdamW(groups(ours), betas=(0.9, 0.95)), lr=0.01)
    own = [
        {"params": list(g.parameters.values()), "weight_decay": g.weight_decay}
        for g in groups(theirs)
    ]
    two = torch.optim.AdamW(own, lr=0.01, betas=(0.9, 0.95))
    assert [g["weight_decay"] for g in one.param_groups] == [0.1, 0.0]
    a = train(ours, one, SCHEDULES[schedule](one), range(10))
    b = train(theirs, two, SCHEDULES[schedule](two), range(10))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)
    for x, y in zip(one.param_groups, two.param_groups, strict=True):
        assert x["lr"] == y["lr"]


def test_what_is_written_into_param_groups_counts() -> None:
    ours, theirs = module(), module()
    one = TorchInterface(SgdConfig(momentum=0.9).build(ours), lr=0.01)
    two = torch.optim.SGD([{"params": p} for p in theirs.parameters()], lr=0.01, momentum=0.9)
    for optimizer in (one, two):
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 0.003, 0.2
    idle = [torch.optim.lr_scheduler.ConstantLR(o, 1.0) for o in (one, two)]
    a, b = (
        train(m, o, s, range(5)) for m, o, s in zip((ours, theirs), (one, two), idle, strict=True)
    )
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def test_resumed_from_its_state_it_is_the_unbroken_run_to_the_bit() -> None:
    def made() -> tuple[nn.Module, TorchInterface, Any]:
        model = module()
        optimizer = TorchInterface(AdamWConfig().build(model), lr=0.01)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)

    whole = train(*made(), range(9))
    model, optimizer, schedule = made()
    train(model, optimizer, schedule, range(4))
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    state, times = optimizer.state_dict(), schedule.state_dict()
    model, optimizer, schedule = made()
    model.load_state_dict(kept)
    optimizer.load_state_dict(state)
    schedule.load_state_dict(times)
    for x, y in zip(train(model, optimizer, schedule, range(4, 9)), whole, strict=True):
        assert torch.equal(x, y)


def test_muon_with_its_adamw_keeps_the_ratio_of_rates() -> None:
    shape = LlamaShape(hidden_size=16, num_layers=1, num_heads=2, ffn_size=24, context_length=8)

    def trained(wrap: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = CausalLM(shape.config(32))
        optimizer = MuonConfig().build(model)
        outer = TorchInterface(optimizer, lr=0.02) if wrap else None
        for step in range(3):
            torch.manual_seed(step)
            model.zero_grad()
            tokens = torch.randint(32, (2, 8))
            model.cross_entropy(model.hidden_states(tokens), tokens).backward()
            if outer is None:
                optimizer.step(0.02)
            else:
                outer.step()
        return list(model.parameters())

    for x, y in zip(trained(True), trained(False), strict=True):
        assert torch.equal(x, y)


def test_a_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    model = module()
    optimizer = TorchInterface(AdamWConfig().build(model), lr=0.01)
    before = [p.detach().clone() for p in model.parameters()]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 6, dtype=torch.float64)).pow(2).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) > 0
    assert not torch.equal(before[0], next(model.parameters()))


def test_what_does_not_fit_is_said_and_changes_nothing() -> None:
    model = module()
    optimizer = TorchInterface(AdamWConfig().build(model), lr=0.01)
    with pytest.raises(UserError, match="no parameter group can be added"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    state = optimizer.state_dict()
    state["param_groups"][0]["params"] = ["other.weight"]
    with pytest.raises(ValueError, match=r"differ in '0\.weight'"):
        optimizer.load_state_dict(state)
    with pytest.raises(UserError, match="lr = -1"):
        TorchInterface(AdamWConfig().build(model), lr=-1)
