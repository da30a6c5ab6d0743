"""The rows of q and k in two orders: Meta's, a pair's two side by side, and Hugging Face's, half a
head apart. Each turns the other order's pairs into nonsense, so a file's order must be known.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def pairs_together(rows: Float[Tensor, " H_Dh *D"], heads: int) -> Float[Tensor, "H 2 half *D"]:
    """Rows in Meta's order, as a view in which the two of a pair are index 0 and 1 of axis 1."""
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2)


def pairs_apart(rows: Float[Tensor, " H_Dh *D"], heads: int) -> Float[Tensor, "H 2 half *D"]:
    """The same view of rows in Hugging Face's order."""
    return rows.view(heads, 2, -1, *rows.shape[1:])


def put_together(rows: Float[Tensor, " H_Dh *D"], heads: int) -> Float[Tensor, " H_Dh *D"]:
    """Meta's order from Hugging Face's, copied.

    >>> import torch
    >>> put_together(torch.arange(8.0), heads=2).tolist()
    [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    """
    return pairs_apart(rows, heads).transpose(1, 2).reshape(rows.shape)
