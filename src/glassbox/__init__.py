"""Glassbox: every part of a large language model, written by hand in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glassbox.core.version import __version__

if TYPE_CHECKING:
    from glassbox.api.llm import LLM
    from glassbox.inference.sampling.params import SamplingParams

__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    """What is imported only when asked for: the import of this package costs nothing."""
    if name == "LLM":
        from glassbox.api.llm import LLM

        return LLM
    if name == "SamplingParams":
        from glassbox.inference.sampling.params import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'glassbox' has no attribute {name!r}")
