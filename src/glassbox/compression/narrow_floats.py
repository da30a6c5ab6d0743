"""Weights as narrow floats: FP8 (e4m3) and MXFP4."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.layers.weight_codes import Layout, Parts, WeightCodes
from glassbox.ops.float_codes import E4M3_MAX, MX_BLOCK, decode_mxfp4, encode_mxfp4
from glassbox.ops.integer_codes import in_groups


class Float8Codes(WeightCodes):
    """A weight is an e4m3 number times its group's scale, max |w| / 448.

    Products widen the matrix, in bfloat16 exactly but for the scale. Source: arXiv:2209.05433;
    groups of 128 as DeepSeek-V3's files have them, arXiv:2412.19437, section 3.3.
    Tested against: torch's casts; torchao.
    """

    kind: Literal["fp8"] = "fp8"
    group: int | None = Field(None, ge=8, description="weights that share a scale; null: a row's")

    def layout(self, rows: int, columns: int) -> Layout:
        """Codes (O, I), scales (O, G)."""
        groups = 1 if self.group is None else -(-columns // self.group)
        return {
            "codes": ((rows, columns), torch.float8_e4m3fn),
            "scales": ((rows, groups), torch.float32),
        }

    def encode(self, weight: Float[Tensor, "O I"]) -> dict[str, Tensor]:
        """The nearest e4m3 number, halves to even."""
        groups = in_groups(weight.float(), self.group or weight.shape[1])
        scales = groups.abs().amax(-1) / E4M3_MAX
        scales = torch.where(scales < torch.finfo(torch.float32).tiny, 1.0, scales)
        codes = (groups / scales.unsqueeze(-1)).clamp_(-E4M3_MAX, E4M3_MAX).flatten(1)
        narrow = codes[:, : weight.shape[1]].contiguous().to(torch.float8_e4m3fn)
        return {"codes": narrow, "scales": scales}

    def decode(
        self, parts: Parts, columns: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "R I"]:
        """Numbers times scales."""
        groups = in_groups(parts["codes"].float(), self.group or columns)
        wide = groups * parts["scales"].unsqueeze(-1)
        return wide.flatten(1)[:, :columns].to(dtype)

    def take_rows(self, parts: Parts, rows: Tensor, columns: int) -> dict[str, Tensor]:
        """The parts of some rows."""
        codes = parts["codes"].view(torch.uint8).index_select(0, rows).view(torch.float8_e4m3fn)
        return {"codes": codes, "scales": parts["scales"].index_select(0, rows)}

    def __str__(self) -> str:
        """The name in `quantize`."""
        return "fp8" if self.group is None else f"fp8-g{self.group}"


class Mxfp4Codes(WeightCodes):
    """A weight is an e2m1 number times its block's power of two, 32 weights a block.

    Products widen the matrix. Source: OCP Microscaling Formats 1.0. Tested against: the definition as
    loops; the reader of gpt-oss' files.
    """

    kind: Literal["mxfp4"] = "mxfp4"

    def layout(self, rows: int, columns: int) -> Layout:
        """Bytes of two codes, the first in the low half; exponents (O, I / 32)."""
        if columns % MX_BLOCK:
            raise UserError(
                f"mxfp4 needs rows of a multiple of {MX_BLOCK} weights, this matrix has {columns} "
                "columns; leave the layer out, or use another format"
            )
        return {
            "codes": ((rows, columns // 2), torch.uint8),
            "scales": ((rows, columns // MX_BLOCK), torch.uint8),
        }

    def encode(self, weight: Float[Tensor, "O I"]) -> dict[str, Tensor]:
        """The nearest number, halves to even."""
        self.layout(*weight.shape)
        codes, scales = encode_mxfp4(weight)
        return {"codes": codes, "scales": scales}

    def decode(
        self, parts: Parts, columns: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "R I"]:
        """Numbers times powers of two."""
        return decode_mxfp4(parts["codes"], parts["scales"]).to(dtype)

    def __str__(self) -> str:
        """The name in `quantize`."""
        return "mxfp4"
