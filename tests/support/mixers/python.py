"""A mixer of a user's own, without a state: the mean of all tokens so far, projected."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.python_layer import PythonMixer


class RunningMean(nn.Module):
    """Position t: W times the mean of positions 0 to t."""

    def __init__(self, hidden_size: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.scale = scale

    def forward(self, hidden: Tensor) -> Tensor:
        counts = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)
        return self.scale * (hidden.cumsum(dim=1) / counts.unsqueeze(-1)) @ self.weight


MIXERS: dict[str, Spec] = {
    "python": PythonMixer(path="support.mixers.python:RunningMean", options={"scale": 0.5}),
}
