"""A matrix laid out once for the products of many rows to come: a copy that oneDNN's kernels read in order.

Of a matrix as it is, a product with a few rows spends as long rearranging it as multiplying. The copy
costs the matrix's memory once more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MIN_ROWS = 2
"""Rows from which the product with the copy is faster whatever the number of threads."""
_TYPICAL_ROWS = 32


def gains(rows: int) -> bool:
    """Whether so many rows are multiplied faster with the copy.

    torch gives one row's product to one thread, which reads the matrix by columns as fast as the copy;
    oneDNN shares it out, and two threads already read at the speed of memory.
    """
    return rows >= MIN_ROWS or (rows == 1 and torch.get_num_threads() > 1)


def can_pack(weight: Tensor) -> bool:
    """Whether this is a matrix that can be packed here: float32, on a CPU, oneDNN in torch's build."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.dim() == 2
        and not torch.is_inference(weight)  # torch counts no writes to those
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class Pack:
    """The copy of one matrix, made by the first product that gains by it, and anew when that changed.

    It knows its matrix by the tensor, its place in memory, and how often torch has written to it. What
    it cannot see is a write past torch's count, through `tensor.data` or a pointer.
    """

    __slots__ = ("_packed", "_plain", "_source", "_writes")

    def __init__(self) -> None:
        self._packed: Tensor | None = None
        self._source: Tensor | None = None
        # the same numbers: while it lives, their place is not reused
        self._plain: Tensor | None = None
        self._writes = -1

    @property
    def num_bytes(self) -> int:
        """Memory held beside the matrix."""
        packed = self._packed  # another thread may ask
        return 0 if packed is None else int(torch.ops.mkldnn._nbytes(packed))

    def linear(
        self,
        x: Float[Tensor, "*shape I"],
        weight: Float[Tensor, "O I"],
        bias: Float[Tensor, " O"] | None = None,
    ) -> Float[Tensor, "*shape O"]:
        """x W^T + b, without derivatives; the plain product where that is faster or the only one.

        Tested against: F.linear.
        """
        gain = gains(x.numel() // weight.shape[1])
        if (
            not gain or x.dim() < 2 or x.dtype != torch.float32 or torch.is_grad_enabled()
        ):  # another thread's, perhaps
            return F.linear(x, weight, bias)
        if not self._holds(weight) and not self._take(weight):
            return F.linear(x, weight, bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")
        return product

    def _holds(self, weight: Tensor) -> bool:
        return (
            weight is self._source
            and self._plain is not None
            and weight.data_ptr() == self._plain.data_ptr()
            and weight._version == self._writes
        )

    def _take(self, weight: Tensor) -> bool:
        """Copy this matrix; False, and nothing held, where there is no way to."""
        self._packed = self._source = self._plain = None  # first: never two copies at a time
        if not can_pack(weight):
            return False
        self._source, self._plain, self._writes = weight, weight.detach(), weight._version
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self._plain, _TYPICAL_ROWS)
        return True
