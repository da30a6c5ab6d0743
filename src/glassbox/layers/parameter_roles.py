"""Roles of parameters for optimizers: matrices, fused matrices, parameters without weight decay.

A layer declares them for its own parameters or those of its children:

- `no_decay`: names of parameters that are exempt from weight decay, whatever their shape.
- `matrices`: names of parameters that map one hidden vector to another, or stacks of such matrices.
  Other two-dimensional parameters, such as embeddings and per-channel rates, do not count as
  matrices.
- `fused_rows()`: how the rows of a fused matrix are divided into matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class FusedRows:
    """The number of rows of each matrix in a fused one, in order, repeated `groups` times.

    >>> FusedRows((2, 1), groups=2).split(torch.arange(6).view(6, 1))[1].flatten().tolist()
    [2, 5]
    """

    sizes: tuple[int, ...]
    groups: int = 1

    def split(self, fused: Float[Tensor, "*stack R C"]) -> list[Float[Tensor, "*stack r C"]]:
        """Split a fused matrix into its matrices."""
        parts = fused.unflatten(-2, (self.groups, -1)).split(self.sizes, -2)
        return [part.flatten(-3, -2) for part in parts]

    def join(self, parts: Sequence[Float[Tensor, "*stack r C"]]) -> Float[Tensor, "*stack R C"]:
        """The inverse of `split`."""
        return torch.cat([part.unflatten(-2, (self.groups, -1)) for part in parts], -2).flatten(
            -3, -2
        )


@runtime_checkable
class Fuses(Protocol):
    """A layer with fused matrices."""

    def fused_rows(self) -> Mapping[str, FusedRows]:
        """How the rows of each fused matrix are divided, by parameter name."""


def undecayed(model: nn.Module) -> set[str]:
    """Names of the parameters that a model's layers exempt from weight decay."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in getattr(module, "no_decay", ())
    }


def fused_rows(model: nn.Module) -> dict[str, FusedRows]:
    """The row division of all fused matrices, by parameter name in the model.

    A layer wrapped by an adapter is one level below, under `base`.
    """
    declared = {
        f"{path}.{name}" if path else name: rows
        for path, module in model.named_modules()
        if isinstance(module, Fuses)
        for name, rows in module.fused_rows().items()
    }
    names = {name: name.replace(".base.", ".") for name, _ in model.named_parameters()}
    return {name: declared[plain] for name, plain in names.items() if plain in declared}
