"""The short convolution: loop, whole sequences, and torch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw
from glassbox.layers.short_conv import ShortConv
from glassbox.ops.short_conv import short_conv, short_conv_plain

EXACT = {"rtol": 1e-12, "atol": 1e-13}  # float64: four products, added in another order


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 12),
    taps=st.integers(2, 5),
    with_state=st.booleans(),
    with_bias=st.booleans(),
    kind=st.sampled_from(["plain", "documents", "lengths", "both"]),
    seed=st.integers(0, 1000),
)
def test_whole_sequences_equal_the_loop(length, taps, with_state, with_bias, kind, seed):
    x, weight = normal(3, length, 2, seed=seed), normal(2, taps, seed=seed + 1)
    bias = normal(2, seed=seed + 2) if with_bias else None
    state = normal(3, taps - 1, 2, seed=seed + 3) if with_state else None
    generator = torch.Generator().manual_seed(seed)
    extra = {}
    if kind in ("documents", "both"):
        extra["documents"] = (torch.rand(3, length, generator=generator) < 0.3).long().cumsum(1)
    if kind in ("lengths", "both"):
        extra["lengths"] = torch.randint(0, length + 1, (3,), generator=generator)
    results = []
    for function in (short_conv_plain, short_conv):
        inputs = [
            None if p is None else p.clone().requires_grad_() for p in (x, weight, bias, state)
        ]
        out, after = function(*inputs, **extra)
        if "lengths" in extra:
            out = out * (torch.arange(length) < extra["lengths"][:, None])[..., None]
        loss = (out * normal(*out.shape, seed=7)).sum() + (
            after * normal(*after.shape, seed=8)
        ).sum()
        grads = torch.autograd.grad(loss, [p for p in inputs if p is not None])
        results.append([out, after, *grads])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


def test_layer_is_torchs_convolution_padded_on_the_left():
    layer = ShortConv(6, 4, bias=True).double()
    layer.initialize(Draw(1.0, 1.0, 1.0, torch.Generator().manual_seed(0)))
    assert 0.3 < float(layer.weight.detach().abs().max()) <= 0.5
    torch.nn.init.normal_(layer.bias)
    x = normal(2, 9, 6)
    theirs = torch.nn.Conv1d(6, 6, 4, groups=6).double()
    theirs.load_state_dict(layer.state_dict())
    expected = F.silu(theirs(F.pad(x.transpose(1, 2), (3, 0))).transpose(1, 2))
    found, state = layer(x, Context(positions=torch.arange(9)[None]))
    torch.testing.assert_close(found, expected, **EXACT)
    assert torch.equal(state, x[:, -3:])
