"""Truncation filters without sorting the vocabulary, on a short list of candidate tokens.

A lower bound on the logits that any filter keeps is inexpensive: min-p gives one itself, and for
top-k and top-p it follows from the maxima of about a thousand blocks of the vocabulary. The tokens
above it form a table a few hundred wide, to which the same filters are applied.

The result equals that of the filters over the whole vocabulary bit for bit: the table keeps the
order of the ids, and sums are sequential, so that the omitted tokens would have added zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.inference.sampling.filters import (
    draw,
    epsilon_filter,
    eta_filter,
    min_p_filter,
    top_h_filter,
    top_k_filter,
    top_p_filter,
    totals,
    typical_filter,
)

_BLOCKS = 1024
_FIRST = 256  # blocks looked at before all of them are
_WIDEST = 4  # a table is at most this part of the vocabulary
_MARGIN = 1 + 1e-9  # for the rounding of sums taken in another order


def draw_filtered(
    logits: Float[Tensor, "N V"],
    columns: Mapping[str, Tensor],
    uniform: Float[Tensor, " N"],
    *,
    small: int = 8192,
) -> Int[Tensor, " N"]:
    """Sample one token of each row after top-k, top-p, min-p and typical, with the settings of
    `columns` (N,).

    Up to `small` numbers are filtered directly, which is faster than a table.
    Tested against: `draw` after the four filters, bit for bit.
    """
    whole_only = (
        (columns["top_h"] > 0) | (columns["epsilon_cutoff"] > 0) | (columns["eta_cutoff"] > 0)
    )
    if logits.numel() <= small or bool(whole_only.any()):  # they are defined by all probabilities
        return draw(filtered(logits, columns), uniform)
    whole = (columns["top_p"] < 1) & (
        columns["top_k"] == 0
    )  # p of the whole vocabulary's probability
    sums = totals(logits) if bool(whole.any()) else None
    reach = logits >= bounds(logits, columns, sums).unsqueeze(-1)
    counts = reach.sum(dim=-1)
    narrow = counts <= max(logits.shape[-1] // _WIDEST, 1)
    if bool(narrow.all()):
        return _draw_narrow(logits, reach, counts, columns, sums, uniform)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    for rows in (narrow.nonzero().squeeze(1), (~narrow).nonzero().squeeze(1)):
        if len(rows):
            own = {name: column[rows] for name, column in columns.items()}
            of = None if sums is None else sums[rows]
            tokens[rows] = (
                _draw_narrow(logits[rows], reach[rows], counts[rows], own, of, uniform[rows])
                if bool(narrow[rows[0]])
                else draw(filtered(logits[rows], own, of), uniform[rows])
            )
    return tokens


def filtered(
    logits: Float[Tensor, "N V"],
    columns: Mapping[str, Tensor],
    sums: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "N V"]:
    """Apply the filters in order, skipping those that no row uses.

    `sums` are `totals` over the whole vocabulary before top-k, if these logits are a short list.
    """
    top_k, top_p = columns["top_k"], columns["top_p"]
    cut = top_k > 0
    if bool((columns["top_h"] > 0).any()):
        logits = top_h_filter(logits, columns["top_h"])
    if bool(cut.any()):
        logits = top_k_filter(logits, top_k)
    if bool((top_p < 1).any()):
        total = sums
        if total is not None and bool(cut.any()):
            total = torch.where(cut, totals(logits), total)
        logits = top_p_filter(logits, top_p, total)
    if bool((columns["min_p"] > 0).any()):
        logits = min_p_filter(logits, columns["min_p"])
    if bool((columns["typical_p"] < 1).any()):
        logits = typical_filter(logits, columns["typical_p"])
    if bool((columns["epsilon_cutoff"] > 0).any()):
        logits = epsilon_filter(logits, columns["epsilon_cutoff"])
    if bool((columns["eta_cutoff"] > 0).any()):
        logits = eta_filter(logits, columns["eta_cutoff"])
    return logits


def bounds(
    logits: Float[Tensor, "N V"],
    columns: Mapping[str, Tensor],
    sums: Float[Tensor, " N"] | None,
) -> Float[Tensor, " N"]:
    """A number per row below which top-k, top-p and min-p keep no logit; -inf if there is none.

    sums: `totals` of the rows; None if no row has top-p without top-k.
    """
    top_k, top_p, min_p = columns["top_k"], columns["top_p"], columns["min_p"]
    best = logits.amax(dim=-1)
    bound = best + min_p.log().to(logits.dtype)
    size = max(1, logits.shape[-1] // _BLOCKS)
    count = logits.shape[-1] // size  # the last tokens, fewer than a block, are left out
    greatest = logits[:, : count * size].unflatten(-1, (size, count)).amax(dim=1)  # (N, blocks)
    few = min(count, max(1 if sums is None else _FIRST, int(top_k.clamp(max=count).max())))
    values = greatest.topk(few, dim=-1).values
    # the k largest blocks have a token each that reaches the k-th
    kth = values.gather(-1, (top_k.clamp(1, few) - 1).unsqueeze(-1)).squeeze(-1)
    kth = kth.masked_fill(top_k > few, -torch.inf)
    # top-p after top-k needs all k for their sum, whatever min-p takes away later
    kth = torch.where(top_p < 1, kth, torch.maximum(bound, kth))
    bound = torch.where(top_k > 0, kth, bound)
    if sums is not None:
        whole = (top_k == 0) & (top_p < 1)
        least = _mass_bound(values, best, top_p * sums)
        rows = (whole & least.isinf()).nonzero().squeeze(1)
        if few < count and len(rows):
            every = greatest[rows].sort(dim=-1, descending=True).values
            least[rows] = _mass_bound(every, best[rows], (top_p * sums)[rows])
        bound = torch.where(whole, torch.maximum(bound, least), bound)
    return bound


def _mass_bound(
    values: Float[Tensor, "N B"], best: Float[Tensor, " N"], wanted: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """The largest of the blocks' maxima at which they have the required mass; -inf if there is
    none.

    Mass is exp(logit - best), summed.
    """
    mass = (values - best.unsqueeze(-1)).exp().cumsum(dim=-1, dtype=torch.float64)
    enough = mass >= (wanted * _MARGIN).unsqueeze(-1)
    first = enough.to(torch.uint8).argmax(dim=-1, keepdim=True)
    return values.gather(-1, first).squeeze(-1).masked_fill(~enough.any(dim=-1), -torch.inf)


def _draw_narrow(
    logits: Float[Tensor, "N V"],
    reach: Bool[Tensor, "N V"],
    counts: Int[Tensor, " N"],
    columns: Mapping[str, Tensor],
    sums: Float[Tensor, " N"] | None,
    uniform: Float[Tensor, " N"],
) -> Int[Tensor, " N"]:
    row, token = reach.nonzero(as_tuple=True)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    ids = torch.zeros((len(logits), int(counts.max())), dtype=torch.int64, device=row.device)
    ids[row, place] = token
    table = torch.full_like(ids, -torch.inf, dtype=logits.dtype)
    table[row, place] = logits[row, token]
    chosen = draw(filtered(table, columns, sums), uniform)
    return ids.gather(-1, chosen.clamp_(max=ids.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
