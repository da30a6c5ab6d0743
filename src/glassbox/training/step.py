"""One optimizer step: forward and backward passes, normalization, clipping and the update.

There are two ways through it. `PlainPasses` reads as the algorithm does: the objective under autocast,
`backward()`, gradients divided and clipped, the optimizer. `CompiledPasses` compiles the whole forward
pass with its loss into one graph, in bfloat16 on a copy of the weights that is rounded once a step, and
updates flat storage. The plain one is what the compiled one is tested against.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glassbox.adapters.base import adapters_of
from glassbox.core.devices import Precision, autocast
from glassbox.core.distributed import Group
from glassbox.layers.wide_weights import wide_weights
from glassbox.models.causal_lm import CausalLM
from glassbox.optim.base import Flat, Flattens, Optimizer
from glassbox.optim.clipping import Clipper
from glassbox.training.config import TrainConfig
from glassbox.training.guards import Guard, LossScaler
from glassbox.training.parallel.layout import Layout
from glassbox.training.protocols import (
    AfterStep,
    Batch,
    BeforeStep,
    InOneGraph,
    Objective,
    ObjectiveOutput,
)
from glassbox.training.telemetry.telemetry import Telemetry
from glassbox.training.window import add_up


@dataclass(frozen=True)
class StepOutcome:
    """What a step did.

    norm: of the gradients before clipping. reason: why the step was skipped, else None.
    seconds: of its phases: forward, backward, optimizer (normalization, clipping and update).
    """

    loss: float
    norm: float
    tokens: int
    totals: dict[str, list[float]]
    reason: str | None
    seconds: Mapping[str, float] = field(default_factory=dict)


class Passes(Protocol):
    """Forward and backward passes, and what is done with their gradients."""

    def refresh(self) -> None:
        """Take in weights that were changed from outside, such as by a checkpoint."""

    def run(self, batches: Sequence[Any], seconds: dict[str, float]) -> list[ObjectiveOutput]:
        """Gradients of the summed losses of all micro-batches; the time goes into `seconds`."""

    def normalize(self, divisor: float) -> float:
        """Sum gradients over ranks, divide and clip them; return the norm before clipping."""

    def update(self, lr: float) -> None:
        """Let the optimizer take the step."""

    def drop(self) -> None:
        """Forget the gradients."""


class PlainPasses:
    """The objective under autocast, autograd's gradients, the optimizer as it is."""

    def __init__(
        self,
        model: CausalLM,
        objective: Objective[Any],
        optimizer: Optimizer,
        *,
        precision: Precision,
        clipper: Clipper,
        scaler: LossScaler,
        telemetry: Telemetry | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.precision: Precision = precision
        self.layout = layout or Layout()
        self.clipper = clipper
        self.scaler = scaler
        self.telemetry = telemetry

    def refresh(self) -> None:
        """Nothing is kept beside the weights."""

    def run(self, batches: Sequence[Any], seconds: dict[str, float]) -> list[ObjectiveOutput]:
        """Gradients in `.grad` of the parameters, times the loss scale."""
        device = self.model.device
        outputs = []
        began = time.perf_counter()
        self.layout.at("forward and backward pass")
        self.optimizer.zero_grad()
        if isinstance(self.objective, BeforeStep):
            batches = [batch.to(device) for batch in batches]
            with autocast(device, self.precision):
                self.objective.before_step(self.model, batches, self.layout.data)
        for number, batch in enumerate(batches, start=1):
            with self.layout.micro_batch(last=number == len(batches)):
                with autocast(device, self.precision):
                    output = self.objective(self.model, batch.to(device))
                middle = time.perf_counter()
                (output.loss_sum * self.scaler.scale).backward()
            if self.telemetry is not None:
                self.telemetry.after_backward(
                    output.weight, self.scaler.scale, last=number == len(batches)
                )
            output.loss_sum = output.loss_sum.detach()  # or the graph would live on
            outputs.append(output)
            ended = time.perf_counter()
            seconds["forward"] += middle - began
            seconds["backward"] += ended - middle
            began = ended
        self.layout.at("sums and update")
        return outputs

    def normalize(self, divisor: float) -> float:
        """Sum gradients over ranks, divide and clip them in place."""
        gradients = self.reduced(divisor)
        if not gradients or not divisor > 0:
            return 0.0
        if self.telemetry is not None:
            self.telemetry.gradients(divisor, self.scaler.scale)
        return self.layout.clip_(self.clipper, gradients)

    def reduced(self, divisor: float) -> list[Tensor]:
        """Gradients summed over ranks and divided, in place: this rank's part of each."""
        gradients = self.layout.reduced(self.optimizer.parameters())
        if gradients and divisor > 0:
            torch._foreach_mul_(gradients, 1.0 / divisor)
        return gradients

    def update(self, lr: float) -> None:
        """The optimizer's step."""
        self.optimizer.step(lr)

    def drop(self) -> None:
        """Clear all gradients."""
        self.optimizer.zero_grad()


class CompiledPasses:
    """One compiled graph of forward pass and loss, its gradients, and an update of flat storage.

    backend: of `torch.compile`.
    narrow: None computes in the weights' own dtype. bfloat16: on a copy of the weights, which is
        rounded once a step; activations are in bfloat16 from end to end, sums, norms, softmax and the
        loss in float32, the weights that are trained in float32. `layers.wide_weights` stay wide.
    A gradient of one micro-batch stays in the dtype of its weight; of several they are added in float32.
    Where the optimizer and the clipping know how, weights, moments and gradients lie in one array each
    (`optim.base.Flat`); else every gradient is handed to the optimizer in float32.
    Tested against: `PlainPasses`, losses and gradients: in float32 within 2e-5 of the largest gradient
    of each tensor, in bfloat16 within 3e-2 of its norm (8 bits of mantissa through the layers).
    """

    def __init__(
        self,
        model: CausalLM,
        objective: Objective[Any],
        optimizer: Optimizer,
        *,
        narrow: torch.dtype | None,
        group: Group,
        clipper: Clipper,
        backend: str = "inductor",
        telemetry: Telemetry | None = None,
    ) -> None:
        self.model = model
        self.telemetry = telemetry
        self.objective = objective
        self.optimizer = optimizer
        self.group = group
        self.clipper = clipper
        self.parameters = optimizer.parameters()
        flat = optimizer.flattened(backend) if isinstance(optimizer, Flattens) else None
        self.flat: Flat | None = (
            flat if group.world_size == 1 and clipper.factor(1.0) is not None else None
        )
        if self.flat is not None:
            self.flat.lay_out()
        self.working, self._copies = _narrow_copy(model, self.parameters, narrow, self.flat)
        self.working.train()
        working = dict(self.working.named_parameters())
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._trained = [working[names[id(parameter)]] for parameter in self.parameters]
        self._gradients: list[Tensor | None] = []
        self._scale = 1.0
        self._forward = torch.compile(self._loss, dynamic=False, backend=backend)

    def _loss(self, batch: Batch) -> ObjectiveOutput:
        return self.objective(self.working, batch)

    def refresh(self) -> None:
        """Round the weights anew."""
        with torch.no_grad():
            for master, copied in self._copies:
                copied.copy_(master)

    def run(self, batches: Sequence[Any], seconds: dict[str, float]) -> list[ObjectiveOutput]:
        """Gradients kept here: one array a group of a flat optimizer, else one a parameter."""
        outputs = []
        total: list[Tensor | None] = []
        device = self.model.device
        for number, batch in enumerate(batches, start=1):
            began = time.perf_counter()
            output = self._forward(batch.to(device))
            middle = time.perf_counter()
            found = torch.autograd.grad(output.loss_sum, self._trained, allow_unused=True)
            output.loss_sum = output.loss_sum.detach()
            outputs.append(output)
            gradients = self._gathered(list(found))
            del found
            if len(batches) == 1:
                total = gradients
            elif not total:
                total = [None if g is None else g.float() for g in gradients]
            else:
                total = [_added(one, other) for one, other in zip(total, gradients, strict=True)]
            ended = time.perf_counter()
            seconds["forward"] += middle - began
            seconds["backward"] += ended - middle
            if self._watched:
                self._show(gradients, output.weight, batch, last=number == len(batches))
        self._gradients = total
        return outputs

    @property
    def _watched(self) -> bool:
        return self.telemetry is not None and self.telemetry.active

    def _show(
        self, gradients: Sequence[Tensor | None], weight: Any, batch: Any, *, last: bool
    ) -> None:
        """A micro-batch's gradients, in float32, as telemetry measures them."""
        assert self.telemetry is not None
        self._lend(gradients, 1.0)
        self.telemetry.saw(batch.ids, documents=batch.documents)
        self.telemetry.after_backward(weight, 1.0, last=last)
        self.optimizer.zero_grad()

    def _lend(self, gradients: Sequence[Tensor | None], scale: float) -> None:
        """Gradients as `.grad` of the parameters, in their dtype and times `scale`."""
        parts = gradients
        if self.flat is not None:
            parts = self.flat.parts([g for g in gradients if g is not None])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = None if part is None else part.to(parameter.dtype) * scale

    def _gathered(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        if self.flat is None:
            return gradients
        present = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(self._trained, gradients, strict=True)
        ]
        return list(self.flat.gathered(present))

    def normalize(self, divisor: float) -> float:
        """The norm; what to multiply by is kept for the update where storage is flat."""
        if not divisor > 0:
            return 0.0
        if self.flat is None:
            self._lend(self._gradients, 1.0)
            self._gradients = []
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            self.group.sum_gradients_(gradients)
            torch._foreach_mul_(gradients, 1.0 / divisor)
            if self.telemetry is not None:
                self.telemetry.gradients(divisor, 1.0)
            return float(self.clipper.clip_(gradients))
        if self.telemetry is not None and self._watched:
            self._lend(self._gradients, 1.0 / divisor)
            self.telemetry.gradients(divisor, 1.0)
            self.optimizer.zero_grad()
        norm = self.flat.norm([g for g in self._gradients if g is not None]) / divisor
        self._scale = (self.clipper.factor(norm) or 0.0) / divisor
        return norm

    def update(self, lr: float) -> None:
        """The optimizer's step, and the copy of the new weights."""
        if self.flat is None:
            self.optimizer.step(lr)
            self.refresh()
            return
        self.flat.update(lr, [g for g in self._gradients if g is not None], self._scale)

    def drop(self) -> None:
        """Let go of the gradients."""
        self._gradients = []
        if self.flat is None:
            self.optimizer.zero_grad()


class TrainStep:
    """Takes steps: passes over the micro-batches, sums over ranks, the guard's verdict, the update."""

    def __init__(
        self,
        passes: Passes,
        *,
        group: Group,
        guard: Guard,
        scaler: LossScaler,
        adjusting: Sequence[AfterStep] = (),
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry
        self.passes = passes
        self.group = group
        self.guard = guard
        self.scaler = scaler
        self.adjusting = adjusting

    def take(self, batches: Sequence[Any], lr: float) -> StepOutcome:
        """The summed loss of all micro-batches divided by the number of valid units, one update."""
        seconds = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
        num_tokens = sum(batch.num_tokens for batch in batches)
        outputs = self.passes.run(batches, seconds)
        began = time.perf_counter()
        tokens, totals = self._sum_over_ranks(num_tokens, add_up(outputs))
        loss_sum, weight = totals["loss"]
        loss = loss_sum / weight if weight else 0.0
        norm = self.passes.normalize(weight * self.scaler.scale)
        reason = self._verdict(loss, norm, weight)
        overflow = reason is not None and reason.startswith("float16 overflow")
        if self.telemetry is not None and not overflow:
            self.telemetry.locate(loss, norm)
        if reason is None:
            if self.telemetry is not None:
                self.telemetry.before_update()
            self.passes.update(lr)
            if self.telemetry is not None:
                self.telemetry.after_update()
        for layer in self.adjusting:
            layer.after_step(self.group, taken=reason is None)
        self.passes.drop()
        seconds["optimizer"] = time.perf_counter() - began
        return StepOutcome(loss, norm, tokens, totals, reason, seconds)

    def _verdict(self, loss: float, norm: float, weight: float) -> str | None:
        if self.scaler.enabled and weight > 0 and math.isfinite(loss):
            overflowed = not math.isfinite(norm)
            self.scaler.update(overflowed=overflowed)
            if overflowed and self.scaler.scale > 1.0:
                return f"float16 overflow, loss scale now {self.scaler.scale:g}"
        return self.guard.verdict(loss, norm, weight)

    def _sum_over_ranks(
        self, tokens: int, totals: dict[str, list[float]]
    ) -> tuple[int, dict[str, list[float]]]:
        if self.group.world_size == 1:
            return tokens, totals
        names = sorted(totals)
        flat = [float(tokens), *(value for name in names for value in totals[name])]
        summed = self.group.sum_(torch.tensor(flat, dtype=torch.float64)).tolist()
        pairs = zip(names, zip(summed[1::2], summed[2::2], strict=True), strict=True)
        return int(summed[0]), {name: list(pair) for name, pair in pairs}


def _narrow_copy(
    model: CausalLM,
    trained: Sequence[nn.Parameter],
    dtype: torch.dtype | None,
    flat: Flat | None,
) -> tuple[CausalLM, list[tuple[Tensor, Tensor]]]:
    """The model that is computed with, and the pairs of a weight and its narrow copy.

    Only what is narrower is kept twice; what flat storage holds has its copy beside it there.
    """
    working = copy.deepcopy(model) if dtype is not None else copy.copy(model)
    working.__dict__.pop("hidden_states", None)  # telemetry's, which is told by `saw`
    if dtype is None:
        return working, []
    kept = wide_weights(model)
    places = {id(parameter): number for number, parameter in enumerate(trained)}
    beside = flat.narrow_copies(dtype) if flat is not None else {}
    pairs: list[tuple[Tensor, Tensor]] = []
    masters = dict(model.named_parameters())
    for name, parameter in working.named_parameters():
        master = masters[name]
        if name in kept or not master.is_floating_point():
            parameter.data = master.data
            continue
        place = places.get(id(master))
        narrow = beside.get(place) if place is not None else None
        parameter.data = master.data.to(dtype) if narrow is None else narrow
        pairs.append((master, parameter.data))
    with torch.no_grad():
        for wide, copied in pairs:
            copied.copy_(wide)
    return working, pairs


def _added(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if total is None or gradient is None:
        return gradient.float() if total is None and gradient is not None else total
    return total.add_(gradient)


def build_step(
    model: CausalLM,
    objective: Objective[Any],
    optimizer: Optimizer,
    config: TrainConfig,
    *,
    layout: Layout | None = None,
    guard: Guard | None = None,
    clipper: Clipper | None = None,
    scaler: LossScaler | None = None,
    telemetry: Telemetry | None = None,
) -> TrainStep:
    """The step that `config.precision` and `config.compile` ask for; `auto` is neither, as in short runs.

    Where the objective is not made to be compiled in one graph with this model (`InOneGraph`), or the
    weights are not in float32, and with `parallel` in the recipe, each block is compiled by itself.
    """
    layout, clipper = layout or Layout(), clipper or config.clipper()
    group = layout.data
    scaler = scaler or LossScaler(enabled=config.stated_precision == "float16")
    frozen = adapters_of(model) is not None  # then nothing of the base may change, buffers neither
    adjusting = [m for m in model.modules() if isinstance(m, AfterStep) and not frozen]
    passes: Passes
    precision, compiled = config.stated_precision, config.compile is True
    if compiled and layout.one_graph and in_one_graph(model, objective, precision):
        passes = CompiledPasses(
            model,
            objective,
            optimizer,
            narrow=torch.bfloat16 if precision == "bfloat16" else None,
            group=group,
            clipper=clipper,
            telemetry=telemetry,
        )
    else:
        if compiled:
            for block in model.blocks:
                block.compile()
        passes = PlainPasses(
            model,
            objective,
            optimizer,
            precision=precision,
            layout=layout,
            clipper=clipper,
            scaler=scaler,
            telemetry=telemetry,
        )
    return TrainStep(
        passes,
        group=group,
        guard=guard or Guard(config.guard),
        scaler=scaler,
        adjusting=adjusting,
        telemetry=telemetry,
    )


def in_one_graph(model: CausalLM, objective: Objective[Any], precision: Precision) -> bool:
    """Whether `CompiledPasses` can do it: all weights trained, in float32, by an objective that says so."""
    return (
        precision != "float16"
        and isinstance(objective, InOneGraph)
        and objective.in_one_graph(model)
        and adapters_of(model) is None
        and all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    )


def training_flops(model: CausalLM) -> float:
    """Model FLOPs a token of training: 6 for each weight of a matrix it passes, the scores left out.

    An embedding that is not the output projection too multiplies nothing. Source: arXiv:2204.02311,
    appendix B.
    """
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    looked_up = 0 if model.head is None else model.embedding.weight.numel()
    positions = model.position_embedding
    return 6.0 * (matrices - looked_up - (0 if positions is None else positions.weight.numel()))
