"""Llama, and SmolLM2: RMSNorm before each branch, grouped-query attention with rotary positions, SwiGLU.

Source: Touvron et al., arXiv:2302.13971 and arXiv:2307.09288; Llama 3, arXiv:2407.21783; SmolLM2,
arXiv:2502.02737; TinyLlama, arXiv:2401.02385; sizes as in the models' config.json on the Hub.
Tested against: transformers LlamaForCausalLM, logits and gradients.
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
from glassbox.models.shapes import LlamaShape


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """LlamaConfig's keys. transformers insists on whole hidden_size / num_heads and on even heads."""
    parts = llama_parts(config)
    if parts is None or config.hidden_size % parts.mixer.num_heads:
        return None
    return {
        **llama_keys(config, parts),
        "attention_bias": parts.mixer.qkv_bias,
        "mlp_bias": parts.ffn.bias,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from LlamaConfig's keys, of transformers 4 and 5.

    Raises UserError for other activations and unknown scalings of rotary positions.
    """
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    bias = raw.get("attention_bias", bool, False)
    block = BlockSpec(
        mixer=read_attention(raw, qkv_bias=bias, output_bias=bias),
        ffn=read_swiglu(raw, bias=raw.get("mlp_bias", bool, False)),
        norm=norm,
    )
    return read_model(raw, [block] * raw.get("num_hidden_layers", int), norm)


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, size: int, **words: Any
) -> ModelConfig:
    common = {
        "vocab_size": 32000,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    return read(HfConfig(common | words))


TIED = {"tie_word_embeddings": True}
SMOLLM2 = {"vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100000.0, **TIED}
LLAMA3 = {"vocab_size": 128256, "max_position_embeddings": 8192, "rope_theta": 500000.0}


def _stretched(factor: float) -> dict[str, Any]:
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return {**LLAMA3, "max_position_embeddings": 131072, "rope_scaling": scaling}


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "llama-tiny": LlamaShape(
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            ffn_size=192,
            context_length=256,
        ).config(512),
        "llama-1.5m": LlamaShape(
            hidden_size=128,
            num_layers=6,
            num_heads=4,
            num_kv_heads=2,
            ffn_size=384,
            context_length=256,
        ).config(2048),
        "smollm2-135m": _published(576, 30, 9, 3, 1536, **SMOLLM2),
        "smollm2-360m": _published(960, 32, 15, 5, 2560, **SMOLLM2),
        "smollm2-1.7b": _published(2048, 24, 32, 32, 8192, **(SMOLLM2 | {"rope_theta": 130000.0})),
        "tinyllama-1.1b": _published(2048, 22, 32, 4, 5632, max_position_embeddings=2048),
        "llama-2-7b": _published(4096, 32, 32, 32, 11008),
        "llama-2-13b": _published(5120, 40, 40, 40, 13824),
        "llama-2-70b": _published(8192, 80, 64, 8, 28672),
        "llama-3-8b": _published(4096, 32, 32, 8, 14336, **LLAMA3),
        "llama-3-70b": _published(8192, 80, 64, 8, 28672, **LLAMA3),
        "llama-3.1-8b": _published(4096, 32, 32, 8, 14336, **_stretched(8.0)),
        "llama-3.1-70b": _published(8192, 80, 64, 8, 28672, **_stretched(8.0)),
        "llama-3.2-1b": _published(2048, 16, 32, 8, 8192, **_stretched(32.0), **TIED),
        "llama-3.2-3b": _published(3072, 28, 24, 8, 8192, **_stretched(32.0), **TIED),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
