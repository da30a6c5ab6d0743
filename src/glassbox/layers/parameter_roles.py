"""Roles of parameters for optimizers: matrices, fused matrices, parameters without weight decay.

A layer says so itself, of its own parameters or those of its parts:

- `no_decay`: names of parameters that weight decay leaves alone, whatever their shape.
- `matrices`: names of parameters that turn one hidden vector into another, or stacks of such. Others
  of two axes are none: rows that are looked up, channels' own rates and factors.
- `fused_rows()`: of parameters that are several matrices laid out as one, how their rows divide.
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
    """The rows of each matrix of several, in order; that order comes `groups` times over.

    >>> FusedRows((2, 1), groups=2).split(torch.arange(6).view(6, 1))[1].flatten().tolist()
    [2, 5]
    """

    sizes: tuple[int, ...]
    groups: int = 1

    def split(self, fused: Float[Tensor, "*stack R C"]) -> list[Float[Tensor, "*stack r C"]]:
        """Each matrix by itself."""
        parts = fused.unflatten(-2, (self.groups, -1)).split(self.sizes, -2)
        return [part.flatten(-3, -2) for part in parts]

    def join(self, parts: Sequence[Float[Tensor, "*stack r C"]]) -> Float[Tensor, "*stack R C"]:
        """The inverse of `split`."""
        return torch.cat([part.unflatten(-2, (self.groups, -1)) for part in parts], -2).flatten(
            -3, -2
        )


@runtime_checkable
class Fuses(Protocol):
    """A layer some of whose parameters are several matrices in one."""

    def fused_rows(self) -> Mapping[str, FusedRows]:
        """How their rows divide, by name."""


def undecayed(model: nn.Module) -> set[str]:
    """Names of the parameters that a model's layers exempt from weight decay."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in getattr(module, "no_decay", ())
    }


def fused_rows(model: nn.Module) -> dict[str, FusedRows]:
    """Of all parameters that are several matrices in one, under their names in the model.

    A layer that an adapter wraps stands one level down, under `base`.
    """
    declared = {
        f"{path}.{name}" if path else name: rows
        for path, module in model.named_modules()
        if isinstance(module, Fuses)
        for name, rows in module.fused_rows().items()
    }
    names = {name: name.replace(".base.", ".") for name, _ in model.named_parameters()}
    return {name: declared[plain] for name, plain in names.items() if plain in declared}
