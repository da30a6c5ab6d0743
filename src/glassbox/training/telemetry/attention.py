"""Attention weights of some queries, recomputed where the fast kernel keeps none."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.layers.context import Context
from glassbox.layers.key_value_state import KeyValueView
from glassbox.ops.activations import soft_cap
from glassbox.ops.block_attention import band


class ObservedView(KeyValueView):
    """What queries attend to without a state, and beside it the entropy and the largest score of some.

    Given to an attention layer as its state for one pass; the layer's output is the same.
    entropy: (H,), mean over queries of -sum w log w in nats, sinks counted as a key.
    largest: the largest score before the softmax.
    """

    def __init__(self, queries: int) -> None:
        self.queries = queries
        self.entropy: Tensor | None = None
        self.largest: Tensor | None = None

    def attend(
        self, q: Tensor, keys: Tensor, values: Tensor, context: Context, **options: Any
    ) -> Tensor:
        """The attention of `KeyValueView`; scores of evenly spread queries are looked at."""
        with torch.no_grad():
            length = q.shape[2]
            count = min(self.queries, length)
            places = torch.linspace(0, length - 1, count, device=q.device).round().long()
            self.entropy, self.largest = attention_entropy(
                q[:, :, places], keys, places, self.attended(keys, values, context).mask, **options
            )
        return super().attend(q, keys, values, context, **options)


def attention_entropy(
    q: Float[Tensor, "B H Q Dh"],
    keys: Float[Tensor, "B K S Dh"],
    places: Tensor,
    mask: Tensor | None,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " H"] | None = None,
    slopes: Float[Tensor, " H"] | None = None,
) -> tuple[Float[Tensor, " H"], Float[Tensor, ""]]:
    """Each head's mean entropy of attention weights in nats over queries at `places`, and the largest score.

    The weights are those of `ops.attention.attention_plain` with the same options; mask is (B, 1, S, S)
    or None for plain causal attention. Queries that may look nowhere are left out.
    Tested against: transformers' attention weights (`output_attentions`), and the definition in a loop.
    """
    size = keys.shape[2]
    keys = keys.repeat_interleave(q.shape[1] // keys.shape[1], dim=1).float()
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * (q.float() @ keys.transpose(-1, -2))  # (B, H, Q, S)
    if softcap is not None:
        scores = soft_cap(scores, softcap)
    if slopes is not None:
        distance = places.unsqueeze(-1) - torch.arange(size, device=q.device)
        scores = scores - slopes[:, None, None] * distance
    seen = band(size, size, window, device=q.device)[..., places, :]
    if mask is not None:
        seen = seen & mask[..., places, :]
    scores = scores.masked_fill(~seen, -math.inf)
    if sinks is not None:
        sink = sinks.view(1, -1, 1, 1).to(scores.dtype).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sink), dim=-1)
    attending = seen.any(-1).expand(scores.shape[:-1])  # (B, H, Q)
    weights = torch.softmax(scores, dim=-1)
    entropy = torch.special.entr(weights).sum(-1).masked_fill(~attending, 0.0)
    number = attending.sum(dim=(0, 2)).clamp(min=1)
    return entropy.sum(dim=(0, 2)) / number, scores.amax()
