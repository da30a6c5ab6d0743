"""Next-token cross-entropy, plain and fused with the output projection in chunks."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.autograd.function import once_differentiable

from glassbox.ops import for_compiler
from glassbox.ops.activations import soft_cap
from glassbox.ops.for_compiler import compiles_training
from glassbox.ops.softmax import log_softmax, log_sum_exp

IGNORE = -100
"""Targets with this value are not trained on, as in torch and transformers."""


def token_log_probs_plain(
    logits: Float[Tensor, "*shape V"], targets: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """log p(target) at each position, in float32 or wider; zero where the target is IGNORE."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    valid = targets != IGNORE
    index = torch.where(valid, targets, torch.zeros_like(targets))
    chosen = log_softmax(wide).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return torch.where(valid, chosen, torch.zeros_like(chosen))


def cross_entropy_plain(
    logits: Float[Tensor, "*shape V"],
    targets: Int[Tensor, "*shape"],
    weights: Float[Tensor, "*shape"] | None = None,
    *,
    z_loss: float = 0.0,
) -> Float[Tensor, ""]:
    """Summed loss sum_i w_i (-log p(target_i) + z (log Z_i)^2), in nats; IGNORE targets contribute
    zero.

    Z_i = sum exp(logits_i). A small `z_loss` z prevents a common drift of the logits, to which the
    probabilities are invariant. Source: PaLM, arXiv:2204.02311, section 5.
    Tested against: torch.nn.functional.cross_entropy(reduction="sum").
    """
    return _losses(logits, targets, weights, z_loss).sum()


def _losses(logits: Tensor, targets: Tensor, weights: Tensor | None, z_loss: float) -> Tensor:
    """The weighted loss of each position; zero where IGNORE."""
    losses = -token_log_probs_plain(logits, targets)
    if z_loss:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        losses = losses + z_loss * log_sum_exp(wide).pow(2) * (targets != IGNORE)
    return losses if weights is None else losses * weights


def cross_entropy(
    logits: Float[Tensor, "*shape V"],
    targets: Int[Tensor, "*shape"],
    weights: Float[Tensor, "*shape"] | None = None,
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
    z_loss: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits in nats: -log p(target), over the last axis.

    reduction: "mean" is sum_i w_i loss_i / sum_i w_i over the targets that are not IGNORE, and zero
        if there are none (torch returns NaN); "sum" is the numerator, which can be added over
        micro-batches and ranks; "none" is one loss per position.
    weights, z_loss: as in `cross_entropy_plain`; a weight belongs to a position, not to a class.
    Raises ValueError if the shapes do not match. Unlike torch's function, whose classes are on axis
    1, the classes are on the last axis.
    Tested against: torch.nn.functional.cross_entropy.

    >>> round(float(cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)).exp()), 4)
    4.0
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, logits {tuple(logits.shape)}; "
            "targets need the shape of the logits without their last axis"
        )
    if weights is not None and weights.shape != targets.shape:
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}, targets {tuple(targets.shape)}; "
            "give one weight a position"
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction = {reduction!r} is none of 'mean', 'sum', 'none'")
    if reduction == "none":
        return _losses(logits, targets, weights, z_loss)
    total = cross_entropy_plain(logits, targets, weights, z_loss=z_loss)
    if reduction == "sum":
        return total
    valid = (targets != IGNORE).to(total.dtype)
    weight = (valid if weights is None else valid * weights).sum()
    return total / torch.where(weight == 0, torch.ones_like(weight), weight)


