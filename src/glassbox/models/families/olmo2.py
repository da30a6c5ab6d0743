"""OLMo 2: Llama with its norms after each branch, and RMSNorm on all queries and all keys at once.

Source: OLMo team, arXiv:2501.00656; sizes as in the models' config.json on the Hub. Tested against:
transformers Olmo2ForCausalLM, logits and gradients.
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
    """Olmo2Config's keys."""
    parts = llama_parts(config)
    if parts is None:
        return None
    return {**llama_keys(config, parts), "attention_bias": parts.mixer.qkv_bias}


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Olmo2Config's keys."""
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-5))
    bias = raw.get("attention_bias", bool, False)
    block = BlockSpec(
        mixer=read_attention(
            raw, qk_norm=norm, qk_norm_over="all", qkv_bias=bias, output_bias=bias
        ),
        ffn=read_swiglu(raw),
        norm=norm,
        residual="post",
    )
    return read_model(raw, [block] * raw.get("num_hidden_layers", int), norm)


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, size: int, **words: Any
) -> ModelConfig:
    common = {
        "vocab_size": 100352,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": 4096,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-6,
    }
    return read(HfConfig(common | words))


OLMO2 = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "olmo2-tiny": _published(64, 2, 4, 2, 192, vocab_size=512, max_position_embeddings=256),
        "olmo2-1b": _published(2048, 16, 16, 16, 8192),
        "olmo2-7b": _published(4096, 32, 32, 32, 11008),
        "olmo2-13b": _published(5120, 40, 40, 40, 13824),
        "olmo2-32b": _published(5120, 64, 40, 8, 27648),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
