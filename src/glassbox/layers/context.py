"""The explicit context of a mixer besides hidden states: positions, documents, cache addressing.

A Context is made once a forward pass and handed to every layer, so that masks and rotary tables
are computed once, not once a layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.layers.pages import Pages
from glassbox.layers.rotary import RotaryScaling
from glassbox.ops.attention import alibi_slopes, causal_mask, document_mask
from glassbox.ops.rotary import rotary_frequencies, rotary_tables


@dataclass
class Auxiliary:
    """Auxiliary losses and measurements of layers, collected over one forward pass.

    losses: name -> one scalar a layer, already times its weight: the mean over this pass's tokens,
        so that the objective adds `total_loss` times its own weight.
    measures: name -> one tensor a layer (the tokens each expert received, ...), detached.
    Layers add to it only where a caller asked for it: `context.auxiliary` is None otherwise.
    """

    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    measures: dict[str, list[Tensor]] = field(default_factory=dict)

    def add_loss(self, name: str, value: Float[Tensor, ""]) -> None:
        """Add one layer's weighted loss."""
        self.losses.setdefault(name, []).append(value)

    def add_measure(self, name: str, value: Tensor) -> None:
        """Add one layer's measurement."""
        self.measures.setdefault(name, []).append(value.detach())

    def total_loss(self) -> Float[Tensor, ""] | None:
        """The sum of all layers' losses, or None where no layer had one."""
        values = [value for layer in self.losses.values() for value in layer]
        return torch.stack(values).sum() if values else None


@dataclass
class Context:
    """Positions, document boundaries and cache addressing of the tokens of one forward pass.

    positions: (B, T) or (1, T), counted from each document's own start; with a state it is also
        the slot of the cache that the token's key and value take.
    documents: (B, T), the number of the packed document that each token belongs to; None where a
        row is one document.
    lengths: (B,), how many tokens of each row are real; None where all are. Attention needs it not
        (padding stands behind, out of sight), mixers with a running state do.
    key_length: S, how many slots of the cache may be looked at; None without a state. All rows
        begin at position 0 where it is T, and none does otherwise.
    pages: where layers with a paged state find their rows' past; None where no layer has one.
    auxiliary: where layers put losses and measurements of their own; None where nobody asked.
    shared: what a layer hands to the later layers of the same pass, by name (RWKV-7's values).

    Raises ValueError for documents together with a state: positions that start anew would write
    two documents into the same slots.
    """

    positions: Int[Tensor, "#B T"]
    documents: Int[Tensor, "B T"] | None = None
    lengths: Int[Tensor, " B"] | None = None
    key_length: int | None = None
    pages: Pages | None = None
    auxiliary: Auxiliary | None = field(default=None, repr=False)
    shared: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _mask: Tensor | None = field(default=None, repr=False)
    _tables: dict[tuple[int, float, RotaryScaling | None], tuple[Tensor, Tensor]] = field(
        default_factory=dict, repr=False
    )

    _slopes: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.key_length is not None and self.documents is not None:
            raise ValueError(
                "packed documents cannot be decoded with a state; give each its own row"
            )

    @property
    def in_order(self) -> bool:
        """Whether keys are this call's own tokens, so that key i is never later than query i.

        So it is without a state, and with one that this call is the first to fill: the last of T
        tokens stands before slot `key_length`, so where that is T, the first stands at 0.
        """
        return self.key_length is None or self.key_length == self.positions.shape[-1]

    def mask(self) -> Bool[Tensor, "#B 1 T S"] | None:
        """The attention mask; None for plain causal attention within the row."""
        if self.in_order and self.documents is None:
            return None
        if self._mask is None:
            if self.key_length is not None:
                slots = torch.arange(self.key_length, device=self.positions.device)
                mask = causal_mask(self.positions, slots.unsqueeze(0))
            else:
                order = torch.arange(self.positions.shape[-1], device=self.positions.device)
                mask = causal_mask(order.unsqueeze(0), order.unsqueeze(0))
                assert self.documents is not None
                mask = mask & document_mask(self.documents, self.documents)
            self._mask = mask.unsqueeze(1)
        return self._mask

    def rotary(
        self, rotary_dim: int, base: float, scaling: RotaryScaling | None = None
    ) -> tuple[Float[Tensor, "#B T 1 R"], Float[Tensor, "#B T 1 R"]]:
        """Cosines and sines for these positions, shared by the layers that ask for the same ones.

        `scaling` stretches them, and multiplies them by its temperature.
        """
        key = (rotary_dim, base, scaling)
        if key not in self._tables:
            if scaling is None:
                frequencies = rotary_frequencies(rotary_dim, base, self.positions.device)
            else:
                frequencies = scaling.frequencies(rotary_dim, base, self.positions)
            cos, sin = rotary_tables(self.positions, frequencies)
            if scaling is not None and scaling.temperature != 1.0:
                cos, sin = cos * scaling.temperature, sin * scaling.temperature
            self._tables[key] = (cos.unsqueeze(2), sin.unsqueeze(2))  # (B, T, 1, R)
        return self._tables[key]

    def slopes(self, num_heads: int) -> Float[Tensor, " H"]:
        """The ALiBi slopes for a number of heads."""
        if num_heads not in self._slopes:
            self._slopes[num_heads] = alibi_slopes(num_heads, self.positions.device)
        return self._slopes[num_heads]
