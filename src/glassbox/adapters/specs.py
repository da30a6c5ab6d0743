"""The union of all adapter specs; a new adapter is its own file and a line here."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from glassbox.adapters.base import AdapterSpec
from glassbox.adapters.bottleneck import BottleneckAdapter
from glassbox.adapters.lora import Lora
from glassbox.adapters.prefix import PrefixTuning
from glassbox.adapters.prompt import PromptTuning

__all__ = [
    "AdapterSpec",
    "AnyAdapter",
    "BottleneckAdapter",
    "Lora",
    "PrefixTuning",
    "PromptTuning",
]

AnyAdapter = Annotated[
    Lora | BottleneckAdapter | PrefixTuning | PromptTuning, Field(discriminator="kind")
]


def adapter_kinds() -> tuple[type[AdapterSpec], ...]:
    """The members of the union."""
    kinds: tuple[type[AdapterSpec], ...] = get_args(get_args(AnyAdapter)[0])
    return kinds
