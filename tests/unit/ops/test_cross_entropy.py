"""Cross-entropy: plain against torch, fused and chunked against plain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.ops.activations import soft_cap
from glassbox.ops.cross_entropy import (
    IGNORE,
    cross_entropy_plain,
    linear_cross_entropy,
    linear_token_log_probs,
    token_log_probs_plain,
)

EXACT = {"rtol": 1e-11, "atol": 1e-11}  # float64: sums in another order


def problem(rows=(3, 5), size=4, vocab=7, ignored=0.3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*rows, size, generator=generator, dtype=dtype)
    weight = torch.randn(vocab, size, generator=generator, dtype=dtype)
    targets = torch.randint(vocab, rows, generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = IGNORE
    weights = torch.rand(rows, generator=generator, dtype=dtype)
    return hidden, weight, targets, weights


def with_gradients(function, *leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    output = function(*leaves)
    upstream = torch.linspace(0.5, 2, output.numel(), dtype=output.dtype).reshape(output.shape)
    (output * upstream).sum().backward()
    return [output, *(leaf.grad for leaf in leaves)]


def same(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or EXACT))


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_plain_against_torch(ignored):
    hidden, weight, targets, _ = problem(ignored=ignored)
    logits = hidden @ weight.T
    same(
        with_gradients(lambda x: cross_entropy_plain(x, targets), logits),
        with_gradients(
            lambda x: F.cross_entropy(
                x.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
            ),
            logits,
        ),
    )


def head_of(hidden, weight, bias, softcap):
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    return logits if softcap is None else soft_cap(logits, softcap)


def test_z_loss_against_torch():
    hidden, weight, targets, weights = problem(ignored=0.0)
    logits = hidden @ weight.T

    def by_torch(x):
        losses = F.cross_entropy(x.flatten(0, 1), targets.flatten(), reduction="none")
        return ((losses + 0.1 * x.flatten(0, 1).logsumexp(-1) ** 2) * weights.flatten()).sum()

    same(
        with_gradients(lambda x: cross_entropy_plain(x, targets, weights, z_loss=0.1), logits),
        with_gradients(by_torch, logits),
    )


@given(
    chunk=st.integers(1, 12),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    weighted=st.booleans(),
    biased=st.booleans(),
    softcap=st.sampled_from([None, 1.5, 30.0]),
    z_loss=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_fused_loss_with_bias_cap_and_z_against_plain(
    chunk, ignored, weighted, biased, softcap, z_loss
):
    hidden, weight, targets, weights = problem((5, 2), ignored=ignored)
    scale = weights if weighted else None
    leaves = [hidden, weight, *([torch.linspace(-1, 1, 7).double()] if biased else [])]
    same(
        with_gradients(
            lambda h, w, b=None: linear_cross_entropy(
                h, w, targets, scale, bias=b, softcap=softcap, z_loss=z_loss, chunk=chunk
            ),
            *leaves,
        ),
        with_gradients(
            lambda h, w, b=None: cross_entropy_plain(
                head_of(h, w, b, softcap), targets, scale, z_loss=z_loss
            ),
            *leaves,
        ),
    )


@given(
    chunk=st.integers(1, 12),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    biased=st.booleans(),
    softcap=st.sampled_from([None, 1.5, 30.0]),
    temperature=st.sampled_from([0.5, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_fused_log_probs_with_bias_and_cap_against_plain(
    chunk, ignored, biased, softcap, temperature
):
    hidden, weight, targets, _ = problem((5, 2), ignored=ignored)
    leaves = [hidden, weight, *([torch.linspace(-1, 1, 7).double()] if biased else [])]
    same(
        with_gradients(
            lambda h, w, b=None: linear_token_log_probs(
                h, w, targets, bias=b, softcap=softcap, temperature=temperature, chunk=chunk
            ),
            *leaves,
        ),
        with_gradients(
            lambda h, w, b=None: token_log_probs_plain(
                head_of(h, w, b, softcap) / temperature, targets
            ),
            *leaves,
        ),
    )


@given(
    rows=st.integers(1, 9),
    chunk=st.integers(1, 12),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_fused_loss_against_plain(rows, chunk, ignored, weighted, seed):
    hidden, weight, targets, weights = problem((rows, 2), ignored=ignored, seed=seed)
    scale = weights if weighted else None
    same(
        with_gradients(
            lambda h, w: linear_cross_entropy(h, w, targets, scale, chunk=chunk), hidden, weight
        ),
        with_gradients(lambda h, w: cross_entropy_plain(h @ w.T, targets, scale), hidden, weight),
    )


@given(
    rows=st.integers(1, 9),
    chunk=st.integers(1, 12),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
)
@settings(max_examples=30, deadline=None)
def test_fused_log_probs_against_plain(rows, chunk, ignored, temperature):
    hidden, weight, targets, _ = problem((rows, 2), ignored=ignored)
    same(
        with_gradients(
            lambda h, w: linear_token_log_probs(
                h, w, targets, temperature=temperature, chunk=chunk
            ),
            hidden,
            weight,
        ),
        with_gradients(
            lambda h, w: token_log_probs_plain(h @ w.T / temperature, targets), hidden, weight
        ),
    )


def test_all_ignored_is_an_exact_zero_with_zero_gradients():
    hidden, weight, targets, _ = problem(ignored=1.0)
    loss, *grads = with_gradients(lambda h, w: linear_cross_entropy(h, w, targets), hidden, weight)
    assert loss.item() == 0
    assert all(float(grad.abs().max()) == 0 for grad in grads)


@pytest.mark.parametrize("function", [linear_cross_entropy, linear_token_log_probs])
def test_a_frozen_side_gets_no_gradient_and_the_other_the_same(function):
    hidden, weight, targets, _ = problem()
    both = with_gradients(lambda h, w: function(h, w, targets), hidden, weight)
    only_hidden = with_gradients(lambda h: function(h, weight, targets), hidden)
    only_weight = with_gradients(lambda w: function(hidden, w, targets), weight)
    assert torch.equal(only_hidden[1], both[1])
    assert torch.equal(only_weight[1], both[2])
    bias = torch.linspace(-1, 1, 7).double()
    all_three = with_gradients(
        lambda h, w, b: function(h, w, targets, bias=b), hidden, weight, bias
    )
    only_bias = with_gradients(lambda b: function(hidden, weight, targets, bias=b), bias)
    assert torch.equal(only_bias[1], all_three[3])


def test_without_grad_mode_no_gradient_is_made(monkeypatch):
    """An evaluation that pays for gradients takes three times as long."""
    made = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: made.append(1) or real(*a, **k))
    hidden, weight, targets, _ = problem()
    weight.requires_grad_()
    hidden.requires_grad_()
    with torch.no_grad():
        quiet = linear_cross_entropy(hidden, weight, targets)
    assert not made
    assert torch.equal(quiet, linear_cross_entropy(hidden, weight, targets).detach())
    assert made


@pytest.mark.parametrize("function", [linear_cross_entropy, linear_token_log_probs])
def test_autocast_multiplies_in_bfloat16_and_sums_in_float32(function):
    hidden, weight, targets, _ = problem((16, 8), size=32, vocab=50, dtype=torch.float32)
    exact = with_gradients(lambda h, w: function(h, w, targets), hidden, weight)

    def cast(h, w):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(h, w, targets)

    rough = with_gradients(cast, hidden, weight)
    assert rough[0].dtype == torch.float32
    assert rough[2].dtype == torch.float32
    assert not torch.equal(rough[0], exact[0])
    for a, b in zip(rough, exact, strict=True):
        # bfloat16 products: 2^-8 of each addend, which partly cancel in the sums
        assert ((a - b).norm() / b.norm()).item() < 0.02


def test_float16_survives_a_loss_scale_beyond_its_range():
    hidden, weight, targets, _ = problem(ignored=0.0)
    half = (0.01 * hidden).half().requires_grad_()
    loss = linear_cross_entropy(half, weight.half(), targets)
    (loss * 2.0**17 * 2.0**-12).backward()  # the scale alone overflows float16, the product not
    assert half.grad is not None
    assert torch.isfinite(half.grad).all()
    scaled = half.grad
    half.grad = None
    loss = linear_cross_entropy(half, weight.half(), targets)
    (loss * 2.0**17).backward()
    # upstream 2^17 itself is no float16: gradients beyond 65504 overflow, the small ones must not
    assert half.grad is not None
    small = scaled.abs() < 1
    torch.testing.assert_close(half.grad[small], scaled[small] * 2**12, rtol=2e-3, atol=1e-2)


def test_large_logits_stay_finite():
    hidden = torch.tensor([[3e4, -3e4]])
    weight = torch.eye(2)
    assert float(linear_cross_entropy(hidden, weight, torch.tensor([0]))) == 0
    assert float(linear_cross_entropy(hidden, weight, torch.tensor([1]))) == 6e4
    assert float(linear_token_log_probs(hidden, weight, torch.tensor([1]))) == -6e4
