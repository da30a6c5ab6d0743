"""Whether a model is still the one that computed what is remembered."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from glassbox.models.causal_lm import CausalLM


class WeightsMark:
    """Remembers which tensors a model had, where they lay, and how often torch had written to each.

    So it sees a step of an optimizer, a loaded state, a merge, another active adapter. What it cannot
    see is a write past torch's count, through `tensor.data` or a pointer. Costs a look at each
    tensor, not at its numbers.
    """

    def __init__(self) -> None:
        self._tensors: list[weakref.ref[Tensor]] = []
        self._facts: list[object] = []

    def changed(self, model: CausalLM) -> bool:
        """Whether anything is not as it was at the call before; true of the first call."""
        tensors = [*model.parameters(), *model.buffers()]
        adapters = model.adapters
        facts: list[object] = [(t.data_ptr(), _writes(t)) for t in tensors]
        facts.append(None if adapters is None else (adapters.selection.active, adapters.merged))
        same = facts == self._facts and all(
            ref() is tensor for ref, tensor in zip(self._tensors, tensors, strict=True)
        )
        if not same:
            self._tensors, self._facts = [weakref.ref(tensor) for tensor in tensors], facts
        return not same


def _writes(tensor: Tensor) -> int:
    """How often torch has changed a tensor; those made in inference mode are not counted."""
    return -1 if torch.is_inference(tensor) else tensor._version
