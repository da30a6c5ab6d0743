"""What a quantized layer asks of a way to write weights down in few bits: `compression` has the ways.

A matrix (O, I) becomes a few tensors, its parts, each of which has a row for each row of the matrix, so
that rows can be taken, joined and reordered without touching a code.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.ops.quantized_products import wide_dtype, widened_linear

Parts = Mapping[str, Tensor]
Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]

_BAND_NUMBERS = 1 << 20
"""About how many weights are widened at a time, so that a large matrix is never there whole."""


class WeightCodes(Spec, abc.ABC):
    """One way to write a matrix down. Immutable: the numbers are the layer's."""

    @abc.abstractmethod
    def layout(self, rows: int, columns: int) -> Layout:
        """The parts of a matrix by name: shapes, rows first, and dtypes."""

    @abc.abstractmethod
    def encode(self, weight: Float[Tensor, "O I"]) -> dict[str, Tensor]:
        """The parts of a matrix, each weight rounded to the nearest value that there is."""

    @abc.abstractmethod
    def decode(
        self, parts: Parts, columns: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "R I"]:
        """The matrix that these parts, or some rows of each, stand for."""

    def linear(self, x: Float[Tensor, "*shape I"], parts: Parts) -> Float[Tensor, "*shape O"]:
        """x W^T in float32, a band of rows widened at a time. The oracle of every faster one.

        Where no gradient is asked for and the CPU is fast at bfloat16, the product is in that.
        """
        dtype, columns = wide_dtype(x), x.shape[-1]
        found = [
            widened_linear(x, self.decode(band, columns, dtype)) for band in bands(parts, columns)
        ]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def take_rows(self, parts: Parts, rows: Tensor, columns: int) -> dict[str, Tensor]:
        """The parts of some rows, in the plain order."""
        return {name: part.index_select(0, rows) for name, part in parts.items()}

    def pack(
        self, parts: Parts, columns: int, *, few_rows: bool = False
    ) -> dict[str, Tensor] | None:
        """The parts in the order in which this machine's kernels read them; None: they have none.

        Of the same names and sizes, perhaps with further tensors. few_rows: activations are a few rows as
        a rule, as those of an output matrix are.
        """
        return None

    def unpack(self, packed: Parts, columns: int) -> dict[str, Tensor]:
        """What `pack` was given."""
        return dict(packed)

    def packed_linear(
        self, x: Float[Tensor, "*shape I"], packed: Parts
    ) -> Float[Tensor, "*shape O"]:
        """`linear` of what `pack` returned."""
        return self.linear(x, packed)

    def num_bytes(self, rows: int, columns: int) -> int:
        """What a matrix of that size takes."""
        total = 0
        for shape, dtype in self.layout(rows, columns).values():
            numbers = 1
            for size in shape:
                numbers *= size
            total += numbers * dtype.itemsize
        return total


def bands(parts: Parts, columns: int) -> Iterator[dict[str, Tensor]]:
    """The parts, some rows at a time."""
    rows = len(next(iter(parts.values())))
    step = max(64, _BAND_NUMBERS // max(1, columns) // 64 * 64)
    for start in range(0, rows, step):
        yield {name: part[start : start + step] for name, part in parts.items()}
