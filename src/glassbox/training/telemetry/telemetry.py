"""Telemetry of one run: what the loop calls at each step, most of the time for nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glassbox.core.devices import Precision, autocast
from glassbox.core.seeding import preserved_rng
from glassbox.models.causal_lm import CausalLM
from glassbox.training.parallel.layout import Layout
from glassbox.training.telemetry.config import TelemetryConfig
from glassbox.training.telemetry.noise import NoiseScale
from glassbox.training.telemetry.probe import LastCall, observe


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to.

    >>> layer_of("blocks.3.mixer.qkv.weight"), layer_of("embedding.weight")
    ('blocks.3', 'embedding')
    """
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() else first


class Telemetry:
    """Measures the first step and every `every`-th: activations, gradients, updates, noise.

    Nothing of it enters the training: weights, random numbers and the order of sums are those of a
    run without it, to the bit (tested). Activations are those of one more forward pass over a few
    rows, so that compiled blocks stay compiled. Between measurements the only cost is a reference to
    the last batch. Gradients are those of the whole step before clipping:
    grad_norm, grad_rms, grad_max a layer; update_ratio = |change of the weights| / |weights| a layer;
    noise_scale, in units of the loss's weight, where a step has several micro-batches.
    """

    def __init__(
        self,
        model: CausalLM,
        config: TelemetryConfig,
        *,
        precision: Precision = "float32",
        layout: Layout | None = None,
    ) -> None:
        self.layout = layout or Layout()
        self.model = model
        self.config = config
        self.precision: Precision = precision
        self.active = False
        self.record: dict[str, float] = {}
        self.call = LastCall(model)
        self.noise = NoiseScale()
        self._values: dict[str, Tensor] = {}
        self._layers: list[str] = []
        self._parameters: list[nn.Parameter] = []
        self._before: list[Tensor] = []
        self._first: tuple[float, float] | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within, the calls of the model are seen."""
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self._layers = [layer_of(name) for name, _ in named]
        self._parameters = [parameter for _, parameter in named]
        with self.call.watching():
            yield

    def begin(self, step: int, *, wanted: bool = False) -> None:
        """Before step number `step` (from 1): whether it is measured; `wanted`: out of turn."""
        every = self.config.every
        self.active = bool(every) and (wanted or step == 1 or step % every == 0)
        self.record, self._values, self._first, self._before = {}, {}, None, []

    def saw(self, ids: Tensor, **options: Any) -> None:
        """What a pass was called with that did not go through the model's own method."""
        self.call.arguments = (ids.detach(), options)

    def after_backward(self, weight: float | Tensor, scale: float, *, last: bool) -> None:
        """After each micro-batch's backward pass; of the first of several its gradient's norm is taken."""
        if self.active and self._first is None:
            if last:
                self._first = (0.0, 0.0)  # an only one tells nothing of the noise
                return
            total = scale * (self.layout.first_weight(weight) or 0.0)
            if total > 0:
                self._first = (total, (self._norm() / total) ** 2)

    def gradients(self, divisor: float, scale: float) -> None:
        """Once gradients are those of the whole step: summed, divided by `divisor`, not yet clipped."""
        if not self.active:
            return
        gradients = [p.grad for p in self._parameters]
        self._by_layer("grad", gradients)
        small, square = self._first or (0.0, 0.0)
        found = self.noise.add(square, self._norm() ** 2, small / scale, divisor / scale)
        if found is not None:
            self.record["noise_scale"] = found
        self.look()

    def locate(self, loss: float, norm: float) -> None:
        """Measure a step whose loss or gradient norm is not finite, unless telemetry is off."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        if self.config.every and not self.active and not finite:
            self._by_layer("grad", [p.grad for p in self._parameters])
            self.look()

    def look(self) -> None:
        """Measure the forward pass on the rows of the last call."""
        if self.call.arguments is None or not self.layout.looks_inside:
            return
        with (
            preserved_rng(),
            autocast(self.model.device, self.precision),
            self.layout.whole(self.model),
        ):
            self._values |= observe(self.model, self.call.arguments, self.config)

    def before_update(self) -> None:
        """Before the optimizer's step."""
        if self.active:
            self._before = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def after_update(self) -> None:
        """After the optimizer's step."""
        if not self._before:
            return
        weights = self.layout.norms(self._parameters, self._before)
        changes = self.layout.norms(
            self._parameters,
            torch._foreach_sub([p.detach() for p in self._parameters], self._before),
        )
        self._before = []
        for layer in dict.fromkeys(self._layers):
            of = [place for place, name in enumerate(self._layers) if name == layer]
            change, weight = (
                torch.stack([norms[place] for place in of]).norm() for norms in (changes, weights)
            )
            self._values[f"update_ratio/{layer}"] = change / weight.clamp(min=1e-30)

    def finish(self) -> None:
        """At the end of the step: `record` holds what was measured; the device is waited for once."""
        if self._values:
            names, tensors = zip(*sorted(self._values.items()), strict=True)
            numbers = torch.stack([t.detach().float().reshape(()) for t in tensors]).tolist()
            self.record |= dict(zip(names, numbers, strict=True))
            self._values = {}

    @torch.no_grad()
    def _by_layer(self, what: str, tensors: Sequence[Tensor | None]) -> None:
        """Norm, root mean square and largest entry of each layer's tensors."""
        there = [
            (layer, parameter, tensor)
            for layer, parameter, tensor in zip(
                self._layers, self._parameters, tensors, strict=True
            )
            if tensor is not None
        ]
        if not there:
            return
        parameters, wide = [p for _, p, _ in there], [tensor for _, _, tensor in there]
        norms = self.layout.norms(parameters, wide)
        largest = self.layout.norms(parameters, wide, math.inf)
        for layer in dict.fromkeys(layer for layer, _, _ in there):
            of = [place for place, (name, _, _) in enumerate(there) if name == layer]
            norm = torch.stack([norms[place] for place in of]).float().norm()
            count = sum(self.layout.count(parameters[place]) for place in of)
            self._values[f"{what}_norm/{layer}"] = norm
            self._values[f"{what}_rms/{layer}"] = norm / math.sqrt(count)
            self._values[f"{what}_max/{layer}"] = torch.stack([largest[p] for p in of]).amax()

    @torch.no_grad()
    def _norm(self) -> float:
        there = [p for p in self._parameters if p.grad is not None]
        gradients = [p.grad for p in there if p.grad is not None]
        if not gradients:
            return 0.0
        return float(torch.stack(self.layout.norms(there, gradients)).float().norm())

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to measure the same, as JSON."""
        return {"noise": self.noise.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load it."""
        self.noise.load_state_dict(state["noise"])
