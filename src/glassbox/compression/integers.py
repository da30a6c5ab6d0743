"""Integer codes in 4 or 8 bits, a scale a group of a row."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.compression.affine import AffineCodes
from glassbox.layers.weight_codes import Layout, Parts, bands
from glassbox.ops.integer_codes import (
    Grid,
    choose_grid,
    from_grid,
    pack_halves,
    round_to_grid,
    unpack_halves,
)
from glassbox.ops.quantized_products import (
    int8_dynamic_linear,
    int8_kernel_takes,
    int8_rows_linear,
    wide_dtype,
    widened_linear,
)

INT8_KERNEL_ROWS = 4
"""Rows of activations up to which torch's 8-bit kernel beats widening the matrix once."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class IntegerCodes(AffineCodes):
    """W = s (q - z) with q of 4 or 8 bits and one s, and z, for each `group` weights of a row.

    On a CPU products with few rows go through torch's packed kernels (`ops.quantized_products`), many
    rows through a widened matrix in bfloat16 where the machine is fast at that.
    Tested against: torchao's codes and scales; the widened product.
    """

    kind: Literal["integer"] = "integer"
    bits: Literal[4, 8] = 8
    group: int | None = Field(None, ge=8, description="weights that share a scale; null: a row's")
    symmetric: bool = Field(True, description="false: a zero point for each group")
    activations: Literal["float", "int8"] = Field(
        "float", description="int8: each token's activations are rounded to 8 bits for the product"
    )
    scales: Literal["float16", "bfloat16", "float32"] = Field(
        "bfloat16", description="dtype of the scales; torch's 4-bit kernel reads bfloat16"
    )

    @model_validator(mode="after")
    def _fits(self) -> IntegerCodes:
        if self.activations == "int8" and (
            self.bits != 8 or self.group is not None or not self.symmetric
        ):
            raise ValueError("activations = int8 needs bits = 8, group = null and symmetric = true")
        return self

    def layout(self, rows: int, columns: int) -> Layout:
        """Codes (O, I) in int8 or (O, I / 2) bytes of two, scales and zero points (O, G)."""
        groups = -(-columns // self.group_size(columns))
        codes = (
            ((rows, columns), torch.int8)
            if self.bits == 8
            else ((rows, (columns + 1) // 2), torch.uint8)
        )
        found: Layout = {"codes": codes, "scales": ((rows, groups), DTYPES[self.scales])}
        if not self.symmetric:
            found["zeros"] = ((rows, groups), torch.int8)
        return found

    @property
    def num_bits(self) -> int:
        """As `bits` says."""
        return self.bits

    def group_size(self, columns: int) -> int:
        """Weights that share a scale in a row of so many."""
        return columns if self.group is None else min(self.group, columns)

    def grid(
        self, weight: Float[Tensor, "O I"], shrink: float | Float[Tensor, "O G"] = 1.0
    ) -> Grid:
        """Scales and zero points by the extremes of each group, times `shrink`."""
        return choose_grid(
            weight,
            self.bits,
            self.group_size(weight.shape[1]),
            symmetric=self.symmetric,
            shrink=shrink,
            scale_dtype=DTYPES[self.scales],
        )

    def encode(self, weight: Float[Tensor, "O I"]) -> dict[str, Tensor]:
        """Round to nearest, on the grid of each group's extremes."""
        columns = weight.shape[1]
        found: list[dict[str, Tensor]] = []
        for band in bands({"w": weight}, columns):
            grid = self.grid(band["w"])
            codes = round_to_grid(band["w"], grid, self.bits, self.group_size(columns))
            found.append(self.parts_of(codes, grid))
        return {name: torch.cat([parts[name] for parts in found]) for name in found[0]}

    def parts_of(self, codes: Tensor, grid: Grid) -> dict[str, Tensor]:
        """The parts of signed codes (O, I) on a grid."""
        parts = {
            "codes": codes if self.bits == 8 else pack_halves(codes),
            "scales": grid.scales.to(DTYPES[self.scales]),
        }
        if not self.symmetric:
            assert grid.zeros is not None
            parts["zeros"] = grid.zeros.to(torch.int8)
        return parts

    def codes_of(self, parts: Parts, columns: int) -> tuple[Tensor, Grid]:
        """Signed codes and the grid: the inverse of `parts_of`."""
        codes = parts["codes"] if self.bits == 8 else unpack_halves(parts["codes"], columns)
        zeros = None if self.symmetric else parts["zeros"].float()
        return codes, Grid(parts["scales"].float(), zeros)

    def decode(
        self, parts: Parts, columns: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "R I"]:
        """s (q - z)."""
        codes, grid = self.codes_of(parts, columns)
        return from_grid(codes, grid, self.group_size(columns), dtype)

    def linear(self, x: Float[Tensor, "*shape I"], parts: Parts) -> Float[Tensor, "*shape O"]:
        """The product by whichever kernel is fastest for so many rows."""
        if self.bits == 8 and self.group is None and not torch.is_grad_enabled():
            codes, scales = parts["codes"], parts["scales"].float().squeeze(1)
            if self.activations == "int8":
                return int8_dynamic_linear(x, codes, scales)
            return self._int8_rows(x, codes, scales, parts)
        return super().linear(x, parts)

    def _int8_rows(self, x: Tensor, codes: Tensor, scales: Tensor, parts: Parts) -> Tensor:
        if x.numel() // x.shape[-1] <= INT8_KERNEL_ROWS and int8_kernel_takes(codes):
            y = int8_rows_linear(x, codes, scales)
        else:
            dtype, columns = wide_dtype(x), x.shape[-1]
            found = [
                widened_linear(x, band["codes"].to(dtype))
                for band in bands({"codes": codes}, columns)
            ]
            y = (found[0] if len(found) == 1 else torch.cat(found, dim=-1)) * scales
        if not self.symmetric:
            y = y - x.float().sum(-1, keepdim=True) * (parts["zeros"].float().squeeze(1) * scales)
        return y

    def pack(
        self, parts: Parts, columns: int, *, few_rows: bool = False
    ) -> dict[str, Tensor] | None:
        """As `AffineCodes.pack`; not where activations are rounded too, which has a kernel of its own."""
        if self.activations == "int8":
            return None
        return super().pack(parts, columns, few_rows=few_rows)

    def floors(self, parts: Parts) -> Float[Tensor, "O G"]:
        """-s z."""
        scales = parts["scales"].float()
        return -scales * parts["zeros"].float() if "zeros" in parts else torch.zeros_like(scales)

    def __str__(self) -> str:
        """As `quantize` names it.

        >>> str(IntegerCodes(bits=4, group=32, symmetric=True)), str(IntegerCodes(bits=8))
        ('int4-g32-sym', 'int8')
        """
        usual = 64 if self.bits == 4 else None
        group = "" if self.group == usual else "-row" if self.group is None else f"-g{self.group}"
        zero = "" if self.symmetric == (self.bits == 8) else "-sym" if self.symmetric else "-asym"
        return f"int{self.bits}{group}{zero}{'-dynamic' if self.activations == 'int8' else ''}"
