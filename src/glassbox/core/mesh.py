"""The ranks of a run as a grid: copies of the model, shards of it, and parts of each matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Mesh:
    """One DeviceMesh with the axes ("replicate", "shard", "tensor"), and the groups of this rank along it.

    Ranks that differ along "tensor" alone are neighbours (on one machine the fastest links) and train
    on the same rows; all others train on different ones.

    world: all ranks. data: the ranks with different rows, "replicate" times "shard". shard: the ranks
    that share one copy of the weights. tensor: the ranks that compute one product together.
    """

    device_mesh: DeviceMesh | None
    world: Group
    data: Group
    replicate: Group
    shard: Group
    tensor: Group


def check_ranks(ranks: int, *, shard: int, tensor: int) -> None:
    """Raise UserError where shard x tensor does not divide the number of ranks."""
    if ranks % (shard * tensor):
        raise UserError(
            f"parallel.fsdp = {shard} times parallel.tensor = {tensor} does not divide the {ranks} "
            "ranks of this run; start a multiple of them with torchrun --nproc-per-node"
        )


def make_mesh(world: Group, *, shard: int, tensor: int, device_type: str) -> Mesh:
    """Lay the ranks out in a grid; the number of copies is what is left of them.

    Raises UserError where shard x tensor does not divide the number of ranks.
    """
    size = world.world_size
    check_ranks(size, shard=shard, tensor=tensor)
    if size == 1:
        return Mesh(None, world, world, world, world, world)
    from torch.distributed.device_mesh import init_device_mesh

    names = ("replicate", "shard", "tensor")
    grid = init_device_mesh(
        device_type, (size // (shard * tensor), shard, tensor), mesh_dim_names=names
    )
    data = grid["replicate", "shard"]._flatten("data")

    def part(mesh: DeviceMesh) -> Group:
        if mesh.size() == 1:
            return Group(local_rank=world.local_rank, leads=world.is_main)
        if mesh.size() == size:  # the very group that everything else uses
            return world
        return Group(
            mesh.get_local_rank(), mesh.size(), world.local_rank, mesh.get_group(), world.is_main
        )

    return Mesh(grid, world, part(data), *(part(grid[name]) for name in names))
