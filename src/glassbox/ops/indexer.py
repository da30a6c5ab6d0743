"""The lightning indexer of DeepSeek sparse attention: inexpensive scores select the tokens that
attention uses.

I_ts = sum_j w_tj relu(q_tj . k_s) over a few small heads j that share one key per token; query t
attends to the K tokens s of its past with the highest I_ts. The selection passes no gradient; the
indexer is trained on the divergence of softmax(I_t) from the attention weights.

Source: DeepSeek-V3.2-Exp (arXiv:2512.02556), section 2: equations 1 to 4.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassbox.ops.chunks import wide
from glassbox.ops.latent import (
    Chosen,
    blocks,
    entry_weights,
    gather,
    in_block,
    products,
    visible_rows,
)
from glassbox.ops.softmax import log_softmax


def index_scores(
    q: Float[Tensor, "B T H Dh"],
    weights: Float[Tensor, "B T H"],
    keys: Float[Tensor, "B S Dh"] | Float[Tensor, "B T S Dh"],
) -> Float[Tensor, "B T S"]:
    """I_ts = sum_j w_tj relu(q_tj . k_s) in float32 or wider; each query may have keys of its own.

    Tested against: the sum as a loop, and transformers DeepseekV32Indexer.
    """
    q, weights, keys = wide(q), wide(weights), wide(keys)  # bf16 would make equals of the best
    return (weights.unsqueeze(2) @ products(q, keys).relu()).squeeze(2)


def highest(scores: Float[Tensor, "B T S"], top_k: int) -> Bool[Tensor, "B T S"]:
    """True at the `top_k` highest scores of each row, exactly as many, top_k <= S.

    Ties (relu makes many zeros) are broken in favour of earlier entries, so that the selection does
    not depend on how a sequence is divided into calls.
    """
    threshold = scores.topk(top_k).values[..., -1:]
    above, level = scores > threshold, scores == threshold
    room = top_k - above.sum(dim=-1, keepdim=True)
    return above | (level & (level.cumsum(dim=-1) <= room))


@torch.no_grad()
def choose(
    q: Float[Tensor, "B T H Dh"],
    weights: Float[Tensor, "B T H"],
    keys: Float[Tensor, "B S Dh"],
    mask: Bool[Tensor, "#B 1 T S"] | None,
    top_k: int,
) -> Chosen:
    """The `top_k` < S entries of each query's past with the highest index scores, in order.

    mask: as in `attention`; None is causal, the last query at the last entry.
    Queries are processed in blocks, so that the T S scores of all heads never exist at once.
    Tested against: `highest` of `index_scores`, and sorting in a loop.
    """
    assert top_k < keys.shape[1], "all would be chosen"
    indices, visible = [], []
    for rows in blocks(q, keys.shape[1], gathered=False):
        # without a mask, keys behind the block's last query need no score
        end = keys.shape[1] if mask is not None else keys.shape[1] - q.shape[1] + rows.stop
        end = max(end, top_k)
        scores = index_scores(q[:, rows], weights[:, rows], keys[:, :end])
        shown = visible_rows(mask, rows, q.shape[1], keys)[..., :end].expand_as(scores)
        taken = highest(scores.masked_fill(~shown, -math.inf), top_k)
        indices.append(taken.nonzero()[:, -1].view(*taken.shape[:2], top_k))
        visible.append(shown.gather(-1, indices[-1]))  # a row that sees fewer took hidden ones too
    return Chosen(torch.cat(indices, dim=1), torch.cat(visible, dim=1))


def chosen_mask(chosen: Chosen, keys: int) -> Bool[Tensor, "B 1 T S"]:
    """The selection of `choose` as a mask over all S entries."""
    shape = (*chosen.indices.shape[:2], keys)
    mask = torch.zeros(shape, dtype=torch.bool, device=chosen.indices.device)
    return mask.scatter_(-1, chosen.indices, chosen.visible).unsqueeze(1)


def indexer_divergence(
    q: Float[Tensor, "B T Hi Di"],
    weights: Float[Tensor, "B T Hi"],
    keys: Float[Tensor, "B S Di"],
    queries: Float[Tensor, "B T H C"],
    entries: Float[Tensor, "B S C"],
    mask: Bool[Tensor, "#B 1 T S"] | None = None,
    *,
    scale: float,
    chosen: Chosen | None = None,
) -> Float[Tensor, "B T"]:
    """KL(p_t || softmax(I_t)) in nats, with p_t the main attention's weights averaged over its
    heads.

    q, weights and keys are the indexer's and receive gradients; `queries` (absorbed) and `entries`
    are the main attention's and do not. Over all entries that a query may attend to (the paper's
    dense warm-up, equation 3) or over its `chosen` entries (sparse training, equation 4).
    Tested against: the two equations as loops.
    """
    queries, entries, length = queries.detach(), entries.detach(), q.shape[1]
    looked_at = keys.shape[1] if chosen is None else chosen.indices.shape[-1]
    found = []
    for rows in blocks(queries, looked_at, gathered=chosen is not None):

        def divergence(
            q: Tensor, weights: Tensor, keys: Tensor, queries: Tensor, rows: slice = rows
        ) -> Tensor:
            here, theirs = entries, keys
            if chosen is None:
                visible = visible_rows(mask, rows, length, keys)
            else:
                visible = chosen.visible[:, rows]
                here, theirs = (gather(x, chosen.indices[:, rows]) for x in (entries, keys))
            target = entry_weights(queries, here, visible, scale).mean(dim=2)  # (B, T, K)
            scores = index_scores(q, weights, theirs)
            guess = log_softmax(scores.masked_fill(~visible, -math.inf))
            guess = guess.masked_fill(~visible, 0.0)
            return (torch.special.xlogy(target, target) - target * guess).sum(dim=-1)

        found.append(in_block(divergence, q[:, rows], weights[:, rows], keys, queries[:, rows]))
    return torch.cat(found, dim=1)
