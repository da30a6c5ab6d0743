"""Short causal convolution layer, used before recurrent mixers."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw
from glassbox.ops.activations import silu
from glassbox.ops.short_conv import short_conv


class ShortConv(nn.Module):
    """A causal depthwise convolution with SiLU: y_t = silu(b + sum over w of weight[:, 0, w] x_{t -
    (W - 1) + w}).

    Part of a mixer, which keeps the (B, W - 1, C) inputs before a call in its own state:

        out, state["conv"] = conv(x, context, state["conv"])

    weight (C, 1, W) has the layout of torch.nn.Conv1d. Tested against: torch.nn.Conv1d.
    """

    no_decay: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(
        self, channels: int, taps: int, *, bias: bool = False, activation: bool = True
    ) -> None:
        super().__init__()
        assert taps > 1, taps
        self.taps = taps
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(channels, 1, taps))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def initialize(self, draw: Draw) -> None:
        """Initialize weights uniformly within 1 / sqrt(W), as in the published Mamba code, the bias
        to zero.
        """
        bound = 1 / math.sqrt(self.taps)
        nn.init.uniform_(self.weight, -bound, bound, generator=draw.generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def init_state(
        self, batch_size: int, *, device: torch.device, dtype: torch.dtype
    ) -> Float[Tensor, "B P C"]:
        """Return zero inputs."""
        shape = (batch_size, self.taps - 1, self.weight.shape[0])
        return torch.zeros(shape, device=device, dtype=dtype)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        context: Context,
        state: Float[Tensor, "B P C"] | None = None,
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B P C"]]:
        """Return the convolved sequence, and its last inputs for the next call."""
        out, after = short_conv(
            x,
            self.weight.squeeze(1),
            self.bias,
            state,
            documents=context.documents,
            lengths=context.lengths,
        )
        return (silu(out) if self.activation else out), after
