"""Rotary positions in Hugging Face's words, of transformers 4 and 5."""

from __future__ import annotations

from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.attention import Rotary
from glassbox.models.family import HfConfig


def rotary_words(rotary: Rotary, *, partial: bool = False) -> dict[str, Any]:
    """Their words; `partial`: of a family that may turn a part of each head's channels."""
    fraction = {"partial_rotary_factor": rotary.fraction} if partial else {}
    return {
        "rope_theta": rotary.base,  # read by transformers 4, rope_parameters by 5
        **fraction,
        "rope_parameters": {"rope_type": "default", "rope_theta": rotary.base, **fraction},
    }


def read_rotary(raw: HfConfig, *, base: float = 10000.0, partial: float | None = None) -> Rotary:
    """Rotary positions; `base` and `partial` are what missing keys mean to the family.

    A family without `partial` turns all channels. Raises UserError for rescaled positions that
    are not known, and for a share of the channels that is no even number of them.
    """
    # transformers 5 lets the older key win where a file has both
    nested = raw.inner("rope_scaling") or raw.inner("rope_parameters") or HfConfig({}, raw.where)
    nested.refuse_unless("rope_type", ("default",))
    nested.refuse_unless("type", ("default",))
    fraction = raw.get("partial_rotary_factor", float, partial or 1.0)
    fraction = nested.get("partial_rotary_factor", float, fraction)
    if partial is None and fraction != 1.0:
        raise UserError(
            f"{raw.where}: 'partial_rotary_factor' = {fraction} is not supported; known: 1.0"
        )
    theta = nested.get("rope_theta", float, raw.get("rope_theta", float, base))
    return Rotary(base=theta, fraction=fraction)
