"""Expert products: plain, with every expert on every token, and fast, with each expert on its own
tokens.

An expert is a perceptron of two matrices, down(activate(up x)). The matrices of all experts are
stacked: `up` (E, M, D), where M = 2F for gated activations, gate rows first; `down` (E, D, F).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

Activate = Callable[[Tensor], Tensor]


def experts_plain(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N K"],
    gates: Float[Tensor, "N K"],
    up: Float[Tensor, "E M D"],
    down: Float[Tensor, "E D F"],
    activate: Activate,
    *,
    up_bias: Float[Tensor, "E M"] | None = None,
    down_bias: Float[Tensor, "E D"] | None = None,
    kept: Bool[Tensor, "#N #K"] | None = None,
) -> Float[Tensor, "N D"]:
    """sum_k gate_k * expert_k(x), with every expert computed on every token and masked.

    Pairs that are not `kept` contribute zero. Tested against: transformers' Mixtral and gpt-oss
    experts.
    """
    if kept is not None:
        gates = gates * kept
    result = torch.zeros_like(x)
    for expert in range(len(up)):
        weight = (gates * (experts == expert)).sum(-1, keepdim=True).to(x.dtype)  # (N, 1)
        middle = x @ up[expert].T
        if up_bias is not None:
            middle = middle + up_bias[expert]
        output = activate(middle) @ down[expert].T
        if down_bias is not None:
            output = output + down_bias[expert]
        result = result + weight * output
    return result


def experts_grouped(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N K"],
    gates: Float[Tensor, "N K"],
    up: Float[Tensor, "E M D"],
    down: Float[Tensor, "E D F"],
    activate: Activate,
    *,
    up_bias: Float[Tensor, "E M"] | None = None,
    down_bias: Float[Tensor, "E D"] | None = None,
    kept: Bool[Tensor, "#N #K"] | None = None,
) -> Float[Tensor, "N D"]:
    """`experts_plain` by dispatch: (token, expert) pairs are sorted by expert, and each expert's
    matrices are applied to its own tokens.

    N K products of one token with one expert, whatever E is; experts that no token selected are not
    read, so that decoding one token reads the weights of K experts. First derivatives only.
    Tested against: `experts_plain`, outputs and gradients.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, up, down = x.to(dtype), up.to(dtype), down.to(dtype)
    top_k = experts.shape[1]
    owner = experts.reshape(-1)  # (N K,)
    if kept is not None:
        owner = torch.where(kept.expand_as(experts).reshape(-1), owner, len(up))
    order = torch.argsort(owner, stable=True)
    counts = torch.bincount(owner, minlength=len(up)).tolist()[: len(up)]
    order = order[: sum(counts)]  # pairs not kept stand last
    middle = _GroupedLinear.apply(_Dispatch.apply(x, order, top_k), up, counts)
    served = owner[order]
    if up_bias is not None:
        middle = middle + up_bias.to(middle.dtype)[served]
    output = _GroupedLinear.apply(activate(middle), down, counts)
    if down_bias is not None:
        output = output + down_bias.to(output.dtype)[served]
    # back in the tokens' order, then one weighted sum a token: no atomic adds, so always the same bits
    pairs = output.new_zeros(len(owner), output.shape[1]).index_copy(0, order, output)
    pairs = pairs.view(len(x), top_k, output.shape[1])  # (N, K, D)
    return torch.bmm(gates.to(pairs.dtype).unsqueeze(1), pairs).squeeze(1)


class _Dispatch(torch.autograd.Function):
    """Row order[i] // K of x for each pair i; the backward pass restores the order and sums K rows."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, order: Tensor, top_k: int
    ) -> Tensor:
        ctx.save_for_backward(order)
        ctx.shape = (len(x), top_k)  # type: ignore[attr-defined]
        return x.index_select(0, order // top_k)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):  # type: ignore[no-untyped-def]
        (order,) = ctx.saved_tensors  # type: ignore[attr-defined]
        tokens, top_k = ctx.shape  # type: ignore[attr-defined]
        pairs = grad.new_zeros(tokens * top_k, grad.shape[1]).index_copy_(0, order, grad)
        return pairs.view(tokens, top_k, grad.shape[1]).sum(1), None, None


class _GroupedLinear(torch.autograd.Function):
    """Consecutive groups of rows, each times its own matrix: y = x W_e^T for the counts[e] rows of
    expert e.

    Each product is written to its place, forward and backward; slices under autograd would allocate
    a gradient of all experts for every expert.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, counts: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.counts = counts  # type: ignore[attr-defined]
        result = x.new_empty(len(x), weight.shape[1])
        for expert, here in _runs(counts):
            torch.mm(x[here], weight[expert].T, out=result[here])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        counts: Sequence[int] = ctx.counts  # type: ignore[attr-defined]
        x_wanted, weight_wanted, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad = grad.contiguous()
        grad_x = torch.empty_like(x) if x_wanted else None
        grad_weight = torch.zeros_like(weight) if weight_wanted else None
        for expert, here in _runs(counts):
            if grad_x is not None:
                torch.mm(grad[here], weight[expert], out=grad_x[here])
            if grad_weight is not None:
                torch.mm(grad[here].T, x[here], out=grad_weight[expert])
        return grad_x, grad_weight, None


def _runs(counts: Sequence[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) for every expert with at least one row.

    >>> _runs([2, 0, 1])
    [(0, slice(0, 2, None)), (2, slice(2, 3, None))]
    """
    found, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            found.append((expert, slice(start, start + count)))
        start += count
    return found


def linear_wide(
    x: Float[Tensor, "N D"], weight: Float[Tensor, "E D"], bias: Float[Tensor, " E"] | None
) -> Float[Tensor, "N E"]:
    """x W^T + b in float32 or wider, also under autocast, for router logits, whose ties are
    sensitive to rounding.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
