"""Which matrices of a model an engine packs for its products, when, and for how long (`layers.prepacked`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from glassbox.core.memory import available_memory
from glassbox.layers.linear import Embedding, Linear
from glassbox.layers.prepacked import Pack, can_pack, gains
from glassbox.models.causal_lm import CausalLM

_MIN_NUMBERS = 1 << 18  # smaller matrices stay in the processor's cache, and nothing is gained
_WORTH = 16  # a copy costs what about so many steps gain
_TOKENS = 128  # so many tokens gain as much again as the step that they are in


class Prepacking:
    """Lends packed matrices to a model for as long as a step lasts: layers themselves know nothing of it.

    Packed are linear layers as they are, below adapters too, and the output head, tied or not; not
    experts, nor layers kept in few bits. wanted: True from the first step that gains by it; None when
    so many have come that the copies pay, if they take at most half the memory that is available,
    and until the engine forgets everything (nothing runs; with keep_prefixes, the weights changed);
    False never.
    """

    def __init__(self, model: CausalLM, wanted: bool | None) -> None:
        self.model = model
        self.wanted = wanted
        self.release()

    def release(self) -> None:
        """Give the copies back, and wait anew until they pay."""
        self._owners: list[Linear | CausalLM] | None = None
        self._packs: list[Pack] = []
        self._products: list[tuple[dict[str, Any], str, Callable[[Tensor], Tensor]]] = []
        self._gained = 0

    @property
    def num_bytes(self) -> int:
        """Memory that the copies hold."""
        return sum(pack.num_bytes for pack in self._packs)

    @contextmanager
    def lent(self, num_tokens: int) -> Iterator[None]:
        """The copies in their layers' hands inside, where a step of so many tokens gains by them."""
        if not self._due(num_tokens):
            yield
            return
        products = self._products
        try:
            for attributes, method, product in products:
                attributes[method] = product  # before the class's own, as Python looks it up
            yield
        finally:
            for attributes, method, _ in products:
                attributes.pop(method, None)

    def _due(self, num_tokens: int) -> bool:
        if self.wanted is False or not gains(num_tokens):
            return False
        if self._owners is None:
            self._gained += 1 + num_tokens // _TOKENS
            if self.wanted is None and self._gained < _WORTH:
                return False
            self._owners = self._choose()
            self._packs = [Pack() for _ in self._owners]
            self._products = [
                _product(owner, pack) for owner, pack in zip(self._owners, self._packs, strict=True)
            ]
        return bool(self._owners)

    def _choose(self) -> list[Linear | CausalLM]:
        """Whose matrices are packed: none where their copies would crowd the memory."""
        model = self.model
        found: list[tuple[Linear | CausalLM, int]] = [
            (module, module.weight.numel())
            for module in model.modules()
            if type(module) is Linear and module is not model.head and can_pack(module.weight)
        ]
        head = model.embedding if model.head is None else model.head
        if type(head) in (Linear, Embedding) and can_pack(model.output_weight):
            found.append((model, model.output_weight.numel()))
        found = [(owner, size) for owner, size in found if size >= _MIN_NUMBERS]
        if self.wanted is None and 4 * sum(size for _, size in found) > available_memory() // 2:
            return []
        return [owner for owner, _ in found]


def _product(
    owner: Linear | CausalLM, pack: Pack
) -> tuple[dict[str, Any], str, Callable[[Tensor], Tensor]]:
    """An owner's attributes, its method that multiplies, and what does so with the copy."""
    if isinstance(owner, CausalLM):
        return (
            vars(owner),
            "project",
            lambda hidden: pack.linear(hidden, owner.output_weight, owner.output_bias),
        )
    return vars(owner), "forward", lambda x: pack.linear(x, owner.weight, owner.bias)
