"""Data parallelism for a plain module: gradients are added over ranks while backward still runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from glassbox.core.distributed import Group


@dataclass
class _Sum:
    """A bucket under way: its gradients as one vector, then one count a parameter."""

    flat: Tensor
    work: Any


class DataParallel(nn.Module):
    """Wraps a module so that gradients are summed over all ranks, bucket by bucket, during the
    backward pass.

    Parameters are put into buckets in reverse order, as gradients appear. When the last gradient of
    a bucket is computed, its all-reduce starts and overlaps with the rest of the backward pass.
    All-reduces start in the order of the buckets on every rank, whatever the order of the
    gradients.

    Call `finish()` after `backward()` and before the gradients are used:

        loss = loss_of(parallel(x)); loss.backward(); parallel.finish(); optimizer.step()

    bucket_bytes: size of a bucket.
    reduce: "mean" divides by the number of ranks, as torch's DDP does; "sum" is for losses that are
        sums and are divided by the weight of all ranks, for ranks with different numbers of tokens.
    Parameters and buffers are broadcast from rank 0 at the start; buffers are not synchronized
    afterwards. A
    parameter that only some ranks touch counts as zero on the others; one that no rank touches has
    no gradient. With a single rank it has no effect.
    Source: Li et al., arXiv:2006.15704, sections 3.2 and 4.1.
    Tested against: torch.nn.parallel.DistributedDataParallel, to the bit, and one process with the
    whole batch.
    """

    def __init__(
        self,
        module: nn.Module,
        group: Group,
        *,
        bucket_bytes: int = 25 << 20,
        reduce: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if reduce not in ("mean", "sum"):
            raise ValueError(f"reduce = {reduce!r} is neither 'mean' nor 'sum'")
        if bucket_bytes < 1:
            raise ValueError(f"bucket_bytes = {bucket_bytes} must be at least 1")
        self.module = module
        self.group = group
        self.reduce = reduce
        with torch.no_grad():
            group.broadcast_([*module.parameters(), *module.buffers()])
        trained = [p for p in module.parameters() if p.requires_grad]
        self._buckets = _buckets(trained[::-1], bucket_bytes)
        self._home = {id(p): number for number, b in enumerate(self._buckets) for p in b}
        self._handles = [
            p.register_post_accumulate_grad_hook(self._arrived)
            for p in (trained if group.world_size > 1 else ())
        ]
        self._syncs = True
        self._reset()

    def _reset(self) -> None:
        self._seen: set[int] = set()
        self._missing = [len(bucket) for bucket in self._buckets]
        self._sums: list[_Sum] = []

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The module's output. Raises RuntimeError where `finish()` was left out before."""
        if self._seen and torch.is_grad_enabled():
            raise RuntimeError(
                "gradients of the last backward pass were not finished; call finish() after backward()"
            )
        return self.module(*inputs, **options)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Context in which backward passes only accumulate gradients, for all micro-batches of a
        step except the last.
        """
        before, self._syncs = self._syncs, False
        try:
            yield
        finally:
            self._syncs = before

    @property
    def sums_started(self) -> int:
        """Number of all-reduces started since the last `finish()`."""
        return len(self._sums)

    @property
    def num_buckets(self) -> int:
        """Number of all-reduces per step."""
        return len(self._buckets)

    def finish(self) -> None:
        """Start the remaining all-reduces, wait for all of them, and write the results into the
        gradients.

        Every rank must call it once per step, even if its loss depends on no parameter.
        """
        if self.group.world_size == 1:
            return
        try:
            while len(self._sums) < len(self._buckets):
                self._start()
            for bucket, under_way in zip(self._buckets, self._sums, strict=True):
                under_way.work.wait()
                self._put_back(bucket, under_way.flat)
        finally:
            self._reset()

    def _arrived(self, parameter: Tensor) -> None:
        """A gradient is whole: begin the sums of all buckets that are complete, in order."""
        if not self._syncs:
            return
        if id(parameter) in self._seen:
            raise RuntimeError(
                "a second backward pass before finish(); put all but the last within no_sync()"
            )
        self._seen.add(id(parameter))
        self._missing[self._home[id(parameter)]] -= 1
        while len(self._sums) < len(self._buckets) and self._missing[len(self._sums)] == 0:
            self._start()

    @torch.no_grad()
    def _start(self) -> None:
        bucket = self._buckets[len(self._sums)]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        if self.reduce == "mean":
            parts = [part / self.group.world_size for part in parts]
        touched = parts[0].new_tensor([float(p.grad is not None) for p in bucket])
        flat = torch.cat([*(part.reshape(-1) for part in parts), touched])
        work = dist.all_reduce(flat, group=self.group.handle, async_op=True)
        self._sums.append(_Sum(flat, work))

    @torch.no_grad()
    def _put_back(self, bucket: list[nn.Parameter], flat: Tensor) -> None:
        *parts, touched = flat.split([*(p.numel() for p in bucket), len(bucket)])
        for parameter, part, ranks in zip(bucket, parts, touched.tolist(), strict=True):
            if not ranks:
                continue
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(part.view_as(parameter))


def _buckets(parameters: list[nn.Parameter], most_bytes: int) -> list[list[nn.Parameter]]:
    """Neighbours of one dtype and device together, until they reach so many bytes."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        kind = (parameter.dtype, parameter.device)
        if (
            not buckets
            or size >= most_bytes
            or kind != (buckets[-1][0].dtype, buckets[-1][0].device)
        ):
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.numel() * parameter.element_size()
    return buckets