def _logits(rows: Tensor, projection: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Logits of some rows; with a soft cap in float32 or wider, which tanh needs for its precision."""
    logits = rows @ projection.t() if bias is None else torch.addmm(bias, rows, projection.t())
    return logits if softcap is None else soft_cap(logits.to(_wide(logits)), softcap)


def _uncap(grad: Tensor, capped: Tensor, softcap: float | None) -> Tensor:
    """Backward of c tanh(x / c) in place; the derivative is 1 - (capped / c)^2."""
    return grad if softcap is None else grad.mul_(1 - (capped / softcap).square_())


class _LinearCrossEntropy(torch.autograd.Function):
    """Projection and loss, chunk by chunk; gradients are computed in the forward pass, so that all
    logits never exist at once.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor | None,
        chunk: int,
        softcap: float | None,
        z_loss: float,
        grad_enabled: bool,  # inside a Function it reads False, and needs_input_grad ignores it
    ) -> tuple[Tensor, Tensor]:
        needs = [grad_enabled and need for need in ctx.needs_input_grad[:3]]  # type: ignore[attr-defined]
        grad_hidden = torch.empty_like(hidden) if needs[0] else None
        grad_weight = torch.zeros_like(weight) if needs[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and needs[2] else None
        total = hidden.new_zeros((), dtype=_sum_dtype(hidden))
        penalty = torch.zeros_like(total)
        projection = weight.to(hidden.dtype)
        offset = None if bias is None else bias.to(hidden.dtype)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            target = targets[rows]
            valid = target != IGNORE
            index = torch.where(valid, target, 0).unsqueeze(-1)
            scale = valid.to(torch.float32) if weights is None else valid * weights[rows]
            logits = _logits(hidden[rows], projection, offset, softcap)
            log_probs = torch.log_softmax(logits, dim=-1, dtype=_wide(logits))
            chosen = log_probs.gather(-1, index).squeeze(-1)
            total -= (chosen * scale).sum(dtype=total.dtype)
            # d loss / d logits = scale * (p - onehot), and z's share 2 z log Z p
            pull = scale
            if z_loss:
                log_z = logits.gather(-1, index).squeeze(-1) - chosen
                penalty += (z_loss * log_z.square() * scale).sum(dtype=total.dtype)
                pull = scale * (1 + 2 * z_loss * log_z)
            if not any(needs):
                continue
            grad = log_probs.exp_().mul_(pull.unsqueeze(-1))
            grad.scatter_add_(-1, index, -scale.unsqueeze(-1).to(grad.dtype))
            grad = _uncap(grad, logits, softcap)
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, projection, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)  # type: ignore[arg-type]
        penalty = penalty.to(_wide(hidden))
        ctx.mark_non_differentiable(penalty)
        return (total + penalty).to(_wide(hidden)), penalty

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor, _: Tensor):  # type: ignore[no-untyped-def]
        grads = ctx.saved_tensors  # type: ignore[attr-defined]
        # upstream stays float32: a loss scale of 65536 is no float16 number
        scaled = (None if grad is None else grad * upstream for grad in grads)
        return (*scaled, None, None, None, None, None, None)


class _LinearLogProbs(torch.autograd.Function):
    """log p(target) at each position; the backward pass recomputes the logits of each chunk."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        softcap: float | None,
        temperature: float,
    ) -> Tensor:
        projection = weight.to(hidden.dtype)
        offset = None if bias is None else bias.to(hidden.dtype)
        chosen = torch.empty(hidden.shape[0], dtype=_wide(hidden), device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            valid = targets[rows] != IGNORE
            index = torch.where(valid, targets[rows], 0).unsqueeze(-1)
            logits = _logits(hidden[rows], projection, offset, softcap)
            logits = logits.to(chosen.dtype) / temperature
            picked = logits.gather(-1, index).squeeze(-1) - logits.logsumexp(dim=-1)
            chosen[rows] = torch.where(valid, picked, 0.0)
        ctx.save_for_backward(hidden, weight, bias, targets)  # type: ignore[arg-type]
        ctx.chunk, ctx.softcap, ctx.temperature = chunk, softcap, temperature  # type: ignore[attr-defined]
        return chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor):  # type: ignore[no-untyped-def]
        hidden, weight, bias, targets = ctx.saved_tensors  # type: ignore[attr-defined]
        chunk, softcap, temperature = ctx.chunk, ctx.softcap, ctx.temperature  # type: ignore[attr-defined]
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        projection = weight.to(hidden.dtype)
        offset = None if bias is None else bias.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if needs[0] else None
        grad_weight = torch.zeros_like(weight) if needs[1] else None
        grad_bias = torch.zeros_like(bias) if needs[2] else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            valid = targets[rows] != IGNORE
            index = torch.where(valid, targets[rows], 0).unsqueeze(-1)
            logits = _logits(hidden[rows], projection, offset, softcap).to(upstream.dtype)
            scale = torch.where(valid, upstream[rows], 0.0).unsqueeze(-1) / temperature
            grad = torch.softmax(logits / temperature, dim=-1).mul_(-scale)
            grad.scatter_add_(-1, index, scale)
            grad = _uncap(grad, logits, softcap)
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, projection, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden[rows]
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _sum_dtype(x: Tensor) -> torch.dtype:
    """A dtype wide enough that the sum over a batch does not depend on the chunks; MPS does not
    support float64.
    """
    return torch.float32 if x.device.type == "mps" else torch.float64


def _rows(hidden: Tensor) -> Tensor:
    """Reshape (*shape, D) to (rows, D), in autocast's dtype, since autocast does not see products
    inside a Function.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    kind = flat.device.type
    if torch.is_autocast_enabled(kind) and flat.dtype != torch.float64:
        flat = flat.to(torch.get_autocast_dtype(kind))
    return flat


