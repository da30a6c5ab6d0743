"""ggml's blocks of 32 as codes that layers run from: what a GGUF file holds, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.compression.affine import AffineCodes
from glassbox.core.errors import UserError
from glassbox.layers.weight_codes import Layout, Parts
from glassbox.ops.ggml_codes import BLOCK, GgmlBlocks, round_q4_0, round_q4_1, round_q8_0
from glassbox.ops.integer_codes import pack_halves, unpack_halves

_ROUND: Mapping[str, Callable[[Tensor], GgmlBlocks]] = MappingProxyType(
    {"Q8_0": round_q8_0, "Q4_0": round_q4_0, "Q4_1": round_q4_1}
)


class GgmlCodes(AffineCodes):
    """W = d q, or of Q4_1 d (q + 8) + m, with d and m in float16 for each 32 weights.

    Tested against: the gguf package, codes and weights to the last bit.
    """

    kind: Literal["ggml"] = "ggml"
    type: Literal["Q8_0", "Q4_0", "Q4_1"] = "Q8_0"

    def layout(self, rows: int, columns: int) -> Layout:
        """Codes as integer codes have them, scales (O, G), and floors of Q4_1."""
        if columns % BLOCK:
            raise UserError(
                f"{self} needs rows of a multiple of {BLOCK} weights, this matrix has {columns} "
                "columns; leave the layer out, or use another format"
            )
        is_wide, groups = self.type == "Q8_0", columns // BLOCK
        codes = ((rows, columns), torch.int8) if is_wide else ((rows, columns // 2), torch.uint8)
        found: Layout = {"codes": codes, "scales": ((rows, groups), torch.float16)}
        if self.type == "Q4_1":
            found["floors"] = ((rows, groups), torch.float16)
        return found

    @property
    def num_bits(self) -> int:
        """Bits of a code."""
        return 8 if self.type == "Q8_0" else 4

    def group_size(self, columns: int) -> int:
        """Always 32."""
        return BLOCK

    def floors(self, parts: Parts) -> Float[Tensor, "O G"]:
        """m + 8 d of Q4_1, 0 of the others."""
        scales = parts["scales"].float()
        return (
            parts["floors"].float() + 8 * scales if "floors" in parts else torch.zeros_like(scales)
        )

    def encode(self, weight: Float[Tensor, "O I"]) -> dict[str, Tensor]:
        """As ggml rounds."""
        rows, columns = weight.shape
        self.layout(rows, columns)
        codes, steps, floors = _ROUND[self.type](weight)
        codes = codes.view(rows, columns)
        parts = {
            "codes": codes if self.num_bits == 8 else pack_halves(codes),
            "scales": steps.view(rows, -1),
        }
        if floors is not None:
            parts["floors"] = floors.view(rows, -1)
        return parts

    def decode(
        self, parts: Parts, columns: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "R I"]:
        """The weights, with ggml's own roundings."""
        codes = parts["codes"] if self.num_bits == 8 else unpack_halves(parts["codes"], columns)
        groups = codes.float().view(len(codes), -1, BLOCK)
        steps = parts["scales"].float().unsqueeze(-1)
        if "floors" in parts:
            wide = steps * (groups + 8) + parts["floors"].float().unsqueeze(-1)
        else:
            wide = steps * groups
        return wide.flatten(1).to(dtype)

    def __str__(self) -> str:
        """As `quantize` names it."""
        return self.type.lower()
