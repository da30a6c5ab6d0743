"""AdamW with 8-bit moments, quantized block by block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.ops.quantization import (
    BLOCK_8BIT,
    Blocks,
    dequantize_blocks,
    dynamic_table,
    quantize_blocks,
)
from glassbox.optim.base import GroupedOptimizer
from glassbox.optim.groups import ParameterGroup

SMALLEST = 4096
"""Tensors with fewer elements keep float32 moments, as in bitsandbytes."""


class AdamW8bit(GroupedOptimizer):
    """AdamW with both moments stored as 8-bit codes in blocks of 256, dequantized for each step.

    The first moment is signed, the second unsigned; the update is `AdamW`'s, in float32. Tensors of fewer
    than `smallest` elements keep float32 moments. A paged optimizer lets the GPU's driver move its
    moments to host memory; on the CPU they are already there, so there is no paged variant.
    Source: Dettmers et al., arXiv:2110.02861. Tested against: bitsandbytes AdamW8bit.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        smallest: int = SMALLEST,
    ) -> None:
        super().__init__(groups)
        self.betas = betas
        self.eps = eps
        self.codes: dict[str, list[Tensor]] = {}
        """Both moments: 8-bit codes for names in `scales`, else the float32 moments themselves."""
        self.scales: dict[str, list[Tensor]] = {}
        for group in self.groups:
            for name, parameter in group.parameters.items():
                size, device = parameter.numel(), parameter.device
                if size < smallest:
                    zeros = [torch.zeros_like(parameter, dtype=torch.float32) for _ in range(2)]
                    self.codes[name] = zeros
                    continue
                like = torch.zeros_like(parameter, dtype=torch.uint8)
                self.codes[name] = [like, like.clone()]
                blocks = -(-size // BLOCK_8BIT)
                self.scales[name] = [torch.zeros(blocks, device=device) for _ in range(2)]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            for name, parameter in group.parameters.items():
                if parameter.grad is not None:
                    self.steps[name] += 1
                    self._step(group, name, learning_rate * group.lr_scale)

    def _step(self, group: ParameterGroup, name: str, lr: float) -> None:
        parameter, count, (beta1, beta2) = group.parameters[name], self.steps[name], self.betas
        assert parameter.grad is not None
        gradient = parameter.grad.float()
        tables = [dynamic_table(signed=signed, device=gradient.device) for signed in (True, False)]
        first, second = self._moments(name, tables)
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (second.sqrt() / (1 - beta2**count) ** 0.5).add_(self.eps)
        weight = parameter.float()
        weight = weight * (1 - lr * group.weight_decay) if group.weight_decay else weight
        parameter.copy_(weight.addcdiv(first, denominator, value=-lr / (1 - beta1**count)))
        if name in self.scales:
            packed = [
                quantize_blocks(moment, table, BLOCK_8BIT)
                for moment, table in zip((first, second), tables, strict=True)
            ]
            self.codes[name] = [part.codes for part in packed]
            self.scales[name] = [part.scales for part in packed]

    def _moments(self, name: str, tables: Sequence[Tensor]) -> list[Tensor]:
        if name not in self.scales:
            return self.codes[name]
        # a scale of zero makes every number zero, as all are before the first step
        return [
            dequantize_blocks(Blocks(codes, scales), table, BLOCK_8BIT)
            for codes, scales, table in zip(
                self.codes[name], self.scales[name], tables, strict=True
            )
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """The codes, scales and step count of every parameter."""
        state = super().state_dict()
        for kind, tensors in (("codes", self.codes), ("scales", self.scales)):
            for name, (first, second) in tensors.items():
                state |= {f"first_{kind}.{name}": first, f"second_{kind}.{name}": second}
        return state
