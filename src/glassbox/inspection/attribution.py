"""Which parts and which tokens made a logit: direct logit attribution and integrated gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import evaluating
from glassbox.inspection.recording import HasModel, inspect, the_model
from glassbox.models.block import Block
from glassbox.models.causal_lm import CausalLM

Metric = Callable[[Float[Tensor, "B T V"]], Float[Tensor, "*B"]]
"""A number a row (or one for all) from the logits of every position."""


@dataclass(frozen=True)
class Attribution:
    """What each part adds to a logit: `values` (parts, B, T), summing over parts to `total` (B, T)."""

    parts: list[str]
    values: Float[Tensor, "P B T"]
    total: Float[Tensor, "B T"]


def direct_logit_attribution(
    model: CausalLM | HasModel,
    ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    *,
    against: Int[Tensor, "B T"] | None = None,
    by: Literal["layer", "head"] = "layer",
) -> Attribution:
    """The logit of each position's target as a sum over what wrote to the residual stream.

    With the final norm's scale as it was, the logit is linear in the stream: a part x adds
    w_target . norm'(x), norm' the norm with that scale. Parts are `embedding`, each mixer and each
    feed-forward (`blocks.N.mixer`, `blocks.N.ffn`), and `bias` for what the final norm and the head
    add. by: "head" divides mixers further, `blocks.N.mixer.head.H` and their output's bias.
    against: other tokens, whose logits are taken off: the difference is attributed.
    Raises UserError for models whose stream is no sum (residual = normed) or whose logits are capped,
    and by head where a mixer's output is normed.
    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; the frozen norm as
    TransformerLens. Tested against: TransformerLens; the parts sum to the model's logits.
    """
    model = the_model(model)
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    if (
        any(block.residual == "normed" for block in blocks)
        or model.config.logit_softcap is not None
    ):
        raise UserError(
            "direct logit attribution needs a residual stream that is a sum and logits without a cap; "
            "use integrated_gradients for this model"
        )
    ids, targets = ids.to(model.device), targets.to(model.device)
    found: list[tuple[str, Tensor]] = []
    with evaluating(model), torch.no_grad(), inspect(model, ["*.residual_*", "*.heads"]) as run:
        model.hidden_states(ids)
        found.append(("embedding", run["blocks.0.residual_pre"]))
        for number, block in enumerate(blocks):
            at = f"blocks.{number}."
            before, middle = run[f"{at}residual_pre"], run[f"{at}residual_mid"]
            mixed = middle - before
            if by == "head":
                found += _heads(block, run[f"{at}mixer.heads"], mixed, at)
            else:
                found.append((f"{at}mixer", mixed))
            if block.ffn is not None:
                found.append((f"{at}ffn", run[f"{at}residual_post"] - middle))
        last = run[f"blocks.{len(blocks) - 1}.residual_post"]
        direction = model.output_weight[targets]  # (B, T, D)
        if against is not None:
            direction = direction - model.output_weight[against.to(model.device)]
        scale = model.config.logit_scale
        norm: Any = model.final_norm
        values = [(scale * norm.scaled_as(part, last) * direction).sum(-1) for _, part in found]
        total = (model.finish(last) * direction).sum(-1)
        if model.output_bias is not None:
            total = total + model.output_bias[targets]
            if against is not None:
                total = total - model.output_bias[against.to(model.device)]
    found.append(("bias", last))
    stacked = torch.stack(values)
    return Attribution(
        [name for name, _ in found],
        torch.cat((stacked, (total - stacked.sum(0)).unsqueeze(0))),
        total,
    )


def _heads(block: Block, heads: Tensor, mixed: Tensor, at: str) -> list[tuple[str, Tensor]]:
    if block.mixer_out_norm is not None:
        raise UserError(
            "by = head: this model norms what a mixer returns, so heads have no parts of their own; "
            "use by = layer"
        )
    weight = block.mixer.output.weight.unflatten(1, heads.shape[2:])  # type: ignore[union-attr, operator]
    parts = torch.einsum("bthd,ohd->hbto", heads, weight) * block.scale
    found = [(f"{at}mixer.head.{head}", part) for head, part in enumerate(parts)]
    return [*found, (f"{at}mixer.bias", mixed - parts.sum(0))]


def integrated_gradients(
    model: CausalLM | HasModel,
    ids: Int[Tensor, "B T"],
    metric: Metric,
    *,
    baseline: Float[Tensor, "#B #T D"] | None = None,
    steps: int = 32,
) -> Float[Tensor, "B T"]:
    """How much each token's embedding moved the metric from what it is at the baseline.

        (x - x') . (integral from 0 to 1 of d metric / d embedding at x' + a (x - x'), da)

    by Gauss-Legendre quadrature with `steps` points. A row's attributions sum to metric(x) -
    metric(x'), but for the quadrature's error.
    baseline: x', the mean embedding of the vocabulary unless given.
    Source: Sundararajan et al., arXiv:1703.01365, section 3. Tested against: the sum (completeness),
    and the exact integral of a linear model.
    """
    model = the_model(model)
    if steps < 1:
        raise UserError(f"steps = {steps}: give at least 1")
    ids = ids.to(model.device)
    with evaluating(model):
        with torch.no_grad(), inspect(model, "embedding") as run:
            model.hidden_states(ids)
        here = run["embedding"]
        there = model.embedding.weight.detach().mean(0) if baseline is None else baseline
        there = there.to(here).expand_as(here)
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        total = torch.zeros_like(here)
        for node, weight in zip(nodes, weights, strict=True):
            point = (there + (node + 1) / 2 * (here - there)).detach().requires_grad_()
            with torch.enable_grad(), inspect(model, patch={"embedding": point}):
                (gradient,) = torch.autograd.grad(metric(model(ids)).sum(), point)
            total += weight / 2 * gradient
    return ((here - there) * total).sum(-1)
