"""Sources of weights, whatever the file format: checked before use and read in pieces."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.layers.weight_codes import WeightCodes

CHUNK_BYTES = 1 << 22
"""About how much of a file is held at once, beside the model that it goes into."""

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The types that weights are read in, by safetensors' names for them."""


class TensorSource(abc.ABC):
    """Named tensors in a file or folder. Names, shapes and types are known before any is read."""

    where: str
    """The file or folder, quoted, for messages."""

    @property
    @abc.abstractmethod
    def names(self) -> list[str]:
        """All tensors."""

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""

    @abc.abstractmethod
    def dtype(self, name: str) -> str:
        """The type that a tensor is read as, in safetensors' words (F32, BF16, I64)."""

    def file(self, name: str) -> str:
        """The file that a tensor is in, quoted, for messages."""
        return self.where

    def own_name(self, name: str) -> str:
        """What the file calls a tensor, where that is not the name it is asked for by."""
        return name

    @abc.abstractmethod
    def copy_into(self, name: str, out: Tensor) -> None:
        """Read a tensor into one of its shape, of any type and on any device, in pieces."""

    def code_of(self, name: str) -> WeightCodes | None:
        """The codes that a matrix is stored in, where layers run from such; None for others."""
        return None

    def coded(self, name: str) -> tuple[WeightCodes, dict[str, Tensor]] | None:
        """Those codes and the matrix's parts as they are stored; None as `code_of`."""
        return None

    def get(self, name: str) -> Tensor:
        """Read one tensor whole."""
        out = torch.empty(self.shape(name), dtype=TORCH_DTYPES[self.dtype(name)])
        self.copy_into(name, out)
        return out


def row_chunks(shape: Sequence[int], row_bytes: int) -> list[tuple[int, int]]:
    """Ranges of rows, each about CHUNK_BYTES long, that cover a tensor.

    >>> row_chunks((5, 1 << 20), 1 << 21)
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    return [(start, min(shape[0], start + step)) for start in range(0, shape[0], step)]
