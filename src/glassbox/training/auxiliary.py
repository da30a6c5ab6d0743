"""Auxiliary losses of layers, such as expert load balancing, and router metrics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glassbox.layers.context import Auxiliary
from glassbox.training.protocols import Number, ObjectiveOutput


def with_auxiliary(
    output: ObjectiveOutput, auxiliary: Auxiliary, *, share: Number | None = None
) -> ObjectiveOutput:
    """Return an objective's output with the layers' auxiliary losses and router metrics added.

    The layers' losses are means over tokens: times the output's weight, so that the loop's division
    by the weights of all micro-batches leaves their weighted mean. An objective that puts a step's whole
    weight on one micro-batch says by `share` what part of it each one is. Where there are any, the loss
    without them is the metric `main_loss`. Measures are averaged over layers: `max_expert_share`
    (1 / E is even), `router_entropy` in nats a token, `dropped_share`.
    """
    loss_sum, weight = output.loss_sum, output.weight
    metrics: dict[str, tuple[Number, Number]] = {**output.metrics}
    part = weight if share is None else share
    extra = auxiliary.total_loss()
    if extra is not None:
        metrics["main_loss"] = (loss_sum.detach(), weight)
        loss_sum = loss_sum + extra * part
    for name, layers in auxiliary.losses.items():
        metrics[name] = (torch.stack(layers).sum().detach() * part, part)
    summaries: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "expert_load": ("max_expert_share", lambda load: load.max() / load.sum().clamp(min=1)),
        "router_entropy": ("router_entropy", lambda entropy: entropy),
        "dropped_share": ("dropped_share", lambda share: share),
    }
    for measure, (name, summarize) in summaries.items():
        if layers := auxiliary.measures.get(measure, []):
            values = torch.stack([summarize(layer).float() for layer in layers])
            metrics[name] = (values.mean() * part, part)
    return ObjectiveOutput(loss_sum, weight, metrics)