def _trained_rows(targets: Tensor) -> Tensor | None:
    """The positions whose targets are not IGNORE, if they are few enough; None if all rows are to
    be used.

    In fine-tuning, prompts and padding are then skipped, which leaves about a third of the
    products. Not used on a GPU, where the count would need a synchronization, and under
    `torch.compile` and for fake tensors, which do not support such shapes.
    """
    if targets.device.type != "cpu" or torch.compiler.is_compiling() or is_fake(targets):
        return None
    kept = (targets != IGNORE).nonzero().squeeze(-1)
    return kept if len(kept) < 0.9 * len(targets) else None


def linear_cross_entropy(
    hidden: Float[Tensor, "*shape D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, "*shape"],
    weights: Float[Tensor, "*shape"] | None = None,
    *,
    bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    chunk: int = 1024,
) -> Float[Tensor, ""]:
    """`cross_entropy_plain(soft_cap(hidden @ weight.T + bias), ...)` without materializing all
    logits.

    At most `chunk` rows of logits exist at a time, on a CPU only of targets that are not IGNORE.
    All gradients are computed in the forward pass; the backward pass only scales them. The weights
    are treated as constants. First derivatives only. Tested against: `cross_entropy_plain`.
    """
    return linear_cross_entropy_parts(
        hidden, weight, targets, weights, bias=bias, softcap=softcap, z_loss=z_loss, chunk=chunk
    )[0]


def linear_cross_entropy_parts(
    hidden: Float[Tensor, "*shape D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, "*shape"],
    weights: Float[Tensor, "*shape"] | None = None,
    *,
    bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    z_loss: float = 0.0,
    chunk: int = 1024,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """`linear_cross_entropy`, and the part of it that is the z-loss, detached."""
    assert weights is None or not weights.requires_grad, "no gradient is made for the weights"
    rows, target = _rows(hidden), targets.reshape(-1)
    scale = None if weights is None else weights.reshape(-1)
    if compiles_training(rows) and bias is None and softcap is None and not z_loss:
        valid = target != IGNORE
        counted = valid.to(torch.float32) if scale is None else valid * scale
        index = torch.where(valid, target, 0)
        loss = for_compiler.linear_cross_entropy(rows, weight.to(rows.dtype), index, counted)
        return loss, torch.zeros_like(loss)
    kept = _trained_rows(target)
    if kept is not None:
        rows, target = rows.index_select(0, kept), target[kept]
        scale = None if scale is None else scale[kept]
    parts: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(
        rows,
        weight,
        bias,
        target,
        scale,
        chunk,
        softcap,
        z_loss,
        torch.is_grad_enabled(),
    )
    return parts


def linear_token_log_probs(
    hidden: Float[Tensor, "*shape D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, "*shape"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> Float[Tensor, "*shape"]:
    """log softmax(logits / temperature)[target] at each position, zero where IGNORE.

    The logits are hidden @ weight.T + bias, soft-capped by `softcap`. At most `chunk` rows of
    logits exist at a time, in both passes, on a CPU only of targets that are not IGNORE. First
    derivatives only. Tested against: `token_log_probs_plain`.
    """
    rows, target = _rows(hidden), targets.reshape(-1)
    kept = _trained_rows(target)
    if kept is not None:
        rows, target = rows.index_select(0, kept), target[kept]
    chosen: Tensor = _LinearLogProbs.apply(rows, weight, bias, target, chunk, softcap, temperature)
    if kept is not None:
        chosen = chosen.new_zeros(targets.numel()).index_copy(0, kept, chosen)
    return chosen.reshape(targets.shape)
