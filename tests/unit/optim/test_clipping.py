"""Clipping by global norm, by parameter and by a running quantile."""

from __future__ import annotations

import json
import typing

import numpy as np
import pytest
import torch
from torch import nn

from glassbox.optim.clipping import AdaptiveClip, Clip, GlobalClip, ParameterClip, global_norm
from glassbox.training.config import TrainConfig

SHAPES = ((3, 4), (5,), (2, 2, 2))


def gradients(step: int, scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [scale * torch.randn(shape, generator=generator).double() for shape in SHAPES]


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6])
def test_each_parameter_by_itself_is_torchs(max_norm: float) -> None:
    ours, theirs = gradients(0), gradients(0)
    before = global_norm(ours)
    assert torch.equal(ParameterClip(max_norm=max_norm).build().clip_(ours), before)
    for mine, other in zip(ours, theirs, strict=True):
        parameter = nn.Parameter(torch.zeros_like(other))
        parameter.grad = other
        nn.utils.clip_grad_norm_([parameter], max_norm)
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=0)


def test_by_global_norm_is_torchs() -> None:
    ours, theirs = gradients(0), gradients(0)
    GlobalClip(max_norm=0.7).build().clip_(ours)
    parameters = [nn.Parameter(torch.zeros_like(other)) for other in theirs]
    for parameter, other in zip(parameters, theirs, strict=True):
        parameter.grad = other
    nn.utils.clip_grad_norm_(parameters, 0.7)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=0)


def test_a_running_quantile_is_autoclips_loop() -> None:
    """history.append(norm); clip_grad_norm_(parameters, np.percentile(history, p))."""
    clipper = AdaptiveClip(quantile=0.3, window=8).build()
    history: list[float] = []
    for step in range(20):
        ours, theirs = gradients(step, 1 + step % 5), gradients(step, 1 + step % 5)
        parameters = [nn.Parameter(torch.zeros_like(other)) for other in theirs]
        for parameter, other in zip(parameters, theirs, strict=True):
            parameter.grad = other
        history.append(float(global_norm(theirs)))
        nn.utils.clip_grad_norm_(parameters, float(np.percentile(history[-8:], 30)))
        clipper.clip_(ours)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=0)


def test_a_norm_that_is_not_finite_is_not_remembered() -> None:
    clipper = AdaptiveClip().build()
    clipper.clip_(gradients(0))
    before = clipper.state_dict()
    spoiled = gradients(1)
    spoiled[0][0, 0] = torch.nan
    assert clipper.clip_(spoiled).isnan()
    assert clipper.state_dict() == before


@pytest.mark.parametrize("spec", [k() for k in typing.get_args(typing.get_args(Clip)[0])])
def test_a_clipper_goes_on_from_its_state(spec: typing.Any) -> None:
    one = spec.build()
    for step in range(5):
        one.clip_(gradients(step))
    two = spec.build()
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for step in range(5, 8):
        a, b = gradients(step, 3.0), gradients(step, 3.0)
        one.clip_(a)
        two.clip_(b)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert float(one.clip_([])) == 0.0


def test_the_key_of_before_still_clips_by_global_norm() -> None:
    found = [TrainConfig(steps=2, lr=0.1, **keys).clipper() for keys in (
        {"max_grad_norm": 0.3}, {"max_grad_norm": None}, {"clip": ParameterClip(max_norm=0.2)},
    )]  # fmt: skip
    for clipper, expected in zip(
        found,
        (GlobalClip(max_norm=0.3).build(), None, ParameterClip(max_norm=0.2).build()),
        strict=True,
    ):
        ours, theirs = gradients(3), gradients(3)
        clipper.clip_(ours)
        if expected is not None:
            expected.clip_(theirs)
        assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "spec", [GlobalClip(max_norm=0.7), ParameterClip(max_norm=0.3), AdaptiveClip(quantile=0.5)]
)
def test_factors_from_norms_clip_as_gradients_do(spec: typing.Any) -> None:
    """What sharded gradients are clipped by; three steps, since one kind has a history."""
    whole, parts = spec.build(), spec.build()
    torch.manual_seed(0)
    for scale in (1.0, 0.1, 3.0):
        gradients = [scale * torch.randn(4, 3), scale * torch.randn(5)]
        copies = [g.clone() for g in gradients]
        norm = whole.clip_(copies)
        found, factors = parts.factors(torch.stack([g.norm() for g in gradients]))
        assert torch.allclose(found, norm)
        for gradient, factor, copied in zip(gradients, factors, copies, strict=True):
            assert torch.allclose(gradient * factor, copied)
