"""Rotary positions in Hugging Face's words, of transformers 4 and 5."""

from __future__ import annotations

from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.rotary import (
    DynamicNtk,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    Rotary,
    RotaryScaling,
    YarnScaling,
)
from glassbox.models.family import HfConfig

KNOWN = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def rotary_keys(rotary: Rotary, *, partial: bool = False) -> dict[str, Any]:
    """Their words; `partial`: of a family that may turn a part of each head's channels."""
    fraction = {"partial_rotary_factor": rotary.fraction} if partial else {}
    scaling = scaling_keys(rotary.scaling)
    return {
        "rope_theta": rotary.base,  # read by transformers 4, as rope_scaling; rope_parameters by 5
        **fraction,
        **({} if rotary.scaling is None else {"rope_scaling": scaling}),
        "rope_parameters": {**scaling, "rope_theta": rotary.base, **fraction},
    }


def scaling_keys(scaling: RotaryScaling | None) -> dict[str, Any]:
    """`rope_type` and what belongs to it; "default" where they have no word for a scaling.

    That is no silent loss: what is read back from these words differs, so that
    `Family.to_hf_config` finds that the family cannot express it.
    """
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    if isinstance(scaling, DynamicNtk):  # of the length max_position_embeddings
        return {"rope_type": "dynamic", "factor": scaling.factor}
    if isinstance(scaling, Llama3Scaling):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    if isinstance(scaling, YarnScaling):
        rarer = {
            "attention_factor": scaling.attention_factor,
            "mscale": scaling.mscale,
            "mscale_all_dim": scaling.mscale_all_dim,
            "truncate": None if scaling.truncate else False,
        }
        return {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_length,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            **{key: value for key, value in rarer.items() if value is not None},
        }
    if isinstance(scaling, LongRope):
        temperature = scaling.attention_factor
        return {
            "rope_type": "longrope",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_length,
            "short_factor": list(scaling.short_factor),
            "long_factor": list(scaling.long_factor),
            **({} if temperature is None else {"attention_factor": temperature}),
        }
    return {"rope_type": "default"}


def read_rotary(
    raw: HfConfig,
    *,
    base: float = 10000.0,
    partial: float | None = None,
    nested: HfConfig | None = None,
) -> Rotary:
    """Rotary positions; `base` and `partial` are what missing keys mean to the family.

    A family without `partial` turns all channels. `nested` is where its words stand, if not under
    `rope_scaling` or `rope_parameters`. LongRoPE turns by its long factors where the model is for
    more than the original length, as vLLM and llama.cpp decide it (transformers asks each sequence
    for its length). Raises UserError for a scaling that is not known.
    """
    if nested is None:  # transformers 5 lets the older key win where a file has both
        nested = raw.inner("rope_scaling") or raw.inner("rope_parameters")
    nested = nested or HfConfig({}, raw.where)
    fraction = raw.get("partial_rotary_factor", float, partial or 1.0)
    fraction = nested.get("partial_rotary_factor", float, fraction)
    if partial is None and fraction != 1.0:
        raise UserError(
            f"{raw.where}: 'partial_rotary_factor' = {fraction} is not supported; known: 1.0"
        )
    theta = nested.get("rope_theta", float, raw.get("rope_theta", float, base))
    return Rotary(base=theta, fraction=fraction, scaling=_read_scaling(raw, nested))


def refuse_odd(raw: HfConfig, rotary: Rotary, head_dim: int) -> None:
    """Raise UserError where positions would turn half a pair of a head's channels."""
    turned = int(head_dim * rotary.fraction)
    if turned % 2:
        raise UserError(
            f"{raw.where}: rotary positions turn pairs of channels, but 'head_dim' = {head_dim} times "
            f"a share of {rotary.fraction} makes {turned}"
        )


def _read_scaling(raw: HfConfig, nested: HfConfig) -> RotaryScaling | None:
    nested.refuse_unless("rope_type", KNOWN)
    nested.refuse_unless("type", KNOWN)
    kind = nested.get("rope_type", str, nested.get("type", str, "default"))
    if kind == "linear":
        return LinearScaling(factor=nested.get("factor", float))
    if kind == "dynamic":
        return DynamicNtk(
            factor=nested.get("factor", float),
            original_length=raw.get("max_position_embeddings", int),
        )
    if kind == "default":
        return None
    original = raw.find("original_max_position_embeddings", int) or nested.get(
        "original_max_position_embeddings", int, raw.get("max_position_embeddings", int)
    )
    if kind == "llama3":
        return Llama3Scaling(
            factor=nested.get("factor", float),
            low_freq_factor=nested.get("low_freq_factor", float),
            high_freq_factor=nested.get("high_freq_factor", float),
            original_length=original,
        )
    longest = raw.get("max_position_embeddings", int)
    if kind == "longrope":
        return LongRope(
            factor=nested.get("factor", float, longest / original),
            original_length=original,
            short_factor=tuple(nested.find_list("short_factor", float) or ()),
            long_factor=tuple(nested.find_list("long_factor", float) or ()),
            long=longest > original,
            attention_factor=nested.find("attention_factor", float),
        )
    # a null stands for the ratio of the lengths, a missing one for nothing
    ratio = longest / original if "factor" in nested.raw else None
    return YarnScaling(
        factor=nested.get("factor", float, ratio),
        original_length=original,
        beta_fast=nested.get("beta_fast", float, 32.0),
        beta_slow=nested.get("beta_slow", float, 1.0),
        attention_factor=nested.find("attention_factor", float),
        mscale=nested.find("mscale", float),
        mscale_all_dim=nested.find("mscale_all_dim", float),
        truncate=nested.get("truncate", bool, True),
    )
