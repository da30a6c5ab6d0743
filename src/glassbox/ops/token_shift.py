"""The token shift of RWKV: the previous token of every token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.scan import document_starts


def token_shift(
    hidden: Float[Tensor, "B T D"],
    last: Float[Tensor, "B D"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
    """The hidden state before each token, and the last one, for the next call.

    Before a row's first token it is `last` (zero if None), before the first token of each later
    document zero. Tokens from `lengths` on are padding and never become the last one.
    Source: Peng et al., arXiv:2305.13048, section 3.1.1 and figure 2.

    >>> token_shift(torch.tensor([[[1.0], [2.0], [3.0]]]))[0].flatten().tolist()
    [0.0, 1.0, 2.0]
    """
    if last is None:
        shifted = F.pad(hidden[:, :-1], (0, 0, 1, 0))
    else:
        shifted = torch.cat((last.to(hidden.dtype).unsqueeze(1), hidden[:, :-1]), 1)
    if documents is not None:
        shifted = shifted.masked_fill(document_starts(documents).unsqueeze(-1), 0.0)
    if lengths is None:
        return shifted, hidden[:, -1]
    # the one before token `lengths` is the last real one, or `last` where there is none
    padded = torch.cat((shifted[:, :1], hidden), 1)
    return shifted, padded[torch.arange(len(hidden), device=hidden.device), lengths]
