"""AdamW over flat storage: weights, moments and gradients of a group in one array each.

One pass reads and writes each number once, whatever the number of tensors, and leaves the rounded
copy of the weights beside them. Names, shapes and saved states stay those of `AdamW`, whose tensors
become views.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glassbox.optim.groups import ParameterGroup


@dataclass
class _Segment:
    """A group's storage."""

    group: ParameterGroup
    weights: Tensor
    first: Tensor
    second: Tensor
    copies: Tensor | None = None


class FlatAdamW:
    """`AdamW` with decoupled decay, its tensors laid out in one array a group.

    backend: of `torch.compile`, which makes one loop each of the norm and the update when they are
        first used; None leaves them as they are.

    Tested against: `AdamW`, weights, moments and saved states.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        steps: dict[str, int],
        first: dict[str, Tensor],
        second: dict[str, Tensor],
        *,
        betas: tuple[float, float],
        eps: float,
        backend: str | None = None,
    ) -> None:
        self._update, self._square_sum = update_plain, square_sum_plain
        if backend is not None:
            self._update = torch.compile(update_plain, dynamic=True, backend=backend)
            self._square_sum = torch.compile(square_sum_plain, dynamic=True, backend=backend)
        self.groups = groups
        self.steps = steps
        self.first, self.second = first, second
        self.betas = betas
        self.eps = eps
        self.segments: list[_Segment] = []

    @torch.no_grad()
    def lay_out(self) -> None:
        """Move weights and moments into flat arrays; what holds them sees the same values."""
        self.segments = []
        for group in self.groups:
            parameters = group.parameters
            weights = torch.cat([p.data.reshape(-1) for p in parameters.values()])
            segment = _Segment(
                group,
                weights,
                torch.cat([self.first[name].reshape(-1) for name in parameters]),
                torch.cat([self.second[name].reshape(-1) for name in parameters]),
            )
            for (name, parameter), (start, end) in zip(
                parameters.items(), _places(list(parameters.values())), strict=True
            ):
                parameter.data = segment.weights[start:end].view(parameter.shape)
                self.first[name] = segment.first[start:end].view(parameter.shape)
                self.second[name] = segment.second[start:end].view(parameter.shape)
            self.segments.append(segment)

    def narrow_copies(self, dtype: torch.dtype) -> Mapping[int, Tensor]:
        """For the n-th parameter the view of its narrow copy, which every update renews."""
        views: dict[int, Tensor] = {}
        for segment in self.segments:
            segment.copies = torch.empty_like(segment.weights, dtype=dtype)
            parameters = list(segment.group.parameters.values())
            for parameter, (start, end) in zip(parameters, _places(parameters), strict=True):
                views[len(views)] = segment.copies[start:end].view(parameter.shape)
        return views

    def gathered(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """One array a group of a gradient a parameter."""
        found, start = [], 0
        for segment in self.segments:
            end = start + len(segment.group.parameters)
            found.append(torch.cat([g.reshape(-1) for g in gradients[start:end]]))
            start = end
        return found

    def parts(self, gathered: Sequence[Tensor]) -> list[Tensor]:
        """Views of gathered arrays, one a parameter."""
        return [
            array[start:end].view(parameter.shape)
            for segment, array in zip(self.segments, gathered, strict=True)
            for parameter, (start, end) in zip(
                segment.group.parameters.values(),
                _places(list(segment.group.parameters.values())),
                strict=True,
            )
        ]

    def norm(self, gradients: Sequence[Tensor]) -> float:
        """Euclidean norm of all gradients together, in float32."""
        return math.sqrt(sum(float(self._square_sum(gradient)) for gradient in gradients))

    @torch.no_grad()
    def update(self, learning_rate: float, gradients: Sequence[Tensor], scale: float) -> None:
        """AdamW's step with gradients times `scale`."""
        beta1, beta2 = self.betas
        for segment, gradient in zip(self.segments, gradients, strict=True):
            for name in segment.group.parameters:
                self.steps[name] += 1
            count = self.steps[name]
            lr = learning_rate * segment.group.lr_scale
            # a tensor: the compiler would take numbers for constants, and compile anew at each step
            numbers = torch.tensor(
                [
                    scale,
                    1 - lr * segment.group.weight_decay,
                    lr / (1 - beta1**count),
                    1 / math.sqrt(1 - beta2**count),
                ]
            )
            self._update(
                segment.weights, segment.first, segment.second, segment.copies, gradient,
                numbers, beta1, beta2, self.eps,
            )  # fmt: skip


def update_plain(
    weights: Tensor,
    first: Tensor,
    second: Tensor,
    copies: Tensor | None,
    gradient: Tensor,
    numbers: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One step of AdamW in place; `numbers` are what multiplies gradient, weight, step and root."""
    scale, keep, lr, root = numbers.unbind()
    gradient = gradient.to(weights.dtype) * scale
    moment = first + (1 - beta1) * (gradient - first)
    square = beta2 * second + (1 - beta2) * gradient * gradient
    updated = weights * keep - lr * moment / (square.sqrt() * root + eps)
    first.copy_(moment)
    second.copy_(square)
    weights.copy_(updated)
    if copies is not None:
        copies.copy_(updated)


def square_sum_plain(gradient: Tensor) -> Tensor:
    """The sum of squares, in float32."""
    return gradient.to(torch.float32).square().sum()


def _places(parameters: Sequence[nn.Parameter]) -> list[tuple[int, int]]:
    """Where each begins and ends in a flat array."""
    places, start = [], 0
    for parameter in parameters:
        places.append((start, start + parameter.numel()))
        start += parameter.numel()
    return places
