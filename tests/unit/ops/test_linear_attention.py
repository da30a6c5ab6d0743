"""Decayed linear attention: the loop, the chunks and the step are one function."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.ops.linear_attention import (
    decayed_attention,
    decayed_attention_plain,
    decayed_attention_step,
)

# float64: the same sums in another order
EXACT = {"rtol": 1e-10, "atol": 1e-11}


def drawn(batch, length, kv_heads, groups, key_size, value_size, *, seed, decay=1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    heads = kv_heads * groups
    return [
        normal(batch, length, kv_heads, key_size),
        normal(batch, length, kv_heads, key_size),
        normal(batch, length, heads, value_size),
        -decay * normal(batch, length, heads).exp(),
        normal(batch, heads, key_size, value_size),
    ]


def outputs_and_gradients(function, inputs, **given_):
    inputs = [x.clone().requires_grad_() for x in inputs]
    out, state = function(*inputs, **given_)
    lengths = given_.get("lengths")
    if lengths is not None:  # outputs of padding mean nothing
        out = out * (torch.arange(out.shape[1]) < lengths[:, None])[..., None, None]
    generator = torch.Generator().manual_seed(99)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)).sum()
        for x in (out, state)
    )
    return [out, state, *torch.autograd.grad(loss, inputs)]


def test_the_loop_is_the_sum_over_pairs():
    """o_i = sum_{j <= i} (q_i . k_j) exp(sum of log-decays of j+1 .. i) v_j."""
    q, k, v, log_decay, _ = drawn(2, 7, 2, 3, 4, 5, seed=0)
    found, _ = decayed_attention_plain(q, k, v, log_decay)
    for b in range(2):
        for h in range(6):
            for i in range(7):
                expected = sum(
                    (q[b, i, h // 3] @ k[b, j, h // 3])
                    * log_decay[b, j + 1 : i + 1, h].sum().exp()
                    * v[b, j, h]
                    for j in range(i + 1)
                )
                torch.testing.assert_close(found[b, i, h], expected, **EXACT)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 23),
    chunk=st.integers(1, 9),
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    with_state=st.booleans(),
    constant=st.booleans(),
    kind=st.sampled_from(["plain", "documents", "lengths", "both"]),
    seed=st.integers(0, 1000),
)
def test_chunks_equal_the_loop(length, chunk, kv_heads, groups, with_state, constant, kind, seed):
    *inputs, state = drawn(2, length, kv_heads, groups, 3, 4, seed=seed)
    if constant:
        inputs[3] = inputs[3][:1, :1]
    if with_state:
        inputs.append(state)
    generator = torch.Generator().manual_seed(seed)
    extra = {}
    if kind in ("documents", "both"):
        starts = torch.rand(2, length, generator=generator) < 0.3
        extra["documents"] = starts.long().cumsum(1)
    if kind in ("lengths", "both"):
        extra["lengths"] = torch.randint(0, length + 1, (2,), generator=generator)
    plain = outputs_and_gradients(decayed_attention_plain, inputs, **extra)
    fast = outputs_and_gradients(decayed_attention, inputs, chunk=chunk, **extra)
    for expected, found in zip(plain, fast, strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


def test_steps_equal_the_loop():
    q, k, v, log_decay, state = drawn(2, 6, 2, 2, 3, 4, seed=1)
    expected, last = decayed_attention_plain(q, k, v, log_decay, state)
    for t in range(6):
        out, state = decayed_attention_step(q[:, t], k[:, t], v[:, t], log_decay[:, t], state)
        torch.testing.assert_close(out, expected[:, t], **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


def test_padding_may_hold_anything():
    q, k, v, log_decay, state = drawn(2, 9, 1, 2, 3, 4, seed=2)
    lengths = torch.tensor([9, 4])
    expected, last = decayed_attention(q, k, v, log_decay, state, lengths=lengths, chunk=4)
    for x in (q, k, v, log_decay):
        x[1, 4:] = float("nan")
    out, found = decayed_attention(q, k, v, log_decay, state, lengths=lengths, chunk=4)
    torch.testing.assert_close(found, last, rtol=0, atol=0)
    torch.testing.assert_close(out[1, :4], expected[1, :4], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("decay", "tolerance"),
    # relative to the largest: sums of 300 products, each rounded to 24 bits; and 64 decays of
    # 50 add up to 3200, which is rounded by 1e-4
    [(0.0, 2e-5), (1e-3, 2e-5), (1.0, 2e-5), (50.0, 4e-4), (1e4, 4e-4), (math.inf, 2e-5)],
)
def test_float32_stays_finite_and_near_for_any_decay(decay, tolerance):
    """From none at all to nothing left. Nothing overflows, in outputs or gradients."""
    inputs = drawn(1, 300, 1, 2, 8, 8, seed=3, decay=decay)
    exact = outputs_and_gradients(decayed_attention, inputs)
    found = outputs_and_gradients(decayed_attention, [x.float() for x in inputs])
    for a, b in zip(exact, found, strict=True):
        assert torch.isfinite(b).all()
        assert float((a - b).detach().abs().max()) <= tolerance * float(a.detach().abs().max())


def test_one_token_may_forget_everything_and_the_rest_next_to_nothing():
    """Sums with a large decay in them do not blur the small ones behind it."""
    inputs = drawn(1, 64, 1, 2, 8, 8, seed=5, decay=1e-3)
    inputs[3][:, 9] = -1e6
    exact, _ = decayed_attention_plain(*inputs)
    found, _ = decayed_attention(*(x.float() for x in inputs))
    # 104, where exp is zero in float32, is rounded by 4e-6
    assert float((found - exact).abs().max()) < 1e-5 * float(exact.abs().max())


def test_half_precision_is_summed_in_float32():
    inputs = [x.bfloat16() for x in drawn(1, 80, 1, 1, 8, 8, seed=4, decay=0.01)]
    out, state = decayed_attention(*inputs)
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    exact, expected = decayed_attention(*(x.double() for x in inputs))
    torch.testing.assert_close(state.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(decayed_attention(*inputs)[1], state)
