"""Granite 3 and the dense Granite 4: Llama with factors on the embedding, the branches, the scores and
the logits.

Source: IBM 2024, "Granite 3.0 language models"; the factors are those of muP, arXiv:2203.03466; sizes
as in the models' config.json on the Hub. Tested against: transformers GraniteForCausalLM, logits and
gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.core.errors import UserError
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
    """GraniteConfig's keys. transformers insists on whole hidden_size / num_heads."""
    parts = llama_parts(config)
    if parts is None or config.hidden_size % parts.mixer.num_heads:
        return None
    head_dim = parts.mixer.resolved_head_dim(config.hidden_size)
    scale = parts.mixer.scale
    return {
        **llama_keys(config, parts),
        "attention_bias": parts.mixer.qkv_bias,
        "mlp_bias": parts.ffn.bias,
        "embedding_multiplier": config.embedding_scale,
        "logits_scaling": 1 / config.logit_scale,
        "residual_multiplier": config.layers()[0].residual_scale,
        "attention_multiplier": head_dim**-0.5 if scale is None else scale,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from GraniteConfig's keys; logits are divided by `logits_scaling`.

    Raises UserError for factors that are not above 0.
    """
    factor = {name: _factor(raw, name) for name in ("embedding_multiplier", "logits_scaling")}
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    bias = raw.get("attention_bias", bool, False)
    heads = raw.get("num_attention_heads", int)
    head_dim = raw.get("head_dim", int, raw.get("hidden_size", int) // heads)
    scale = _factor(raw, "attention_multiplier")
    block = BlockSpec(
        mixer=read_attention(
            raw,
            scale=None if scale == head_dim**-0.5 else scale,
            qkv_bias=bias,
            output_bias=bias,
        ),
        ffn=read_swiglu(raw, bias=raw.get("mlp_bias", bool, False)),
        norm=norm,
        residual_scale=_factor(raw, "residual_multiplier"),
    )
    return read_model(
        raw,
        [block] * raw.get("num_hidden_layers", int),
        norm,
        embedding_scale=factor["embedding_multiplier"],
        logit_scale=1 / factor["logits_scaling"],
    )


def _factor(raw: HfConfig, name: str) -> float:
    value = raw.get(name, float, 1.0)
    if value <= 0:
        raise UserError(f"{raw.where}: '{name}' = {value}: use a number greater than 0")
    return value


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, size: int, **words: Any
) -> ModelConfig:
    common = {
        "vocab_size": 49159,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": 131072,
        "rope_theta": 1e7,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.015625,
        "logits_scaling": 8.0,
    }
    return read(HfConfig(common | words))


GRANITE = Family(
    model_type="granite",
    architecture="GraniteForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "granite-tiny": _published(64, 2, 4, 2, 192, vocab_size=512, max_position_embeddings=256),
        "granite-3.3-2b": _published(2048, 40, 32, 8, 8192),
        "granite-3.3-8b": _published(
            4096, 40, 32, 8, 12800, attention_multiplier=0.0078125, logits_scaling=16.0
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
