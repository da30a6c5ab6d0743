"""Quantized models in files: how config.json says which layer is in which codes.

A folder of ours with quantized layers has their parts in model.safetensors as they are in memory, under our
own names (`blocks.0.mixer.qkv.codes`, `.scales`), and in config.json the key

    "quantization_config": {"quant_method": "glassbox", "codes": [...], "layers": {path: number}, "made": {...}}

where `codes` are specs (`compression.codes`), `layers` says by its number which of them a layer is in, and
`made` how it was made: the method and the hash of the calibration text. Nothing in it can run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from glassbox.compression import AnyCodes, Plan
from glassbox.compression.swap import plan_of
from glassbox.core.config import Spec, parse
from glassbox.core.errors import UserError
from glassbox.models.causal_lm import CausalLM

METHOD = "glassbox"
KEY = "quantization_config"


class CompressedConfig(Spec):
    """The key `quantization_config` of a folder of ours."""

    quant_method: str = METHOD
    codes: tuple[AnyCodes, ...] = Field((), max_length=1024)
    layers: dict[str, int] = Field(default_factory=dict, max_length=1 << 17)
    scaled_inputs: tuple[str, ...] = Field((), max_length=1 << 17)
    made: dict[str, Any] = Field(default_factory=dict)


def describe(model: CausalLM, made: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What config.json says of a model's quantized layers; None where it has none."""
    plan = plan_of(model)
    if not plan.layers:
        return None
    known = list(dict.fromkeys(plan.layers.values()))
    return {
        "quant_method": METHOD,
        "codes": [codes.model_dump(mode="json") for codes in known],
        "layers": {path: known.index(codes) for path, codes in plan.layers.items()},
        "scaled_inputs": sorted(plan.scaled_inputs),
        "made": dict(made or getattr(model, "made", {})),
    }


def read_plan(raw: Mapping[str, Any], where: str) -> Plan | None:
    """Which layers are in which codes; None where the folder's weights are plain, or others' codes.

    Raises UserError naming the key that is wrong.
    """
    words = raw.get(KEY)
    if not isinstance(words, Mapping) or words.get("quant_method") != METHOD:
        return None
    config = parse(CompressedConfig, dict(words), where=f"{where}, '{KEY}'")
    for path, number in config.layers.items():
        if not 0 <= number < len(config.codes):
            raise UserError(
                f"{where}, '{KEY}': layer '{path[:100]}' is said to be in codes number {number}, of "
                f"{len(config.codes)}; the file is damaged"
            )
    for path in config.scaled_inputs:
        if path not in config.layers:
            raise UserError(
                f"{where}, '{KEY}': 'scaled_inputs' names '{path[:100]}', which is not among 'layers'; "
                "the file is damaged"
            )
    layers = {path: config.codes[number] for path, number in config.layers.items()}
    return Plan(layers, frozenset(config.scaled_inputs), config.made)
