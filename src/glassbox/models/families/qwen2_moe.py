"""Qwen2-MoE: Qwen2 with small experts, and a large one that every token passes by a gate of its own.

Source: Yang et al., arXiv:2407.10671, section 2.2.2; sizes as in the models' config.json on the
Hub. Tested against: transformers Qwen2MoeForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import expert_keys, expert_model_rules, expert_parts
from glassbox.models.families._shared import (
    read_attention,
    read_model,
    read_windows,
    window_keys,
)
from glassbox.models.families.qwen3_moe import qwen_experts_keys, read_qwen_experts
from glassbox.models.family import Family, HfConfig


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Qwen2MoeConfig's keys. transformers has no head_dim of its own here, and even heads."""
    parts = expert_parts(config)
    if parts is None or parts.experts.shared is None:
        return None
    words = expert_keys(config, parts)
    if words.pop("head_dim") * parts.mixer.num_heads != config.hidden_size:
        return None
    return {
        **words,
        **qwen_experts_keys(config, parts),
        **window_keys(config),
        "use_sliding_window": any("sliding" in t for t in window_keys(config)["layer_types"]),
        "shared_expert_intermediate_size": parts.experts.shared,
        "qkv_bias": parts.mixer.qkv_bias,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Qwen2MoeConfig's keys."""
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    windowed = raw.get("use_sliding_window", bool, False)
    above = raw.get("max_window_layers", int, 28)
    number = raw.get("num_hidden_layers", int)
    windows = read_windows(
        raw,
        raw.find("sliding_window", int, 4096) if windowed else None,
        [windowed and n % 2 == 0 and n < above for n in range(number)],
    )
    bias = raw.get("qkv_bias", bool, True)
    size = raw.get("shared_expert_intermediate_size", int)
    layers = [
        BlockSpec(mixer=read_attention(raw, qkv_bias=bias, window=window), ffn=ffn, norm=norm)
        for window, ffn in zip(
            windows, read_qwen_experts(raw, shared=size, shared_gate=True), strict=True
        )
    ]
    return read_model(raw, layers, norm, context_length=32768)


def _published(**words: Any) -> ModelConfig:
    fourteen_billion = {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "max_position_embeddings": 8192,
        "rope_theta": 1e6,
    }
    return read(HfConfig(fourteen_billion | words))


QWEN2_MOE = Family(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "qwen2-moe-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_experts=8,
            max_position_embeddings=256,
        ),
        "qwen1.5-moe-a2.7b": _published(),
        "qwen2-57b-a14b": _published(
            hidden_size=3584,
            intermediate_size=18944,
            moe_intermediate_size=2560,
            shared_expert_intermediate_size=20480,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            num_experts=64,
            num_experts_per_tok=8,
            max_position_embeddings=131072,
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=expert_model_rules,
)
