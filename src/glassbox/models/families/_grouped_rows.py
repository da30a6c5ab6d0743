"""Matrices whose rows Qwen3-Next stores group by group, and we part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from glassbox.models.family import WeightRule


@dataclass(frozen=True)
class GroupedRows(WeightRule):
    """Rows of theirs are (group, part, row), of ours (part, group, row).

    sizes: each part's rows in one group.
    """

    views: ClassVar[bool] = False
    num_groups: int = 0

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The checkpoint's tensors, from ours."""
        parts = tensor.split([size * self.num_groups for size in self.sizes])
        grouped = [part.unflatten(0, (self.num_groups, -1)) for part in parts]
        return {self.theirs[0]: torch.cat(grouped, 1).flatten(0, 1)}

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Our tensors, from the checkpoint's."""
        grouped = parts[0].unflatten(0, (self.num_groups, -1)).split(self.sizes, 1)
        return torch.cat([part.flatten(0, 1) for part in grouped])


@dataclass(frozen=True)
class GatedQueries(WeightRule):
    """Ours is q, k, v and the output's gate; in theirs each head's gate stands below its query.

    sizes: rows of q, k, v and the gate. theirs: q with the gate, k, v.
    """

    views: ClassVar[bool] = False
    num_heads: int = 0

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The checkpoint's tensors, from ours."""
        q, k, v, gate = tensor.split(self.sizes)
        heads = [part.unflatten(0, (self.num_heads, -1)) for part in (q, gate)]
        return dict(zip(self.theirs, (torch.cat(heads, 1).flatten(0, 1), k, v), strict=True))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Our tensors, from the checkpoint's."""
        both, k, v = parts
        q, gate = both.unflatten(0, (self.num_heads, -1)).chunk(2, 1)
        return torch.cat((q.flatten(0, 1), k, v, gate.flatten(0, 1)))
