"""Codes of which a weight is a linear function, group by group: what torch's 4-bit kernel can read."""

from __future__ import annotations

import abc

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.layers.weight_codes import Parts, WeightCodes
from glassbox.ops.integer_codes import join_bytes, pack_halves, split_bytes
from glassbox.ops.quantized_products import (
    from_kernel_order,
    int4_linear,
    int4_rows,
    int4_widened_linear,
    kernel_group,
    kernel_scales,
    to_kernel_order,
)

KERNEL_ROWS = 48
"""Rows of activations up to which torch's 4-bit kernel beats widening the matrix once."""
KERNEL = "kernel_scales"


class AffineCodes(WeightCodes):
    """W = s q + f with signed q in the part `codes` and one s and f for each group of a row.

    Packed, q of 4 bits lie in the order of torch's kernel. q of 8 bits with a scale a group, for which
    torch has no kernel, and those of an output matrix, whose kernel reads memory more slowly, are two matrices of 4 bits one behind the other, 16 s times the one and s times
    the other: twice the kernel's time, the same bytes and the kernel's scales twice.
    """

    @property
    @abc.abstractmethod
    def num_bits(self) -> int:
        """Bits of a code, 4 or 8."""

    @abc.abstractmethod
    def group_size(self, columns: int) -> int:
        """Weights that share s and f in a row of so many."""

    @abc.abstractmethod
    def floors(self, parts: Parts) -> Float[Tensor, "O G"]:
        """f of every group, for signed codes."""

    def pack(
        self, parts: Parts, columns: int, *, few_rows: bool = False
    ) -> dict[str, Tensor] | None:
        """Codes in the order of torch's 4-bit kernel, and its scales."""
        group, codes = self.group_size(columns), parts["codes"]
        size = kernel_group(len(codes), columns, group)
        is_row = self.num_bits == 8 and group == columns  # it has a kernel of its own
        if not size or (is_row and not few_rows):
            return None
        scales, floors = parts["scales"].float(), self.floors(parts)
        repeats = group // size
        if self.num_bits == 4:
            order = to_kernel_order(codes)
            both = kernel_scales(scales, floors, repeats).unsqueeze(0)
        else:
            order = torch.stack([to_kernel_order(half) for half in split_bytes(codes)])
            upper = kernel_scales(16 * scales, floors + 8 * scales, repeats)
            both = torch.stack((upper, kernel_scales(scales, torch.zeros_like(scales), repeats)))
        return {**parts, "codes": order, KERNEL: both}

    def unpack(self, packed: Parts, columns: int) -> dict[str, Tensor]:
        """What `pack` was given."""
        plain = {name: part for name, part in packed.items() if name != KERNEL}
        if self.num_bits == 4:
            return {**plain, "codes": from_kernel_order(packed["codes"])}
        upper, lower = (from_kernel_order(half) for half in packed["codes"])
        return {**plain, "codes": join_bytes(upper, lower, columns)}

    def take_rows(self, parts: Parts, rows: Tensor, columns: int) -> dict[str, Tensor]:
        """The parts of some rows, in the plain order."""
        plain = {name: part for name, part in parts.items() if name != KERNEL}
        if KERNEL not in parts:
            return super().take_rows(plain, rows, columns)
        codes = parts["codes"]
        if self.num_bits == 4:
            found = pack_halves(int4_rows(codes, rows))
        else:
            found = 16 * int4_rows(codes[0], rows) + int4_rows(codes[1], rows) + 8
        rest = {name: part for name, part in plain.items() if name != "codes"}
        return {"codes": found, **super().take_rows(rest, rows, columns)}

    def packed_linear(self, x: Float[Tensor, "*shape I"], packed: Parts) -> Tensor:
        """Torch's 4-bit kernel for few rows; the widened matrix for many."""
        scales, columns = packed[KERNEL], x.shape[-1]
        halves = packed["codes"] if self.num_bits == 8 else packed["codes"].unsqueeze(0)
        if x.numel() // columns <= KERNEL_ROWS:
            group = columns // scales.shape[1]
            y = int4_linear(x, halves[0], scales[0], group)
            return y if len(halves) == 1 else y + int4_linear(x, halves[1], scales[1], group)
        y = int4_widened_linear(x, halves[0], scales[0])
        return y if len(halves) == 1 else y + int4_widened_linear(x, halves[1], scales[1])
