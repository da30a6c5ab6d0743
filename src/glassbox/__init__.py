"""Glassbox: every part of a large language model, written by hand in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glassbox.inference.sampling import SamplingParams
    from glassbox.pipeline.llm import LLM

__all__ = ["LLM", "SamplingParams", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What is imported only when asked for: the import of this package costs nothing."""
    if name == "LLM":
        from glassbox.pipeline.llm import LLM

        return LLM
    if name == "SamplingParams":
        from glassbox.inference.sampling import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'glassbox' has no attribute {name!r}")
