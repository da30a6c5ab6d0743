"""Qwen3-MoE: Qwen3 with many small experts, in all layers or some.

Source: Yang et al., arXiv:2505.09388; sizes as in the models' config.json on the Hub. Tested
against: transformers Qwen3MoeForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import (
    ExpertParts,
    expert_keys,
    expert_model_rules,
    expert_parts,
    read_num_experts,
)
from glassbox.models.families._shared import read_attention, read_model
from glassbox.models.family import Family, HfConfig


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Qwen3MoeConfig's keys."""
    parts = expert_parts(config)
    if parts is None:
        return None
    window = parts.mixer.window
    return {
        **expert_keys(config, parts),
        **qwen_experts_keys(config, parts),
        "attention_bias": parts.mixer.qkv_bias,
        "use_sliding_window": window is not None,
        "sliding_window": window,
    }


def qwen_experts_keys(config: ModelConfig, parts: ExpertParts) -> dict[str, Any]:
    """Widths, and which layers have experts."""
    layers = config.layers()
    dense = [n for n, layer in enumerate(layers) if not isinstance(layer.ffn, MixtureOfExperts)]
    size = parts.experts.expert.size
    return {
        "intermediate_size": size if parts.dense is None else parts.dense.size,
        "moe_intermediate_size": size,
        "num_experts": parts.experts.num_experts,
        "norm_topk_prob": parts.experts.normalize_top_k,
        "decoder_sparse_step": 1,
        "mlp_only_layers": dense,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Qwen3MoeConfig's keys."""
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    bias = raw.get("attention_bias", bool, False)
    windowed = raw.get("use_sliding_window", bool, False)
    mixer = read_attention(
        raw,
        qk_norm=norm,
        qkv_bias=bias,
        output_bias=bias,
        window=raw.find("sliding_window", int, 4096) if windowed else None,
    )
    layers = [BlockSpec(mixer=mixer, ffn=ffn, norm=norm) for ffn in read_qwen_experts(raw)]
    return read_model(raw, layers, norm, context_length=32768)


def read_qwen_experts(raw: HfConfig, **more: Any) -> list[MixtureOfExperts | SwiGlu]:
    """Each layer's feed-forward; `more` are further fields of the experts' spec."""
    raw.refuse_unless("hidden_act", ("silu", "swish"))
    experts = MixtureOfExperts(
        num_experts=read_num_experts(raw),
        top_k=raw.get("num_experts_per_tok", int),
        expert=SwiGlu(size=raw.get("moe_intermediate_size", int)),
        normalize_top_k=raw.get("norm_topk_prob", bool, False),
        balance_loss=raw.get("router_aux_loss_coef", float, 0.001),
        **more,
    )
    step = raw.get("decoder_sparse_step", int, 1)
    only_dense = raw.find_list("mlp_only_layers", int) or []
    return [
        experts
        if number not in only_dense and (number + 1) % step == 0
        else SwiGlu(size=raw.get("intermediate_size", int))
        for number in range(raw.get("num_hidden_layers", int))
    ]


def _published(**words: Any) -> ModelConfig:
    thirty_billion = {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "max_position_embeddings": 40960,
        "rope_theta": 1e6,
    }
    return read(HfConfig(thirty_billion | words))


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "qwen3-moe-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            moe_intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_experts=16,
            num_experts_per_tok=4,
            max_position_embeddings=256,
        ),
        "qwen3-30b-a3b": _published(),
        "qwen3-235b-a22b": _published(
            hidden_size=4096,
            moe_intermediate_size=1536,
            num_hidden_layers=94,
            num_attention_heads=64,
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=expert_model_rules,
)
