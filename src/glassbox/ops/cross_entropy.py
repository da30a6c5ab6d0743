"""Next-token cross-entropy: written out, and fused with the output projection in chunks."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassbox.ops.softmax import log_softmax

IGNORE = -100
"""A target of this value is not trained on; the number is torch's and transformers' convention."""


def token_log_probs_plain(
    logits: Float[Tensor, "*shape V"], targets: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """log p(target) for each position, in float32 or wider; zero where the target is IGNORE."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    valid = targets != IGNORE
    index = torch.where(valid, targets, torch.zeros_like(targets))
    chosen = log_softmax(wide).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return torch.where(valid, chosen, torch.zeros_like(chosen))


def cross_entropy_plain(
    logits: Float[Tensor, "*shape V"],
    targets: Int[Tensor, "*shape"],
    weights: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, ""]:
    """Summed loss -sum_i w_i log p(target_i), in nats; IGNORE targets add nothing.

    Tested against: torch.nn.functional.cross_entropy(reduction="sum").
    """
    losses = -token_log_probs_plain(logits, targets)
    return (losses if weights is None else losses * weights).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Projection and loss, chunk by chunk; the gradients are made on the way, logits never all exist."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        chunk: int,
        grad_enabled: bool,  # inside a Function it reads False, and needs_input_grad ignores it
    ) -> Tensor:
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        need_hidden, need_weight = grad_enabled and needs[0], grad_enabled and needs[1]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        total = hidden.new_zeros((), dtype=_sum_dtype(hidden))
        projection = weight.to(hidden.dtype)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            target = targets[rows]
            valid = target != IGNORE
            index = torch.where(valid, target, 0).unsqueeze(-1)
            scale = valid.to(torch.float32) if weights is None else valid * weights[rows]
            logits = hidden[rows] @ projection.t()
            log_probs = torch.log_softmax(logits, dim=-1, dtype=_wide(logits))
            total -= (log_probs.gather(-1, index).squeeze(-1) * scale).sum(dtype=total.dtype)
            if not (need_hidden or need_weight):
                continue
            # d loss / d logits = scale * (p - onehot)
            grad = log_probs.exp_().mul_(scale.unsqueeze(-1))
            grad.scatter_add_(-1, index, -scale.unsqueeze(-1).to(grad.dtype))
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, projection, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_weight)  # type: ignore[arg-type]
        return total.to(_wide(hidden))

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor):  # type: ignore[no-untyped-def]
        grad_hidden, grad_weight = ctx.saved_tensors  # type: ignore[attr-defined]
        return (
            # upstream stays float32: a loss scale of 65536 is no float16 number
            None if grad_hidden is None else grad_hidden * upstream,
            None if grad_weight is None else grad_weight * upstream,
            None,
            None,
            None,
            None,
        )


class _LinearLogProbs(torch.autograd.Function):
    """log p(target) a position; the backward pass makes each chunk's logits again."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        temperature: float,
    ) -> Tensor:
        projection = weight.to(hidden.dtype)
        chosen = torch.empty(hidden.shape[0], dtype=_wide(hidden), device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            valid = targets[rows] != IGNORE
            index = torch.where(valid, targets[rows], 0).unsqueeze(-1)
            logits = (hidden[rows] @ projection.t()).to(chosen.dtype) / temperature
            picked = logits.gather(-1, index).squeeze(-1) - logits.logsumexp(dim=-1)
            chosen[rows] = torch.where(valid, picked, 0.0)
        ctx.save_for_backward(hidden, weight, targets)
        ctx.chunk, ctx.temperature = chunk, temperature  # type: ignore[attr-defined]
        return chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor):  # type: ignore[no-untyped-def]
        hidden, weight, targets = ctx.saved_tensors  # type: ignore[attr-defined]
        chunk, temperature = ctx.chunk, ctx.temperature  # type: ignore[attr-defined]
        projection = weight.to(hidden.dtype)
        need_hidden, need_weight = ctx.needs_input_grad[:2]  # type: ignore[attr-defined]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            valid = targets[rows] != IGNORE
            index = torch.where(valid, targets[rows], 0).unsqueeze(-1)
            logits = (hidden[rows] @ projection.t()).to(upstream.dtype) / temperature
            scale = torch.where(valid, upstream[rows], 0.0).unsqueeze(-1) / temperature
            grad = torch.softmax(logits, dim=-1).mul_(-scale)
            grad.scatter_add_(-1, index, scale)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, projection, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden[rows]
        return grad_hidden, grad_weight, None, None, None


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _sum_dtype(x: Tensor) -> torch.dtype:
    """Wide enough that the sum over a batch does not depend on the chunks; MPS knows no float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _rows(hidden: Tensor) -> Tensor:
    """(*shape, D) as (rows, D), in autocast's dtype: a Function hides its products from autocast."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    kind = flat.device.type
    if torch.is_autocast_enabled(kind) and flat.dtype != torch.float64:
        flat = flat.to(torch.get_autocast_dtype(kind))
    return flat


def linear_cross_entropy(
    hidden: Float[Tensor, "*shape D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, "*shape"],
    weights: Float[Tensor, "*shape"] | None = None,
    *,
    chunk: int = 1024,
) -> Float[Tensor, ""]:
    """`cross_entropy_plain(hidden @ weight.T, ...)` without ever holding all logits.

    At most `chunk` rows of logits exist; both gradients are computed in the forward pass, so the
    backward pass costs one scaling. The weights are constants. First derivatives only.
    Tested against: `cross_entropy_plain`.
    """
    assert weights is None or not weights.requires_grad, "no gradient is made for the weights"
    scale = None if weights is None else weights.reshape(-1)
    loss: Tensor = _LinearCrossEntropy.apply(
        _rows(hidden), weight, targets.reshape(-1), scale, chunk, torch.is_grad_enabled()
    )
    return loss


def linear_token_log_probs(
    hidden: Float[Tensor, "*shape D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, "*shape"],
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> Float[Tensor, "*shape"]:
    """log softmax(hidden @ weight.T / temperature)[target] a position, zero where IGNORE.

    At most `chunk` rows of logits exist at a time, in both passes. First derivatives only.
    Tested against: `token_log_probs_plain`.
    """
    chosen: Tensor = _LinearLogProbs.apply(
        _rows(hidden), weight, targets.reshape(-1), chunk, temperature
    )
    return chosen.reshape(targets.shape)
