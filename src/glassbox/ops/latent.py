"""Multi-head latent attention (MLA): keys and values of all heads are projected from one small
latent per token.

The cache holds one *entry* per token, [c ; r]: its latent c (L channels) and one rotated key r (P
channels) that all heads share. `up` gives the rest: head h's key is [Uk_h c ; r], its value Uv_h c,
with up_h = [Uk_h ; Uv_h]. Two forms are equivalent:

expanded: computes keys and values, and attends as usual;
absorbed: projects the query to the latents instead, q . (Uk c) = (Uk^T q) . c, and applies the
    value matrix after the sum, sum_s p_s Uv c_s = Uv (sum_s p_s c_s): every head attends to the
    entries themselves, and keys and values are never computed.

Axes in addition to the glossary's: L latent, C = L + P entry, Q = N + P query (N channels without
positions, P with), U = N + Dv rows of a head's `up`.
Source: DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from glassbox.ops.attention import attention
from glassbox.ops.chunks import wide
from glassbox.ops.softmax import softmax

BLOCK_NUMBERS = 2**24
"""Maximum number of scores and gathered values per block of queries: 64 MiB in float32."""


class Chosen(NamedTuple):
    """The K entries selected for each query, and which of them it may attend to."""

    indices: Int[Tensor, "B T K"]
    visible: Bool[Tensor, "B T K"]


def latent_attention_expanded(
    q: Float[Tensor, "B T H Q"],
    entries: Float[Tensor, "B S C"],
    up: Float[Tensor, "H U L"],
    mask: Bool[Tensor, "#B 1 T S"] | None = None,
    *,
    scale: float,
    hides_future: bool = False,
) -> Float[Tensor, "B T H Dv"]:
    """softmax(scale * q [Uk c ; r]^T, masked) Uv c, with all keys and values computed.

    mask: as in `attention`; None is causal, the last query at the last entry.
    Tested against: the sums as loops, and transformers DeepseekV3Attention.
    """
    keys, values = expand(q, entries, up)
    q, keys, values = q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    mixed = attention(q, keys, values, mask, scale=scale, hides_future=hides_future)
    return mixed.transpose(1, 2)


def expand(
    q: Float[Tensor, "B T H Q"], entries: Float[Tensor, "B S C"], up: Float[Tensor, "H U L"]
) -> tuple[Float[Tensor, "B S H Q"], Float[Tensor, "B S H Dv"]]:
    """Compute every head's key [Uk c ; r] and value Uv c of each entry."""
    latents, shared = entries.split((up.shape[-1], entries.shape[-1] - up.shape[-1]), dim=-1)
    made = F.linear(latents, up.flatten(0, 1)).unflatten(-1, up.shape[:2])  # (B, S, H, U)
    own, values = made.split(_key_and_value(q, entries, up), dim=-1)
    keys = torch.cat((own, shared.unsqueeze(2).expand(-1, -1, up.shape[0], -1)), dim=-1)
    return keys, values


def latent_attention_absorbed(
    q: Float[Tensor, "B T H Q"],
    entries: Float[Tensor, "B S C"],
    up: Float[Tensor, "H U L"],
    mask: Bool[Tensor, "#B 1 T S"] | None = None,
    *,
    scale: float,
    chosen: Chosen | None = None,
) -> Float[Tensor, "B T H Dv"]:
    """`latent_attention_expanded` without keys or values: Uv softmax(scale * [Uk^T q ; q'] e^T) c.

    With `chosen` instead of a mask, query t attends only to its K entries, at a cost of T K instead
    of T S. Queries are processed in blocks, so that memory does not grow with T times S.
    Tested against: `latent_attention_expanded`.
    """
    queries = absorb(q, entries, up)
    looked_at = entries.shape[1] if chosen is None else chosen.indices.shape[-1]
    latents = []
    for rows in blocks(queries, looked_at, gathered=chosen is not None):

        def attend(queries: Tensor, entries: Tensor, rows: slice = rows) -> Tensor:
            here = entries if chosen is None else gather(entries, chosen.indices[:, rows])
            if chosen is None:
                seen = visible_rows(mask, rows, q.shape[1], entries)
            else:
                seen = chosen.visible[:, rows]
            weights = entry_weights(queries, here, seen, scale)
            return _mix(weights.to(here.dtype), here[..., : up.shape[-1]])

        latents.append(in_block(attend, queries[:, rows], entries))
    values = up[:, -_key_and_value(q, entries, up)[1] :]
    return torch.einsum("bthl,hvl->bthv", torch.cat(latents, dim=1), values)


