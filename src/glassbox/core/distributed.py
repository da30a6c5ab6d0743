"""Process groups: rank, world size and collective operations behind one handle."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from glassbox.core.errors import UserError


@dataclass(frozen=True)
class Group:
    """The process group of the run, or a part of it; a single process is a group of size one.

    handle: torch's process group; None: all ranks. leads: whether this process is the main one of the
        run where the group is a part of it; None: rank 0 is.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    handle: Any = None
    leads: bool | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes files and prints messages."""
        return self.rank == 0 if self.leads is None else self.leads

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.handle)
        return tensor

    def sum_by_name(self, totals: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        """Sum lists of numbers over all ranks by name; a rank may lack some of the names."""
        if self.world_size == 1:
            return {name: list(numbers) for name, numbers in totals.items()}
        parts: list[Any] = [None] * self.world_size
        own = {name: list(numbers) for name, numbers in totals.items()}
        dist.all_gather_object(parts, own, group=self.handle)
        names = dict.fromkeys(name for part in parts for name in part)
        return {
            name: [
                sum(column) for column in zip(*(p[name] for p in parts if name in p), strict=True)
            ]
            for name in names
        }

    def sum_gradients_(self, tensors: Sequence[Tensor], *, bucket_bytes: int = 32 << 20) -> None:
        """Sum each tensor over all ranks, in place, in buckets so that small tensors share an all-reduce."""
        if self.world_size == 1:
            return
        bucket: list[Tensor] = []
        size = 0
        for index, tensor in enumerate(tensors):
            bucket.append(tensor)
            size += tensor.numel() * tensor.element_size()
            if size < bucket_bytes and index + 1 < len(tensors):
                continue
            flat = torch.cat([part.reshape(-1) for part in bucket])
            dist.all_reduce(flat, group=self.handle)
            for part, summed in zip(
                bucket, flat.split([part.numel() for part in bucket]), strict=True
            ):
                part.copy_(summed.view_as(part))
            bucket, size = [], 0

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite each tensor with rank 0's, so that all ranks start from the same weights."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group=self.handle, group_src=0)

    def barrier(self) -> None:
        """Wait until every rank has reached this call."""
        if self.world_size > 1:
            dist.barrier(group=self.handle)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank."""
        if self.world_size == 1:
            return flag
        return bool(self.sum_(torch.tensor(float(flag))).item() > 0)


@contextlib.contextmanager
def process_group(device_name: str = "auto", *, timeout_minutes: float = 60.0) -> Iterator[Group]:
    """Join the process group that torchrun sets up; without torchrun, a group of size one.

    gloo on CPUs, nccl on CUDA. A rank waits `timeout_minutes` for the others, for example while the
    first one tokenizes; then torch raises an error. The group is destroyed at the end, also after
    an exception.
    """
    try:
        group = Group(
            rank=int(os.environ.get("RANK", "0")),
            world_size=int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1,
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        )
    except ValueError as error:
        raise UserError(
            f"RANK, WORLD_SIZE or LOCAL_RANK is not a number ({error}); start ranks with torchrun"
        ) from None
    if group.world_size == 1:
        yield Group()
        return
    cuda = device_name in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(group.local_rank)
    # gloo serves CPU tensors (flags and sums) beside nccl's CUDA ones
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=timeout_minutes)
    )
    try:
        yield group
    finally:
        dist.destroy_process_group()
