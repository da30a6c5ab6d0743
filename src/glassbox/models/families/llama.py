"""Llama: RMSNorm before each branch, grouped-query attention with rotary positions, SwiGLU.

Source: Touvron et al., arXiv:2302.13971 and arXiv:2307.09288. Tested against: transformers
LlamaForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._shared import (
    llama_parts,
    llama_rules,
    llama_words,
    read_attention,
    read_model,
    read_swiglu,
)
from glassbox.models.family import Family, HfConfig
from glassbox.models.shapes import LlamaShape


def draft(config: ModelConfig) -> dict[str, Any] | None:
    """LlamaConfig's keys. transformers insists on whole hidden_size / num_heads and on even heads."""
    parts = llama_parts(config)
    if parts is None or config.hidden_size % parts.mixer.num_heads:
        return None
    return {
        **llama_words(config, parts),
        "attention_bias": parts.mixer.qkv_bias,
        "mlp_bias": parts.ffn.bias,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from LlamaConfig's keys, of transformers 4 and 5.

    Raises UserError for other activations.
    """
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    bias = raw.get("attention_bias", bool, False)
    block = BlockSpec(
        mixer=read_attention(raw, qkv_bias=bias, output_bias=bias),
        ffn=read_swiglu(raw, bias=raw.get("mlp_bias", bool, False)),
        norm=norm,
    )
    return read_model(raw, [block] * raw.get("num_hidden_layers", int), norm)


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
        "smollm2-135m": LlamaShape(
            hidden_size=576,
            num_layers=30,
            num_heads=9,
            num_kv_heads=3,
            ffn_size=1536,
            context_length=8192,
            rope_base=100000.0,
        ).config(49152),
        "llama-2-7b": LlamaShape(
            hidden_size=4096,
            num_layers=32,
            num_heads=32,
            ffn_size=11008,
            context_length=4096,
            tie_embeddings=False,
        ).config(32000),
    },
    draft=draft,
    read=read,
    rules=llama_rules,
)
