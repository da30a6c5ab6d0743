"""Gradient clipping: global, per parameter, or with an adaptive threshold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from glassbox.optim.clipping.adaptive import AdaptiveClip
from glassbox.optim.clipping.base import Clipper, global_norm
from glassbox.optim.clipping.by_global_norm import GlobalClip, clip_by_global_norm_
from glassbox.optim.clipping.per_parameter import ParameterClip

__all__ = [
    "AdaptiveClip",
    "Clip",
    "Clipper",
    "GlobalClip",
    "ParameterClip",
    "clip_by_global_norm_",
    "global_norm",
]

Clip = Annotated[GlobalClip | ParameterClip | AdaptiveClip, Field(discriminator="kind")]
