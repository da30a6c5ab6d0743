"""A product with a single row as a loop of the compiler's own: what a compiled step of one token is made of.

Such a product uses every number of its matrix once, so reading them is all that it costs. torch's kernels are
made for many rows and do not reach that; the compiled sum does, with all threads together.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def is_single_row(x: Float[Tensor, "*shape I"]) -> bool:
    """Whether the compiler is looking at one row, in float32 or wider, on a CPU, for its value alone."""
    return (
        torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and all(size == 1 for size in x.shape[:-1])
    )


def single_row_linear(
    x: Float[Tensor, "*ones I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None = None,
) -> Float[Tensor, "*ones O"]:
    """x W^T + b, as a sum over each row of W. Tested against: F.linear."""
    size = weight.shape[1]
    # as_strided makes the compiler store x, which it would work out anew for each row of W, sigmoids and all
    row = x.reshape(size).contiguous().as_strided((size,), (1,))
    product = (weight * row).sum(dim=-1)
    if bias is not None:
        product = product + bias
    return product.view(*x.shape[:-1], -1)
