"""Eval mode, autocast and adapter selection while a model is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from glassbox.adapters.base import adapters_of
from glassbox.core.errors import UserError

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Set every module to eval mode inside the context; each module's mode is restored afterwards."""
    every = [model]
    for module in every:  # each step does it, and `modules()` takes ten times as long
        every.extend(child for child in module._modules.values() if child is not None)
    training = [module for module in every if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def autocast_below(model: CausalLM, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast to `dtype` if it is narrower than the weights' dtype; a wider one applies to the
    caches only.
    """
    if dtype is None or dtype.itemsize >= model.dtype.itemsize:
        return nullcontext()
    return torch.autocast(model.device.type, dtype=dtype)


@contextmanager
def reading_with(model: CausalLM, adapter: str | None) -> Iterator[None]:
    """`evaluating`, with the adapter of this name for all rows; None leaves the model unchanged.

    Raises UserError if the model has no adapter of this name.
    """
    chosen: AbstractContextManager[object] = nullcontext()
    if adapter is not None:
        adapters = adapters_of(model)
        if adapters is None:
            raise UserError(f"no adapter '{adapter}': the model has none")
        chosen = adapters.using(adapter)
    with evaluating(model), chosen:
        yield