def latent_attention(
    q: Float[Tensor, "B T H Q"],
    entries: Float[Tensor, "B S C"],
    up: Float[Tensor, "H U L"],
    mask: Bool[Tensor, "#B 1 T S"] | None = None,
    *,
    scale: float,
    hides_future: bool = False,
) -> Float[Tensor, "B T H Dv"]:
    """The cheaper of the two forms: expanded for many queries, absorbed for few."""
    length, keys = q.shape[1], entries.shape[1]
    if absorbed_cost(q, entries, up, keys) < expanded_cost(q, entries, up):
        return latent_attention_absorbed(q, entries, up, mask, scale=scale)
    hides_future = hides_future and length == keys
    return latent_attention_expanded(q, entries, up, mask, scale=scale, hides_future=hides_future)


def expanded_cost(q: Tensor, entries: Tensor, up: Tensor) -> int:
    """Multiplications per head and row: S keys and values, and T S scores and sums."""
    per_pair = q.shape[-1] + _key_and_value(q, entries, up)[1]
    return entries.shape[1] * (up[0].numel() + q.shape[1] * per_pair)


def absorbed_cost(q: Tensor, entries: Tensor, up: Tensor, looked_at: int) -> int:
    """Multiplications per head and row: T projected queries and sums, and T scores and sums over
    entries each.
    """
    per_pair = entries.shape[-1] + up.shape[-1]
    return q.shape[1] * (up[0].numel() + looked_at * per_pair)


def absorb(
    q: Float[Tensor, "B T H Q"], entries: Float[Tensor, "B S C"], up: Float[Tensor, "H U L"]
) -> Float[Tensor, "B T H C"]:
    """[Uk^T q ; q']: the query whose product with an entry equals that of q with the entry's key."""
    own, shared = _query_parts(q, entries, up)
    keys = up[:, : own.shape[-1]]
    return torch.cat((torch.einsum("bthn,hnl->bthl", own, keys), shared), dim=-1)


def entry_weights(
    queries: Float[Tensor, "B T H C"],
    entries: Float[Tensor, "B S C"] | Float[Tensor, "B T S C"],
    seen: Bool[Tensor, "#B T S"],
    scale: float,
) -> Float[Tensor, "B T H S"]:
    """softmax(scale * queries . entries) over the entries that each query may attend to, in float32
    or wider.
    """
    scores = wide(scale * products(queries, entries))
    return softmax(scores.masked_fill(~seen.unsqueeze(2), -math.inf))


def products(
    queries: Float[Tensor, "B T H C"],
    keys: Float[Tensor, "B S C"] | Float[Tensor, "B T S C"],
) -> Float[Tensor, "B T H S"]:
    """Scores of every head with keys that all heads share; each query may have keys of its own."""
    if keys.dim() == 4:
        return queries @ keys.mT
    return (queries.flatten(1, 2) @ keys.mT).unflatten(1, queries.shape[1:3])


def gather(
    entries: Float[Tensor, "B S C"], chosen: Int[Tensor, "B T K"]
) -> Float[Tensor, "B T K C"]:
    """Select each query's K of the S entries."""
    rows = torch.arange(entries.shape[0], device=entries.device)
    return entries[rows[:, None, None], chosen]


def visible_rows(
    mask: Bool[Tensor, "#B 1 T S"] | None, rows: slice, length: int, entries: Float[Tensor, "B S C"]
) -> Bool[Tensor, "#B R S"]:
    """A block of the mask's rows; without a mask causal, the last of `length` queries at the last
    entry.
    """
    if mask is not None:
        return mask[:, 0, rows]
    places = torch.arange(entries.shape[1], device=entries.device)
    return (places <= places[-length:][rows].unsqueeze(1)).unsqueeze(0)


def blocks(queries: Tensor, keys: int, *, gathered: bool) -> Iterator[slice]:
    """Slices of queries (B, T, H, C) whose scores, and own keys if any, fit in one block."""
    batch, length, heads, width = queries.shape
    rows = max(1, BLOCK_NUMBERS // (batch * keys * (heads + (width if gathered else 0))))
    for start in range(0, length, rows):
        yield slice(start, min(start + rows, length))


def in_block(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), recomputed for the gradient instead of stored."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def _mix(weights: Tensor, latents: Tensor) -> Tensor:
    if latents.dim() == 4:
        return weights @ latents
    return (weights.flatten(1, 2) @ latents).unflatten(1, weights.shape[1:3])


def _key_and_value(q: Tensor, entries: Tensor, up: Tensor) -> tuple[int, int]:
    """N and Dv, the rows of a head's `up` for its key and its value."""
    own = q.shape[-1] - (entries.shape[-1] - up.shape[-1])
    return own, up.shape[1] - own


def _query_parts(q: Tensor, entries: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    own = _key_and_value(q, entries, up)[0]
    return q[..., :own], q[..., own:]
