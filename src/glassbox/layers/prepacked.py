"""Prepacked weights: a copy of a matrix in the layout that oneDNN's kernels read.

A product of an unpacked matrix with a few rows spends as much time rearranging the matrix as
multiplying. The copy takes as much memory as the matrix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MIN_ROWS = 2
"""Number of rows from which the product with the packed copy is faster with any number of threads.
"""
_TYPICAL_ROWS = 32


def gains(rows: int) -> bool:
    """Whether a product with this number of rows is faster with the packed copy.

    For a single row torch uses one thread, which reads the matrix as fast as the packed copy;
    oneDNN uses all threads, and two threads already saturate the memory bandwidth.
    """
    return rows >= MIN_ROWS or (rows == 1 and torch.get_num_threads() > 1)


def can_pack(weight: Tensor) -> bool:
    """Whether a matrix can be packed: float32, on a CPU, with a torch build that includes oneDNN."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.dim() == 2
        and not torch.is_inference(weight)  # torch counts no writes to those
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class Pack:
    """The packed copy of one matrix, made by the first product that benefits from it, and remade
    when the matrix has changed.

    A change is detected by the tensor's identity, address and version counter. Writes through
    `tensor.data` or a pointer are not detected.
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
        """Memory of the copy, in bytes."""
        packed = self._packed  # another thread may ask
        return 0 if packed is None else int(torch.ops.mkldnn._nbytes(packed))

    def linear(
        self,
        x: Float[Tensor, "*shape I"],
        weight: Float[Tensor, "O I"],
        bias: Float[Tensor, " O"] | None = None,
    ) -> Float[Tensor, "*shape O"]:
        """Compute x W^T + b without gradients; falls back to the unpacked product if that is faster
        or packing is unavailable.

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
        """Copy the matrix; return False, holding nothing, if it cannot be packed."""
        self._packed = self._source = self._plain = None  # first: never two copies at a time
        if not can_pack(weight):
            return False
        self._source, self._plain, self._writes = weight, weight.detach(), weight._version
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self._plain, _TYPICAL_ROWS)
        return True
