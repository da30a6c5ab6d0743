"""The delta rule, with and without forgetting: the loop, the chunks and the step are one function."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.ops.delta_rule import delta_rule, delta_rule_plain, delta_rule_step, l2_norm
from glassbox.ops.linear_attention import decayed_attention_plain

# float64: the same sums in another order, some hundred of them one inside the other
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def drawn(batch, length, kv_heads, groups, key_size, value_size, *, seed, decay=0.3):
    """q, k, v, beta, log_decay, state."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    heads = kv_heads * groups
    return [
        normal(batch, length, kv_heads, key_size),
        l2_norm(normal(batch, length, kv_heads, key_size)),
        normal(batch, length, heads, value_size),
        normal(batch, length, heads).sigmoid(),
        -decay * normal(batch, length, heads).exp(),
        normal(batch, heads, key_size, value_size),
    ]


def outputs_and_gradients(function, inputs, **given_):
    inputs = [None if x is None else x.clone().requires_grad_() for x in inputs]
    out, state = function(*inputs, **given_)
    if "lengths" in given_:  # outputs of padding mean nothing
        out = out * (torch.arange(out.shape[1]) < given_["lengths"][:, None])[..., None, None]
    generator = torch.Generator().manual_seed(99)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)).sum()
        for x in (out, state)
    )
    return [out, state, *torch.autograd.grad(loss, [x for x in inputs if x is not None])]


def test_what_was_written_whole_is_read_back_and_overwritten():
    """With beta = 1 a key gives its last value, whatever it held before and whatever came since."""
    keys = torch.eye(3, dtype=torch.float64)[[0, 1, 0, 2]].view(1, 4, 1, 3)
    values = torch.randn(1, 4, 1, 5, dtype=torch.float64)
    ones = torch.ones(1, 4, 1, dtype=torch.float64)
    _, memory = delta_rule_plain(keys, keys, values, ones)
    torch.testing.assert_close(memory[0, 0], values[0, [2, 1, 3], 0], **EXACT)


def test_orthogonal_keys_of_which_none_returns_make_it_linear_attention():
    q, _, v, beta, log_decay, _ = drawn(1, 6, 1, 1, 6, 4, seed=0)
    k = torch.eye(6, dtype=torch.float64).view(1, 6, 1, 6)
    expected, _ = decayed_attention_plain(q, k, beta.unsqueeze(-1) * v, log_decay)
    found, _ = delta_rule_plain(q, k, v, beta, log_decay)
    torch.testing.assert_close(found, expected, **EXACT)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 23),
    chunk=st.integers(1, 9),
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    with_state=st.booleans(),
    gated=st.booleans(),
    kind=st.sampled_from(["plain", "documents", "lengths", "both"]),
    seed=st.integers(0, 1000),
)
def test_chunks_equal_the_loop(length, chunk, kv_heads, groups, with_state, gated, kind, seed):
    *inputs, state = drawn(2, length, kv_heads, groups, 3, 4, seed=seed)
    if not gated:
        inputs[4] = None
    inputs.append(state if with_state else None)
    generator = torch.Generator().manual_seed(seed)
    extra = {}
    if kind in ("documents", "both"):
        extra["documents"] = (torch.rand(2, length, generator=generator) < 0.3).long().cumsum(1)
    if kind in ("lengths", "both"):
        extra["lengths"] = torch.randint(0, length + 1, (2,), generator=generator)
    plain = outputs_and_gradients(delta_rule_plain, inputs, **extra)
    fast = outputs_and_gradients(delta_rule, inputs, chunk=chunk, **extra)
    for expected, found in zip(plain, fast, strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("gated", [True, False])
def test_steps_equal_the_loop(gated):
    q, k, v, beta, log_decay, state = drawn(2, 6, 2, 2, 3, 4, seed=1)
    log_decay = log_decay if gated else None
    expected, last = delta_rule_plain(q, k, v, beta, log_decay, state)
    for t in range(6):
        now = None if log_decay is None else log_decay[:, t]
        out, state = delta_rule_step(q[:, t], k[:, t], v[:, t], beta[:, t], now, state)
        torch.testing.assert_close(out, expected[:, t], **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


def test_padding_may_hold_anything():
    *inputs, state = drawn(2, 9, 1, 2, 3, 4, seed=2)
    lengths = torch.tensor([9, 4])
    expected, last = delta_rule(*inputs, state, lengths=lengths, chunk=4)
    for x in inputs:
        x[1, 4:] = float("nan")
    out, found = delta_rule(*inputs, state, lengths=lengths, chunk=4)
    torch.testing.assert_close(found, last, rtol=0, atol=0)
    torch.testing.assert_close(out[1, :4], expected[1, :4], rtol=0, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.1, 50.0, 1e4])
def test_float32_stays_finite_and_near_for_any_decay(decay):
    inputs = drawn(1, 300, 1, 2, 8, 8, seed=3, decay=decay)
    exact = outputs_and_gradients(delta_rule, inputs)
    found = outputs_and_gradients(delta_rule, [x.float() for x in inputs])
    for a, b in zip(exact, found, strict=True):
        # relative to the largest: sums of 300 products of 24 bits; and a chunk's sum of decays, at
        # most 64 times 104, is rounded by 4e-4
        assert torch.isfinite(b).all()
        tolerance = 4e-4 if decay > 1 else 2e-5
        assert float((a - b).detach().abs().max()) <= tolerance * float(a.detach().abs().max())


def test_half_precision_is_summed_in_float32():
    inputs = [x.bfloat16() for x in drawn(1, 80, 1, 1, 8, 8, seed=4, decay=0.01)]
    out, state = delta_rule(*inputs)
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    exact, expected = delta_rule(*(x.double() for x in inputs))
    torch.testing.assert_close(state.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(delta_rule(*inputs)[1], state)
