"""Which part of a weight a rank holds: rows of it, heads or channels of it, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from glassbox.core.distributed import Group


@dataclass(frozen=True)
class Split:
    """A division along one axis: each section of it (q, k, v; gate, up) is divided by itself.

    >>> Split(0, (4, 2)).take(torch.arange(6), 1, 2).tolist()
    [2, 3, 5]
    """

    axis: int
    sections: tuple[int, ...]

    def take(self, whole: Tensor, rank: int, ranks: int) -> Tensor:
        """The part of a rank."""
        parts = [
            section.tensor_split(ranks, self.axis)[rank]
            for section in whole.split(self.sections, self.axis)
        ]
        return torch.cat(parts, self.axis)

    def join(self, parts: list[Tensor]) -> Tensor:
        """The inverse of `take`, of the parts of all ranks in order."""
        divided = []
        for rank, part in enumerate(parts):
            sizes = [_share(size, rank, len(parts)) for size in self.sections]
            divided.append(part.split(sizes, self.axis))
        return torch.cat(
            [torch.cat(one, self.axis) for one in zip(*divided, strict=True)], self.axis
        )


def _share(size: int, rank: int, ranks: int) -> int:
    """How many of `size` a rank gets by `tensor_split`: the first ones get one more."""
    return size // ranks + (rank < size % ranks)


@dataclass(frozen=True)
class Piece:
    """How one weight lies over the ranks: divided by `split` over `tensor`, then by rows over `shard`.

    rows: of the tensor-parallel part; None where rows are not divided. Rows are divided as torch.chunk
    and FSDP2 do.
    """

    rows: int | None
    shard: Group
    split: Split | None
    tensor: Group

    def gather(self, local: Tensor) -> Tensor:
        """The whole tensor from every rank's part; each rank of both groups must call it."""
        part = local
        if self.rows is not None and self.shard.world_size > 1:
            size = -(-self.rows // self.shard.world_size)
            padded = local.new_zeros((size, *local.shape[1:]))
            padded[: len(local)] = local
            found = local.new_empty((size * self.shard.world_size, *local.shape[1:]))
            dist.all_gather_into_tensor(found, padded, group=self.shard.handle)
            part = found[: self.rows]
        if self.split is None or self.tensor.world_size == 1:
            return part
        shapes = [self._part_shape(part, rank) for rank in range(self.tensor.world_size)]
        flat = part.new_zeros(math.prod(shapes[0]))  # of rank 0, whose part is the largest
        flat[: part.numel()] = part.reshape(-1)
        flats = [torch.empty_like(flat) for _ in shapes]
        dist.all_gather(flats, flat, group=self.tensor.handle)
        return self.split.join(
            [one[: math.prod(shape)].view(shape) for one, shape in zip(flats, shapes, strict=True)]
        )

    def own(self, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor."""
        if self.split is not None:
            whole = self.split.take(whole, self.tensor.rank, self.tensor.world_size)
        if self.rows is None or self.shard.world_size == 1:
            return whole
        size = -(-self.rows // self.shard.world_size)
        return whole[self.shard.rank * size : (self.shard.rank + 1) * size]

    def _part_shape(self, part: Tensor, rank: int) -> list[int]:
        assert self.split is not None
        shape = list(part.shape)
        ranks = self.tensor.world_size
        shape[self.split.axis] = sum(_share(size, rank, ranks) for size in self.split.sections)
        return shape


def named_piece(key: str, pieces: Mapping[str, Piece]) -> Piece | None:
    """The piece of the weight in a name of optimizer state: `first.NAME`, or `0.first.NAME` of several.

    None for the weight of a companion, whose name may end with that of one of the model's.
    """
    first, _, rest = key.partition(".")
    while first.isdigit():
        first, _, rest = rest.partition(".")
    return pieces.get(rest)


def gather_state(state: Mapping[str, Tensor], pieces: Mapping[str, Piece]) -> dict[str, Tensor]:
    """State by weight name, each tensor whole: what a checkpoint holds whatever the layout."""
    found = {}
    for key, tensor in state.items():
        piece = named_piece(key, pieces) if tensor.dim() else None
        found[key] = tensor if piece is None else piece.gather(tensor)
    return found


def own_state(state: Mapping[str, Tensor], pieces: Mapping[str, Piece]) -> dict[str, Tensor]:
    """This rank's part of state that is whole."""
    found = {}
    for key, tensor in state.items():
        piece = named_piece(key, pieces) if tensor.dim() else None
        found[key] = tensor if piece is None else piece.own(tensor)
    return found
