"""Other parameters in the places of a model's own, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import nn


@contextlib.contextmanager
def swapped_parameters(model: nn.Module, instead: Mapping[int, nn.Parameter]) -> Iterator[None]:
    """Within, the parameters whose ids are keys of `instead` are those; names stay the same."""
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in instead
    ]
    for module, name, parameter in places:
        module._parameters[name] = instead[id(parameter)]
    try:
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter
