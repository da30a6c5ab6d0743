"""Functions that one calls by hand: any axis, any mask, means; outputs and gradients against torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glassbox.ops.attention import dot_product_attention
from glassbox.ops.cross_entropy import IGNORE, cross_entropy
from glassbox.ops.masked import masked_mean
from glassbox.ops.softmax import entropy, log_softmax, log_sum_exp, softmax

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64: the same formula, sums in another order


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def agree(ours: Callable[..., Tensor], reference: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Outputs and the gradients of all inputs."""
    mine = [x.clone().requires_grad_() for x in inputs]
    other = [x.clone().requires_grad_() for x in inputs]
    a, b = ours(*mine), reference(*other)
    torch.testing.assert_close(a, b, **EXACT)
    upstream = torch.randn_like(a)
    a.backward(upstream)
    b.backward(upstream)
    for x, y in zip(mine, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad, **EXACT)


def double(*shape: int) -> Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_softmax_and_its_kin_over_any_axis(dim: int) -> None:
    x = double(3, 4, 5)
    agree(lambda x: softmax(x, dim), lambda x: torch.softmax(x, dim), x)
    agree(lambda x: log_softmax(x, dim), lambda x: torch.log_softmax(x, dim), x)
    agree(lambda x: log_sum_exp(x, dim), lambda x: torch.logsumexp(x, dim), x)
    agree(
        lambda x: entropy(x, dim),
        lambda x: torch.distributions.Categorical(logits=x.movedim(dim, -1)).entropy(),
        x,
    )


def test_entropy_of_hidden_tokens_and_of_large_logits_is_finite() -> None:
    logits = double(6, 8)
    logits[:, 5:] = -math.inf
    x = logits.clone().requires_grad_()
    entropy(x).sum().backward()
    agree(entropy, lambda x: torch.distributions.Categorical(logits=x).entropy(), logits[:, :5])
    torch.testing.assert_close(entropy(logits), entropy(logits[:, :5]), **EXACT)
    assert x.grad is not None
    assert torch.equal(x.grad[:, 5:], torch.zeros(6, 3, dtype=torch.float64))
    assert bool(x.grad.isfinite().all())
    assert float(entropy(torch.tensor([1e4, 0.0, -1e4]))) == 0.0
    assert entropy(torch.zeros(4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_reduces_as_torch_does(reduction: Any) -> None:
    logits = double(4, 6, 9)
    targets = torch.randint(9, (4, 6))
    targets[1, 2:] = IGNORE
    agree(
        lambda x: cross_entropy(x, targets, reduction=reduction),
        lambda x: F.cross_entropy(x.movedim(-1, 1), targets, reduction=reduction),
        logits,
    )


def test_the_mean_is_that_of_weights_and_nothing_kept_gives_zero() -> None:
    logits, targets, weights = double(4, 6, 9), torch.randint(9, (4, 6)), torch.rand(4, 6).double()
    targets[1, 2:] = IGNORE

    def reference(x: Tensor) -> Tensor:
        losses = F.cross_entropy(x.movedim(-1, 1), targets, reduction="none") * weights
        return losses.sum() / weights[targets != IGNORE].sum()

    agree(lambda x: cross_entropy(x, targets, weights), reference, logits)
    x = logits.clone().requires_grad_()
    nothing = cross_entropy(x, torch.full_like(targets, IGNORE))
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert x.grad is not None
    assert not x.grad.any()
    z = cross_entropy(logits, targets, weights, z_loss=0.1, reduction="none").sum()
    torch.testing.assert_close(
        z, cross_entropy(logits, targets, weights, z_loss=0.1, reduction="sum"), **EXACT
    )


@pytest.mark.parametrize(
    ("targets", "weights", "words"),
    [
        (torch.zeros(5, dtype=torch.long), None, "targets have shape"),
        (torch.zeros(4, dtype=torch.long), torch.ones(4, 1), "weights have shape"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(
    targets: Tensor, weights: Tensor | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        cross_entropy(double(4, 9), targets, weights)


@pytest.mark.parametrize("shape", [(2, 3), (2,), ()])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float", "both"])
def test_attention_with_an_ordinary_mask(shape: tuple[int, ...], kind: str) -> None:
    q, k, v = double(*shape, 5, 8), double(*shape, 7, 8), double(*shape, 7, 6)
    seen = torch.rand(5, 7) < 0.6
    seen[:, 0] = True
    added = torch.randn(5, 7, dtype=torch.float64).masked_fill(~seen, -math.inf)
    causal = torch.ones(5, 7, dtype=torch.bool).tril()
    ours = {"bool": seen, "float": added, "both": seen}.get(kind)
    theirs = {"bool": seen, "float": added, "causal": causal, "both": seen & causal}.get(kind)
    agree(
        lambda *x: dot_product_attention(*x, ours, is_causal=kind in ("causal", "both")),
        lambda *x: F.scaled_dot_product_attention(*x, attn_mask=theirs),
        q, k, v,
    )  # fmt: skip
    scaled = dot_product_attention(q, k, v, scale=0.3)
    torch.testing.assert_close(scaled, F.scaled_dot_product_attention(q, k, v, scale=0.3), **EXACT)


def test_a_mask_of_a_batch_broadcasts_and_a_blind_query_gets_zeros() -> None:
    q, k, v = double(2, 3, 5, 8), double(2, 3, 5, 8), double(2, 3, 5, 8)
    mask = torch.rand(2, 1, 5, 5) < 0.7
    mask[..., 0] = True
    agree(
        lambda *x: dot_product_attention(*x, mask),
        lambda *x: F.scaled_dot_product_attention(*x, attn_mask=mask),
        q, k, v,
    )  # fmt: skip
    mask[0, 0, 2] = False
    x = q.clone().requires_grad_()
    mixed = dot_product_attention(x, k, v, mask)
    mixed.sum().backward()
    assert not mixed[0, :, 2].any()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    with pytest.raises(ValueError, match="give bool"):
        dot_product_attention(q, k, v, mask.long())


@pytest.mark.parametrize("dim", [None, 0, 1, -1, (0, 2)])
def test_masked_mean_is_torchs(dim: Any) -> None:
    x, mask = double(3, 4, 5), torch.rand(3, 4, 5) < 0.6
    mask[0] = True
    mask[:, 0] = True
    agree(
        lambda x: masked_mean(x, mask, dim),
        lambda x: torch.masked.mean(x, dim, mask=mask),
        x,
    )


def test_masked_mean_keeps_out_what_is_hidden() -> None:
    x = torch.tensor([[1.0, math.nan], [math.inf, math.nan]], requires_grad=True)
    mask = torch.tensor([[True, False], [False, False]])
    mean = masked_mean(x, mask, dim=1)
    mean.sum().backward()
    assert mean.tolist() == [1.0, 0.0]
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    column = masked_mean(torch.arange(6.0).view(3, 2), torch.tensor([[1.0], [0.0], [1.0]]), dim=0)
    assert column.tolist() == [2.0, 3.0]
    with pytest.raises(ValueError, match="must broadcast"):
        masked_mean(torch.ones(3, 2), torch.ones(3))
