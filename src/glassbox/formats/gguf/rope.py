"""Stretched rotary positions in GGUF: keys for linear and YaRN, a tensor of divisors for Llama 3.1.

Source: llama.cpp's `convert_hf_to_gguf.py` and `llama-model.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.models.family import HfConfig
from glassbox.ops.rotary import rotary_frequencies
from glassbox.ops.rotary_scaling import llama3_frequencies

DIVISORS = "rope_freqs.weight"
"""The tensor that Llama 3.1's frequencies are divided by, one a pair of channels."""
MAX_DIVISORS = 1 << 16
KEYS = ("type", "factor", "original_context_length", "finetuned")
_LENGTH = "original_max_position_embeddings"
_LLAMA3: Mapping[str, Any] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    _LENGTH: 8192,
}
"""What all of Llama 3's models have; the divisors do not say it."""


def scaling_metadata(
    words: Mapping[str, Any], prefix: str
) -> tuple[dict[str, Any], Float[Tensor, " R"] | None]:
    """The keys of a scaling in Hugging Face's words, and the divisors where it needs them.

    Raises UserError for a kind that GGUF has no keys for.
    """
    scaling = words.get("rope_parameters") or {}
    kind, start = scaling.get("rope_type", "default"), f"{prefix}rope.scaling."
    if kind == "default":
        return {}, None
    if kind == "linear":
        return {f"{start}type": "linear", f"{start}factor": scaling["factor"]}, None
    if kind == "yarn":
        length = {f"{start}original_context_length": scaling[_LENGTH]}
        return {f"{start}type": "yarn", f"{start}factor": scaling["factor"], **length}, None
    if kind == "llama3":
        return {}, llama3_divisors(words["head_dim"], words["rope_theta"], scaling)
    raise UserError(f"GGUF has no keys for rotary positions of kind '{kind}'; use --to hf")


def read_scaling(
    reader: HfConfig, prefix: str, words: Mapping[str, Any], divisors: Tensor | None
) -> dict[str, Any]:
    """Hugging Face's `rope_parameters`. Raises UserError for a scaling that is not known."""
    start, theta = f"{prefix}rope.scaling.", {"rope_theta": words["rope_theta"]}
    reader.refuse_unless(f"{start}type", ("none", "linear", "yarn"))
    kind = reader.get(f"{start}type", str, "none")
    if divisors is not None:
        reader.refuse_unless(f"{start}type", ("none",))
        found = {**_LLAMA3, "factor": float(divisors.max()), **theta}
        if divisors.shape != (words["head_dim"] // 2,) or not bool((divisors >= 1).all()):
            raise UserError(
                f"{reader.where}: tensor '{DIVISORS}' of shape {tuple(divisors.shape)} should hold "
                f"{words['head_dim'] // 2} divisors of at least 1"
            )
        expected = llama3_divisors(words["head_dim"], words["rope_theta"], found)
        if not torch.allclose(divisors, expected, rtol=1e-4):
            raise UserError(
                f"{reader.where}: tensor '{DIVISORS}' stretches positions otherwise than Llama 3.1 "
                "does; that is not supported"
            )
        return found
    if kind == "none":
        reader.refuse_unless(f"{start}factor", (0, 1, 0.0, 1.0))
        return {"rope_type": "default", **theta}
    scaling = {"rope_type": kind, "factor": reader.get(f"{start}factor", float), **theta}
    if kind == "yarn":
        scaling[_LENGTH] = reader.get(f"{start}original_context_length", int)
    return scaling


def llama3_divisors(head_dim: int, base: float, scaling: Mapping[str, Any]) -> Float[Tensor, " R"]:
    """What each pair's frequency is divided by."""
    plain = rotary_frequencies(head_dim, base, torch.device("cpu"))
    stretched = llama3_frequencies(
        plain,
        scaling["factor"],
        scaling["low_freq_factor"],
        scaling["high_freq_factor"],
        scaling[_LENGTH],
    )
    return (plain / stretched).float()
