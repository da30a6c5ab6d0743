"""AdamW, clipping and schedules against torch's own."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from glassbox.optim.adamw import AdamW
from glassbox.optim.clipping import clip_by_global_norm_, global_norm
from glassbox.optim.groups import ParameterGroup, decay_groups
from glassbox.optim.schedules.constant import Constant
from glassbox.optim.schedules.warmup_cosine import WarmupCosine
from glassbox.optim.schedules.warmup_linear import WarmupLinear

# A step's rounding errors are relative to the weight and to the step of about lr; they add up like
# a random walk over the steps, and stay far below steps * eps of the type.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}


def model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 11), nn.LayerNorm(11), nn.Tanh(), nn.Linear(11, 3))
    return net.to(dtype)


def gradients(net: nn.Module, step: int) -> None:
    """Gradients of wide range, tiny and zero ones among them."""
    generator = torch.Generator().manual_seed(step)
    for parameter in net.parameters():
        scale = 10.0 ** torch.randint(-9, 3, parameter.shape, generator=generator)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = (noise * scale * (noise.abs() > 0.1)).to(parameter.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("foreach", [False, True])
def test_two_hundred_steps_are_torch_s(foreach: bool, dtype: torch.dtype) -> None:
    ours, theirs = model(dtype), model(dtype)
    optimizer = AdamW(
        decay_groups(ours.named_parameters(), 0.1), betas=(0.9, 0.95), eps=1e-8, foreach=foreach
    )
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        eps=1e-8,
        foreach=False,
    )
    for step in range(200):
        lr = 0.01 * (1 + math.sin(step))
        gradients(ours, step)
        gradients(theirs, step)
        for group in reference.param_groups:
            group["lr"] = lr
        optimizer.step(lr)
        reference.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        state = reference.state[other]
        for key, kept in (("exp_avg", optimizer.first), ("exp_avg_sq", optimizer.second)):
            torch.testing.assert_close(kept[name], state[key], rtol=1e-4, atol=TOLERANCE[dtype])
        assert optimizer.steps[name] == 200


def test_plain_and_foreach_agree_where_parameters_miss_steps() -> None:
    nets = [model(torch.float64), model(torch.float64)]
    optimizers = [
        AdamW(decay_groups(net.named_parameters(), 0.1), foreach=foreach)
        for net, foreach in zip(nets, (False, True), strict=True)
    ]
    for step in range(30):
        for net, optimizer in zip(nets, optimizers, strict=True):
            gradients(net, step)
            for index, parameter in enumerate(net.parameters()):
                if step % (index + 1):
                    parameter.grad = None  # every parameter counts steps of its own
            optimizer.step(0.01)
    assert optimizers[0].steps == optimizers[1].steps
    assert len(set(optimizers[0].steps.values())) > 3
    for mine, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("foreach", [False, True])
def test_the_first_step_is_the_paper_s(foreach: bool) -> None:
    weight = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    weight.grad = torch.tensor([0.5, -4.0], dtype=torch.float64)
    group = ParameterGroup({"w": weight}, weight_decay=0.1, lr_scale=0.5)
    AdamW([group], eps=1e-3, foreach=foreach).step(0.2)
    # m^ = g, v^ = g^2: w (1 - lr decay) - lr g / (|g| + eps), lr = 0.2 * 0.5
    expected = [2 * 0.99 - 0.1 * 0.5 / 0.501, -3 * 0.99 + 0.1 * 4 / 4.001]
    torch.testing.assert_close(weight.detach(), torch.tensor(expected, dtype=torch.float64))


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), min_size=1, max_size=4
    ),
    st.floats(1e-3, 1e3),
)
def test_clipping_is_torch_s(values: list[list[float]], max_norm: float) -> None:
    ours = [torch.tensor(row) for row in values]
    parameters = [nn.Parameter(torch.zeros(len(row))) for row in values]
    for parameter, row in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(row)
    norm = clip_by_global_norm_(ours, max_norm)
    reference = nn.utils.clip_grad_norm_(parameters, max_norm)
    torch.testing.assert_close(norm, reference)
    for mine, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(mine, parameter.grad)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_torch_s_too(bad: float) -> None:
    ours = [torch.tensor([1.0, bad]), torch.tensor([2.0])]
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in ours]
    for parameter, gradient in zip(parameters, ours, strict=True):
        parameter.grad = gradient.clone()
    norm = clip_by_global_norm_(ours, 1.0)
    reference = nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.testing.assert_close(norm, reference, equal_nan=True)
    assert not math.isfinite(norm)
    for mine, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(mine, parameter.grad, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_norm_is_taken_in_float32_or_wider(dtype: torch.dtype) -> None:
    parts: list[Tensor] = [torch.randn(1000, dtype=torch.float64).to(dtype) for _ in range(3)]
    exact = float(torch.cat(parts).double().norm())
    norm = global_norm(parts)
    assert norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert abs(float(norm) - exact) <= exact * (1e-14 if dtype == torch.float64 else 1e-6)
    assert float(global_norm([])) == 0.0
    assert float(clip_by_global_norm_([], 1.0)) == 0.0


def rates(scheduler_of: object, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_of(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_is_torch_s_after_the_warm_up() -> None:
    def reference(optimizer: torch.optim.Optimizer) -> object:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.1)

    schedule = WarmupCosine(warmup_steps=10, final_ratio=0.1)
    ours = [schedule.factor(step, 50) for step in range(10, 50)]
    assert ours == pytest.approx(rates(reference, 40), rel=1e-9)


def test_linear_is_torch_s_after_the_warm_up() -> None:
    def reference(optimizer: torch.optim.Optimizer) -> object:
        return torch.optim.lr_scheduler.LinearLR(
            optimizer, start_factor=1.0, end_factor=0.25, total_iters=40
        )

    schedule = WarmupLinear(warmup_steps=10, final_ratio=0.25)
    ours = [schedule.factor(step, 50) for step in range(10, 50)]
    assert ours == pytest.approx(rates(reference, 40), rel=1e-9)


@given(
    st.sampled_from(["cosine", "linear", "constant"]),
    st.integers(0, 30),
    st.integers(1, 100),
    st.floats(0, 1),
)
def test_schedules_rise_to_one_and_fall_to_the_ratio(
    kind: str, warmup: int, after: int, ratio: float
) -> None:
    schedule = {
        "cosine": WarmupCosine(warmup_steps=warmup, final_ratio=ratio),
        "linear": WarmupLinear(warmup_steps=warmup, final_ratio=ratio),
        "constant": Constant(warmup_steps=warmup),
    }[kind]
    total = warmup + after
    factors = [schedule.factor(step, total) for step in range(total + 5)]
    assert factors[:warmup] == [(step + 1) / (warmup + 1) for step in range(warmup)]
    assert factors[warmup] == pytest.approx(1.0)
    falling = factors[warmup:]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(falling))
    assert factors[total] == pytest.approx(1.0 if kind == "constant" else ratio)
    assert all(factor > 0 for factor in factors[:total])
