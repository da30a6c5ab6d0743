"""NF4: sixteen quantiles of a normal distribution, a scale for each block of a row."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from glassbox.layers.weight_codes import Layout, Parts, WeightCodes, bands
from glassbox.ops.integer_codes import in_groups
from glassbox.ops.quantization import nf4_table, quantize_blocks


class Nf4Codes(WeightCodes):
    """A weight is the value of its code in `ops.quantization.NF4` times its block's largest magnitude.

    Products widen the matrix: no kernel of torch reads these codes. Source: QLoRA, arXiv:2305.14314,
    section 3. Tested against: bitsandbytes, the same codes and scales.
    """

    kind: Literal["nf4"] = "nf4"
    group: int = Field(64, ge=8, description="weights that share a scale")

    def layout(self, rows: int, columns: int) -> Layout:
        """Codes of two a byte, the first in the high half as bitsandbytes has them; scales (O, G)."""
        return {
            "codes": ((rows, (columns + 1) // 2), torch.uint8),
            "scales": ((rows, -(-columns // self.group)), torch.float32),
        }

    def encode(self, weight: Float[Tensor, "O I"]) -> dict[str, Tensor]:
        """The nearest value."""
        codes, scales = [], []
        table, columns = nf4_table(weight.device), weight.shape[1]
        for band in bands({"w": weight}, columns):
            groups = in_groups(band["w"].float(), self.group)
            found = quantize_blocks(groups, table, self.group)
            numbers = found.codes.flatten(1)[:, :columns]
            if columns % 2:
                numbers = torch.cat((numbers, numbers.new_full((len(numbers), 1), 7)), dim=1)
            codes.append((numbers[:, ::2] << 4) | numbers[:, 1::2])
            scales.append(found.scales.view(len(numbers), -1))
        return {"codes": torch.cat(codes), "scales": torch.cat(scales)}

    def decode(
        self, parts: Parts, columns: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "R I"]:
        """Value of each code times its block's scale."""
        table = nf4_table(parts["codes"].device)
        pairs = torch.stack((table.repeat_interleave(16), table.repeat(16)), dim=1)
        values = pairs[parts["codes"].int()].flatten(1)[:, :columns]
        wide = in_groups(values, self.group) * parts["scales"].unsqueeze(-1)
        return wide.flatten(1)[:, :columns].to(dtype)

    def __str__(self) -> str:
        """The name in `quantize`."""
        return "nf4" if self.group == 64 else f"nf4-g{self.group}"
