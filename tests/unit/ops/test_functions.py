"""Softmax, activations, norms and rotary positions: against torch, and fast against plain."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.ops.activations import (
    geglu,
    geglu_plain,
    gelu,
    gelu_plain,
    relu2,
    relu2_plain,
    silu,
    silu_plain,
    swiglu,
    swiglu_plain,
)
from glassbox.ops.norms import layer_norm, layer_norm_plain, rms_norm, rms_norm_plain
from glassbox.ops.rotary import (
    apply_rotary,
    apply_rotary_plain,
    rotary_frequencies,
    rotary_tables,
)
from glassbox.ops.softmax import log_softmax, log_sum_exp, softmax

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64: the same formula, sums in another order
FLOATS = st.floats(-80, 80, allow_nan=False, width=32)


def compare(ours, reference, *inputs, **tolerance):
    """Outputs and the gradients of all inputs agree."""
    mine = [x.clone().requires_grad_() for x in inputs]
    other = [x.clone().requires_grad_() for x in inputs]
    a, b = ours(*mine), reference(*other)
    torch.testing.assert_close(a, b, **tolerance)
    upstream = torch.randn_like(a)
    a.backward(upstream)
    b.backward(upstream)
    for x, y in zip(mine, other, strict=True):
        assert x.grad is not None
        torch.testing.assert_close(x.grad, y.grad, **tolerance)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (softmax, lambda x: torch.softmax(x, -1)),
        (log_softmax, lambda x: torch.log_softmax(x, -1)),
        (log_sum_exp, lambda x: torch.logsumexp(x, -1)),
        (gelu_plain, F.gelu),
        (lambda x: gelu_plain(x, tanh=True), lambda x: F.gelu(x, approximate="tanh")),
        (silu_plain, F.silu),
        (gelu, gelu_plain),
        (lambda x: gelu(x, tanh=True), lambda x: gelu_plain(x, tanh=True)),
        (silu, silu_plain),
        (swiglu, lambda x: swiglu_plain(*x.chunk(2, -1))),
        (geglu, lambda x: geglu_plain(*x.chunk(2, -1))),
        (
            lambda x: geglu(x, tanh=False),
            lambda x: F.gelu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
        ),
        (relu2, relu2_plain),
        (relu2_plain, lambda x: F.relu(x) ** 2),
    ],
)
def test_functions_and_gradients(ours, reference):
    compare(ours, reference, 3 * double(4, 5, 8), **EXACT)


@pytest.mark.parametrize(("fast", "plain"), [(swiglu, swiglu_plain), (geglu, geglu_plain)])
def test_gated_products_of_a_strided_input_and_gradient(fast, plain):
    x = double(8, 6).t()
    compare(fast, lambda x: plain(*x.chunk(2, -1)), x, **EXACT)


@given(st.lists(FLOATS, min_size=1, max_size=8), st.floats(-1e4, 1e4))
@settings(max_examples=50, deadline=None)
def test_softmax_is_a_distribution_that_a_shift_does_not_change(row, shift):
    x = torch.tensor(row, dtype=torch.float64)
    p = softmax(x)
    assert abs(float(p.sum()) - 1) < 1e-12
    torch.testing.assert_close(softmax(x + shift), p, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(log_softmax(x).exp(), p, rtol=1e-12, atol=1e-12)


def test_large_logits_keep_their_digits():
    x = torch.tensor([10000.0, 10001.0, 9999.0])
    exact = torch.log_softmax(x.double(), -1).float()
    torch.testing.assert_close(log_softmax(x), exact, rtol=1e-6, atol=1e-6)
    assert torch.equal(softmax(torch.tensor([1e30, 0.0])), torch.tensor([1.0, 0.0]))


def test_a_row_of_minus_infinity():
    x = torch.full((2, 3), -math.inf)
    x[1] = torch.tensor([0.0, -math.inf, 0.0])
    x.requires_grad_()
    p = softmax(x)
    assert p[0].tolist() == [0.0, 0.0, 0.0]
    assert p[1].tolist() == [0.5, 0.0, 0.5]
    assert log_sum_exp(x.detach())[0] == -math.inf
    p[:, 0].sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("value", [-1e4, -100.0, 100.0, 1e4])
def test_silu_far_out_has_finite_values_and_gradients(value):
    for function in (silu_plain, silu):
        x = torch.tensor([value], requires_grad=True)
        y = function(x)
        y.sum().backward()
        assert x.grad is not None
        assert torch.isfinite(y).all()
        assert abs(float(x.grad) - (value > 0)) < 1e-6


def test_norms_plain_against_torch():
    x, w, b = double(3, 4, 6), double(6), double(6)
    compare(
        lambda x, w, b: layer_norm_plain(x, w, b, 1e-5),
        lambda x, w, b: F.layer_norm(x, (6,), w, b, 1e-5),
        x, w, b, **EXACT,
    )  # fmt: skip
    compare(
        lambda x, w: rms_norm_plain(x, w, 1e-6),
        lambda x, w: F.rms_norm(x, (6,), w, 1e-6),
        x,
        w,
        **EXACT,
    )


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_norms_fast_against_plain(shape):
    x, w, b = double(*shape), double(5), double(5)
    for offset in (False, True):
        compare(
            lambda x, w, offset=offset: rms_norm(x, w, 1e-5, offset=offset),
            lambda x, w, offset=offset: rms_norm_plain(x, w, 1e-5, offset=offset),
            x, w, **EXACT,
        )  # fmt: skip
    for bias in (b, None):
        compare(
            lambda x, w, bias=bias: layer_norm(x, w, bias, 1e-5),
            lambda x, w, bias=bias: layer_norm_plain(x, w, bias, 1e-5),
            x, w, **EXACT,
        )  # fmt: skip


def test_rms_norm_of_strided_inputs_and_of_zeros():
    compare(
        lambda x, w: rms_norm(x.transpose(0, 1), w, 1e-5),
        lambda x, w: rms_norm_plain(x.transpose(0, 1), w, 1e-5),
        double(3, 4, 6), double(6), **EXACT,
    )  # fmt: skip
    zeros = torch.zeros(2, 4, requires_grad=True)
    rms_norm(zeros, torch.ones(4), 1e-5).sum().backward()
    assert zeros.grad is not None
    assert torch.isfinite(zeros.grad).all()


@pytest.mark.parametrize("norm", [rms_norm, rms_norm_plain])
def test_rms_norm_in_bfloat16_keeps_statistics_in_float32(norm):
    x = 100 + torch.randn(4, 256)
    exact = rms_norm_plain(x.bfloat16().float(), torch.ones(256), 1e-5)
    result = norm(x.bfloat16(), torch.ones(256), 1e-5)
    assert result.dtype == torch.bfloat16
    # one rounding to 8 bits of mantissa: 2^-8 relative
    torch.testing.assert_close(result.float(), exact, rtol=2**-8, atol=0)


def test_one_plus_w_keeps_its_digits_in_bfloat16():
    """1 + 2^-9 is no bfloat16 number: added before widening, the weight would be lost."""
    x, w = torch.randn(4, 64).bfloat16(), torch.full((64,), 2.0**-9).bfloat16()
    exact = rms_norm_plain(x.float(), 1 + w.float(), 1e-6).bfloat16()
    for norm in (rms_norm, rms_norm_plain):
        assert torch.equal(norm(x, w, 1e-6, offset=True), exact)
        assert not torch.equal(norm(x, torch.zeros_like(w), 1e-6, offset=True), exact)


def test_fast_functions_refuse_a_second_derivative():
    """They would be wrong in silence: their backward passes are not recorded."""
    cos, sin = rotary_tables(torch.arange(3), rotary_frequencies(4, 10.0))
    for function in (
        swiglu,
        geglu,
        relu2,
        lambda x: rms_norm(x, torch.ones(4), 1e-5),
        lambda x: apply_rotary(x, cos, sin),
    ):
        x = torch.randn(3, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(function(x).pow(2).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("rotary_dim", [8, 6, 2])
def test_rotary_fast_against_plain_and_partial_heads(layout, rotary_dim):
    tables = rotary_tables(torch.arange(5), rotary_frequencies(rotary_dim, 100.0))
    cos, sin = (table.double()[None, :, None] for table in tables)  # (1, T, 1, R)
    x = double(2, 5, 3, 8)
    compare(
        lambda x: apply_rotary(x, cos, sin, layout=layout),
        lambda x: apply_rotary_plain(x, cos, sin, layout=layout),
        x, **EXACT,
    )  # fmt: skip
    turned = apply_rotary(x, cos, sin, layout=layout)
    assert torch.equal(turned[..., rotary_dim:], x[..., rotary_dim:])
    assert torch.equal(turned[:, 0], x[:, 0])  # position 0 is not turned
    assert not torch.allclose(turned[:, 1], x[:, 1])
    with torch.no_grad():
        assert torch.equal(apply_rotary(x, cos, sin, layout=layout), turned)  # few rows
        many = x.repeat(200, 1, 1, 1)
        again = apply_rotary(many, cos, sin, layout=layout)
    assert torch.equal(again[-2:], turned)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@given(
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(0, 500),
    st.sampled_from([100.0, 10000.0, 5e5]),
)
@settings(max_examples=30, deadline=None)
def test_rotary_scores_depend_on_distance_alone(layout, first, second, shift, base):
    generator = torch.Generator().manual_seed(first)
    q, k = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    frequencies = rotary_frequencies(8, base)

    def score(query_position: int, key_position: int) -> float:
        tables = rotary_tables(torch.tensor([query_position, key_position]), frequencies)
        cos, sin = (table.double() for table in tables)
        a = apply_rotary_plain(q, cos[0], sin[0], layout=layout)
        b = apply_rotary_plain(k, cos[1], sin[1], layout=layout)
        return float(a @ b)

    # the angles are float32: 1000 * 2^-24 rad each, on vectors of norm about 3
    assert abs(score(first, second) - score(first + shift, second + shift)) < 5e-3


def test_rotary_is_the_papers_rotation_matrix():
    """RoFormer, equation 14, written out for one pair: channels (0, 1), or (0, Dh/2) in half layout."""
    angle = 7 * 1.0  # position 7, frequency base^0
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    cos, sin = rotary_tables(torch.tensor(7), rotary_frequencies(4, 10000.0))
    x = torch.randn(4)
    interleaved = apply_rotary(x, cos, sin, layout="interleaved")
    torch.testing.assert_close(interleaved[:2], rotation @ x[:2])
    half = apply_rotary(x, cos, sin, layout="half")
    torch.testing.assert_close(half[[0, 2]], rotation @ x[[0, 2]])


def test_rotary_layouts_differ_by_a_permutation_of_channels():
    cos, sin = rotary_tables(torch.arange(6), rotary_frequencies(8, 50.0))
    x = torch.randn(6, 8)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # interleaved channel at each place of half
    half = apply_rotary(x[:, order], cos, sin, layout="half")
    assert torch.equal(half, apply_rotary(x, cos, sin, layout="interleaved")[:, order])


def test_rotary_frequencies_and_unknown_layout():
    frequencies = rotary_frequencies(4, 100.0)
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 0.1]))
    cos, sin = rotary_tables(torch.arange(2), frequencies)
    for function in (apply_rotary, apply_rotary_plain):
        with pytest.raises(ValueError, match="'halves'"):
            function(torch.randn(2, 4), cos, sin, layout="halves")


def test_rotary_of_bfloat16_turns_in_float32():
    cos, sin = rotary_tables(torch.arange(4000, 4004), rotary_frequencies(8, 10000.0))
    x = torch.randn(4, 8).bfloat16()
    exact = apply_rotary_plain(x.float(), cos, sin)
    for function in (apply_rotary, apply_rotary_plain):
        turned = function(x, cos, sin)
        assert turned.dtype == torch.bfloat16
        torch.testing.assert_close(turned, exact.bfloat16())  # one rounding, at the end
