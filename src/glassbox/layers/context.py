"""The context of a forward pass besides hidden states: positions, document boundaries, cache
addressing.

A Context is created once per forward pass and shared by all layers, so that masks and rotary tables
are computed once.
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


class Auxiliary:
    """Auxiliary losses and measurements of layers, collected over one forward pass.

    losses: name -> one scalar per layer, multiplied by its coefficient: the mean over this pass's
        tokens; the objective adds `total_loss` times its own weight.
    measures: name -> one tensor per layer (such as the number of tokens routed to each expert),
        detached.
    Layers add to it only if `context.auxiliary` is not None. It is no dataclass: those, torch copies on
    their way into a sharded model, and what layers add to a copy would be lost.
    """

    def __init__(self) -> None:
        self.losses: dict[str, list[Tensor]] = {}
        self.measures: dict[str, list[Tensor]] = {}

    def add_loss(self, name: str, value: Float[Tensor, ""]) -> None:
        """Add one layer's weighted loss."""
        self.losses.setdefault(name, []).append(value)

    def add_measure(self, name: str, value: Tensor) -> None:
        """Add one layer's measurement."""
        self.measures.setdefault(name, []).append(value.detach())

    def total_loss(self) -> Float[Tensor, ""] | None:
        """The sum of all layers' losses, or None if there are none."""
        values = [value for layer in self.losses.values() for value in layer]
        return torch.stack(values).sum() if values else None


@dataclass
class Context:
    """Positions, document boundaries and cache addressing of the tokens of one forward pass.

    positions: (B, T) or (1, T), counted from the start of each document; with a state they are also
        the cache slots of the tokens.
    documents: (B, T), index of the packed document of each token; None if each row is one document.
    lengths: (B,), number of tokens in each row before its padding; None if there is no padding.
        Needed by mixers with a recurrent state; attention never looks at padding, which is at the
        end.
    key_length: S, number of cache slots to attend to; None without a state. If it is T, all rows
        begin at position 0, and otherwise none does.
    pages: cache addresses for layers with a paged state; None if there are none.
    auxiliary: collects auxiliary losses and measurements; None if they are not needed.
    shared: values passed from a layer to later layers of the same pass, by name (RWKV-7's values).

    Raises ValueError for documents together with a state, since tokens of two documents would share
    slots.
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
        """Whether the keys are this call's own tokens, so that key i is never later than query i.

        True without a state, and for the first call that fills a state: the last of T tokens is in
        slot `key_length` - 1, so if `key_length` is T the first token is in slot 0.
        """
        return self.key_length is None or self.key_length == self.positions.shape[-1]

    def mask(self) -> Bool[Tensor, "#B 1 T S"] | None:
        """The attention mask, or None for plain causal attention within each row."""
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
        """Cosines and sines for these positions, cached for layers with the same settings.

        scaling: changes the frequencies and multiplies the result by its temperature.
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
