"""Mixtral: Mistral with eight experts in every layer, of which each token passes two.

Source: Jiang et al., arXiv:2401.04088; sizes as in the models' config.json on the Hub. Tested
against: transformers MixtralForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import (
    expert_keys,
    expert_model_rules,
    expert_parts,
    read_num_experts,
)
from glassbox.models.families._rope import read_rotary
from glassbox.models.families._shared import read_attention, read_model, read_swiglu
from glassbox.models.family import Family, HfConfig, WeightRule


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """MixtralConfig's keys."""
    parts = expert_parts(config)
    if parts is None:
        return None
    return {
        **expert_keys(config, parts),
        "intermediate_size": parts.experts.expert.size,
        "num_local_experts": parts.experts.num_experts,
        "sliding_window": parts.mixer.window,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from MixtralConfig's keys. Raises UserError for noise on the router's input."""
    raw.refuse_unless("router_jitter_noise", (0, 0.0))
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-5))
    experts = MixtureOfExperts(
        num_experts=read_num_experts(raw),
        top_k=raw.get("num_experts_per_tok", int, 2),
        expert=read_swiglu(raw),
        balance_loss=raw.get("router_aux_loss_coef", float, 0.001),
    )
    mixer = read_attention(
        raw, positions=read_rotary(raw, base=1e6), window=raw.find("sliding_window", int)
    )
    block = BlockSpec(mixer=mixer, ffn=experts, norm=norm)
    layers = [block] * raw.get("num_hidden_layers", int)
    return read_model(raw, layers, norm, context_length=131072)


def rules(config: ModelConfig) -> list[WeightRule]:
    """The files' names, in which every expert stands alone."""
    return expert_model_rules(config, "block_sparse_moe.", parts=("w1", "w3", "w2"))


def _published(**words: Any) -> ModelConfig:
    eight_times_seven = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "max_position_embeddings": 32768,
        "router_aux_loss_coef": 0.02,
    }
    return read(HfConfig(eight_times_seven | words))


MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "mixtral-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        ),
        "mixtral-8x7b": _published(),
        "mixtral-8x22b": _published(
            hidden_size=6144,
            intermediate_size=16384,
            num_hidden_layers=56,
            num_attention_heads=48,
            max_position_embeddings=65536,
            router_aux_loss_coef=0.001,
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
