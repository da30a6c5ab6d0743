"""The forms of operations that the compiler reads, against the plain ones, forwards and backwards."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glassbox.ops import for_compiler
from glassbox.ops.attention import attention_plain, causal_mask, document_mask
from glassbox.ops.cross_entropy import IGNORE, cross_entropy_plain
from glassbox.ops.rotary import _turn_whole, apply_rotary_plain, rotary_frequencies, rotary_tables


def agree(
    ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor, bound: float
) -> None:
    """Outputs and gradients differ by at most `bound` times the norm of the plain one."""
    found = []
    for function in (ours, plain):
        fresh = [x.detach().clone().requires_grad_() for x in inputs]
        result = function(*fresh)
        draw = torch.Generator().manual_seed(1)
        upstream = torch.randn(result.shape, generator=draw).to(result.dtype)
        found.append((result, *torch.autograd.grad(result, fresh, upstream)))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert (one - other).double().norm() <= bound * other.double().norm()


# bfloat16: 8 bits of mantissa; inputs, scores, exponentials and result are each rounded once
BOUNDS = [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("per_head", [False, True])
def test_attention(dtype: torch.dtype, bound: float, kv_heads: int, per_head: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, 9, 8, generator=draw, dtype=torch.float64).to(dtype)
        for heads in (4, kv_heads, kv_heads)
    )
    order = torch.arange(9).unsqueeze(0)
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [0] * 9])
    mask = (causal_mask(order, order) & document_mask(documents, documents)).unsqueeze(1)
    if per_head:
        mask = mask & (torch.rand(2, 4, 9, 9, generator=draw) < 0.7)
    scale = 1 / math.sqrt(8)
    agree(
        lambda q, k, v: for_compiler.attention(q, k, v, mask, scale),
        lambda q, k, v: attention_plain(q, k, v, mask),
        q,
        k,
        v,
        bound=bound,
    )


def test_a_query_that_sees_nothing_gets_zeros() -> None:
    q, k, v = (torch.randn(1, 1, 2, 4, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[[[True, False], [False, False]]]])
    result = for_compiler.attention(q, k, v, mask, 0.5)
    assert result[0, 0, 1].eq(0).all()
    for gradient in torch.autograd.grad(result.sum(), (q, k, v)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_linear(dtype: torch.dtype, bound: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)
        for shape in ((2, 5, 6), (3, 6), (3,))
    )
    agree(for_compiler.linear, F.linear, x, weight, bias, bound=bound)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("largest", [1 << 26, 30])
def test_cross_entropy(
    dtype: torch.dtype, bound: float, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(for_compiler, "LARGEST_LOGITS", largest)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)
        for shape in ((8, 6), (11, 6))
    )
    targets = torch.randint(11, (8,), generator=draw)
    targets[2] = IGNORE
    weights = torch.rand(8, generator=draw)
    index = targets.clamp(min=0)
    counted = weights * (targets != IGNORE)
    agree(
        lambda h, w: for_compiler.linear_cross_entropy(h, w, index, counted),
        lambda h, w: cross_entropy_plain(h @ w.t(), targets, weights),
        hidden,
        weight,
        bound=bound,
    )


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rotary(fraction: float) -> None:
    x = torch.randn(2, 5, 3, 8)
    frequencies = rotary_frequencies(int(8 * fraction), 10000.0)
    cos, sin = (t.unsqueeze(1) for t in rotary_tables(torch.arange(5), frequencies))
    agree(
        lambda x: _turn_whole(x, cos, sin),
        lambda x: apply_rotary_plain(x, cos, sin),
        x,
        bound=1e-6,
    )
