"""Decides which matrices of a model an engine prepacks, and when (see `layers.prepacked`)."""

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
    """Provides a model with packed matrices for the duration of a step, without changing its
    layers.

    Linear layers are packed, also those below adapters, and the output projection, tied or not;
    experts and quantized layers are not.
    wanted: True: from the first step that benefits; None: once enough such steps have run that the
        copies pay off, if they take at most half the available memory, until the engine is idle
        (with keep_prefixes, until the weights change); False: never.
    """

    def __init__(self, model: CausalLM, wanted: bool | None) -> None:
        self.model = model
        self.wanted = wanted
        self.release()

    def release(self) -> None:
        """Free the copies, and wait again until they pay off."""
        self._owners: list[Linear | CausalLM] | None = None
        self._packs: list[Pack] = []
        self._products: list[tuple[dict[str, Any], str, Callable[[Tensor], Tensor]]] = []
        self._gained = 0

    @property
    def num_bytes(self) -> int:
        """Memory of the copies, in bytes."""
        return sum(pack.num_bytes for pack in self._packs)

    @contextmanager
    def lent(self, num_tokens: int) -> Iterator[None]:
        """Use the copies inside the context, if a step of this number of tokens benefits."""
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
        """The layers to pack; none if their copies would take too much memory."""
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
    """The attributes of a layer: its product method, and the same with the packed copy."""
    if isinstance(owner, CausalLM):
        return (
            vars(owner),
            "project",
            lambda hidden: pack.linear(hidden, owner.output_weight, owner.output_bias),
        )
    return vars(owner), "forward", lambda x: pack.linear(x, owner.weight, owner.bias)
