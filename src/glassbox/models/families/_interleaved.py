"""q, k and v of GPT-NeoX and BLOOM: one matrix as ours, but head by head instead of part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from glassbox.models.family import WeightRule


@dataclass(frozen=True)
class InterleavedHeads(WeightRule):
    """Rows of theirs are (head, q | k | v, channel); rows of ours are (q | k | v, head, channel)."""

    views: ClassVar[bool] = False
    num_heads: int = 0

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The checkpoint's tensors, from ours."""
        return {self.theirs[0]: self._swap(tensor, 3, self.num_heads)}

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Our tensors, from the checkpoint's."""
        return self._swap(parts[0], self.num_heads, 3)

    def _swap(self, tensor: Tensor, outer: int, inner: int) -> Tensor:
        rows = tensor.unflatten(0, (outer, inner, -1))
        return rows.transpose(0, 1).reshape(tensor.shape)
