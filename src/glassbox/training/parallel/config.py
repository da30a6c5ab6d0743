"""Settings of a run on several ranks, and of activation checkpointing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.errors import UserError

if TYPE_CHECKING:
    from glassbox.core.distributed import Group
    from glassbox.training.parallel.layout import Layout


class ParallelConfig(Spec):
    """How weights, gradients and optimizer state lie over the ranks, and what is recomputed.

    The ranks that are left by `fsdp` times `tensor` are copies, which train on different rows.
    """

    data: Literal["ddp", "zero1"] = Field(
        "ddp",
        description="copies: ddp sums gradients during the backward pass; zero1 also divides the moments",
    )
    fsdp: int = Field(
        1, ge=1, description="ranks that weights, gradients and moments are divided over"
    )
    tensor: int = Field(
        1, ge=1, description="ranks that the heads and channels of each layer are divided over"
    )
    checkpoint: Literal["none", "full", "selective"] = Field(
        "none",
        description="activations: full recomputes each block in the backward pass; selective keeps "
        "the outputs of matrix products and attention",
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        description="end the run when a rank gets no further for so long, and name it; longer than any "
        "evaluation; null: rank_timeout_minutes alone",
    )
    bucket_mb: float = Field(25.0, gt=0, description="megabytes a sum of gradients")

    @model_validator(mode="after")
    def _layouts_compose(self) -> ParallelConfig:
        if self.data == "zero1" and (self.fsdp > 1 or self.tensor > 1):
            raise ValueError(
                f"parallel.data = 'zero1' does not go with parallel.fsdp = {self.fsdp} and "
                f"parallel.tensor = {self.tensor}; leave it at 'ddp', since fsdp divides the moments too"
            )
        return self

    @property
    def shards(self) -> bool:
        """Whether a rank holds only a part of the weights."""
        return self.fsdp > 1 or self.tensor > 1

    def build(self, group: Group, device_type: str, *, precision: str = "float32") -> Layout:
        """Return the layout on this run's ranks. Raises UserError where they do not fit."""
        from glassbox.core.mesh import make_mesh
        from glassbox.training.parallel.layout import Overlapped
        from glassbox.training.parallel.sharded import Sharded
        from glassbox.training.parallel.zero import Zero

        mesh = make_mesh(group, shard=self.fsdp, tensor=self.tensor, device_type=device_type)
        kind = Sharded if self.shards else Zero if self.data == "zero1" else Overlapped
        return kind(mesh, self, precision=precision)


def parse_layout(text: str) -> tuple[ParallelConfig, int]:
    """The settings and the number of ranks that a name such as `fsdp2xtp2` stands for.

    >>> config, ranks = parse_layout("dp2xfsdp2xtp2")
    >>> config.fsdp, config.tensor, ranks
    (2, 2, 8)
    """
    sizes: dict[str, int] = {}
    for part in text.split("x"):
        found = re.fullmatch(r"(dp|zero|fsdp|tp)([1-9][0-9]*)", part)
        if found is None or found[1] in sizes:
            raise UserError(
                f"layout '{text}': '{part}' is none of dpN, zeroN, fsdpN, tpN, each at most once; "
                "write them as fsdp2xtp2"
            )
        sizes[found[1]] = int(found[2])
    if {"dp", "zero"} <= set(sizes):
        raise UserError(f"layout '{text}': dp and zero are both copies; leave one out")
    config = ParallelConfig(
        data="zero1" if "zero" in sizes else "ddp",
        fsdp=sizes.get("fsdp", 1),
        tensor=sizes.get("tp", 1),
    )
    ranks = 1
    for size in sizes.values():
        ranks *= size
    return config, ranks
