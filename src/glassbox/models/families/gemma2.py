"""Gemma 2: norms of factor 1 + w around each branch, GeGLU, capped scores and logits, every other
layer a sliding window, and the embedding times sqrt(hidden_size).

Source: Gemma team, arXiv:2408.00118, table 1, and the models' config.json on the Hub. Tested
against: transformers Gemma2ForCausalLM, logits and gradients.
"""

from __future__ import annotations

import math
from typing import Any

from glassbox.layers.attention import GroupedQuery
from glassbox.layers.feedforward import GeGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._shared import (
    llama_keys,
    llama_parts,
    llama_rules,
    read_attention,
    read_model,
    read_windows,
    window_keys,
)
from glassbox.models.family import Family, HfConfig

ACTIVATIONS = {"gelu_pytorch_tanh": True, "gelu": False}
"""Their names of GELU, and whether each is the tanh approximation."""


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Gemma2Config's keys. transformers insists on whole hidden_size / num_heads."""
    words = gemma_keys(config)
    parts = llama_parts(config)
    if words is None or parts is None:
        return None
    return {**words, "attn_logit_softcapping": parts.mixer.softcap}


def gemma_keys(config: ModelConfig) -> dict[str, Any] | None:
    """What Gemma 2 and 3 write alike; their scale of the scores is `query_pre_attn_scalar`^-1/2."""
    parts = llama_parts(config)
    if parts is None or config.hidden_size % parts.mixer.num_heads:
        return None
    head_dim = parts.mixer.resolved_head_dim(config.hidden_size)
    scale = parts.mixer.scale
    return {
        **llama_keys(config, parts),
        **window_keys(config),
        "query_pre_attn_scalar": head_dim if scale is None else round(scale**-2),
        "final_logit_softcapping": config.logit_softcap,
        "attention_bias": parts.mixer.qkv_bias,
        "use_bidirectional_attention": False,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Gemma2Config's keys; without `layer_types` windows stand in layers 0, 2, 4, ..."""
    num_layers = raw.get("num_hidden_layers", int)
    window = raw.find("sliding_window", int, 4096)
    windows = read_windows(raw, window, [number % 2 == 0 for number in range(num_layers)])
    softcap = raw.find("attn_logit_softcapping", float, 50.0)
    layers = [gemma_block(raw, window=width, softcap=softcap) for width in windows]
    return gemma_model(raw, layers, context_length=8192, logit_softcap=30.0)


def gemma_block(raw: HfConfig, **attention: Any) -> BlockSpec:
    """One layer of Gemma 2 or 3. Raises UserError for other activations, and for attention both ways."""
    raw.refuse_unless("hidden_activation", tuple(ACTIVATIONS))
    raw.refuse_unless("use_bidirectional_attention", (False,))
    bias = raw.get("attention_bias", bool, False)
    head_dim = raw.get("head_dim", int, 256)
    scalar = raw.get("query_pre_attn_scalar", float, 256.0)
    mixer: GroupedQuery = read_attention(
        raw,
        head_dim=head_dim,
        scale=None if scalar == head_dim else scalar**-0.5,
        qkv_bias=bias,
        output_bias=bias,
        **attention,
    )
    tanh = ACTIVATIONS[raw.get("hidden_activation", str, "gelu_pytorch_tanh")]
    return BlockSpec(
        mixer=mixer,
        ffn=GeGlu(size=raw.get("intermediate_size", int), tanh=tanh),
        norm=gemma_norm(raw),
        residual="sandwich",
    )


def gemma_norm(raw: HfConfig) -> RmsNorm:
    """RMSNorm of factor 1 + w."""
    return RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6), offset=True)


def gemma_model(
    raw: HfConfig, layers: list[BlockSpec], *, context_length: int, logit_softcap: float | None
) -> ModelConfig:
    """What stands around the layers of Gemma 2 and 3."""
    return read_model(
        raw,
        layers,
        gemma_norm(raw),
        context_length=context_length,
        tie_embeddings=True,
        embedding_scale=math.sqrt(raw.get("hidden_size", int)),
        logit_softcap=raw.find("final_logit_softcapping", float, logit_softcap),
    )


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, size: int, **words: Any
) -> ModelConfig:
    common = {
        "vocab_size": 256000,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
    }
    return read(HfConfig(common | words))


GEMMA2 = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "gemma2-tiny": _published(
            64,
            2,
            4,
            2,
            192,
            vocab_size=512,
            head_dim=16,
            query_pre_attn_scalar=16,
            max_position_embeddings=256,
            sliding_window=32,
        ),
        "gemma-2-2b": _published(2304, 26, 8, 4, 9216),
        "gemma-2-9b": _published(3584, 42, 16, 8, 14336),
        "gemma-2-27b": _published(4608, 46, 32, 16, 36864, head_dim=128, query_pre_attn_scalar=144),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
