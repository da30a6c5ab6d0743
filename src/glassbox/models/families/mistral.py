"""Mistral: Llama with a sliding window in every layer, where the model has one.

Source: Jiang et al., arXiv:2310.06825; sizes as in the models' config.json on the Hub. Tested
against: transformers MistralForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._shared import (
    llama_keys,
    llama_parts,
    llama_rules,
    read_attention,
    read_model,
    read_swiglu,
)
from glassbox.models.family import Family, HfConfig


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """MistralConfig's keys."""
    parts = llama_parts(config)
    if parts is None:
        return None
    return {**llama_keys(config, parts), "sliding_window": parts.mixer.window}


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from MistralConfig's keys; a missing window is 4096 wide, null means none."""
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    block = BlockSpec(
        mixer=read_attention(raw, window=raw.find("sliding_window", int, 4096)),
        ffn=read_swiglu(raw),
        norm=norm,
    )
    layers = [block] * raw.get("num_hidden_layers", int)
    return read_model(raw, layers, norm, context_length=131072)


def _published(**words: Any) -> ModelConfig:
    seven_billion = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
    }
    return read(HfConfig(seven_billion | words))


MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "mistral-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            sliding_window=32,
        ),
        "mistral-7b-v0.1": _published(sliding_window=4096),
        "mistral-7b-v0.3": _published(vocab_size=32768, rope_theta=1e6),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
