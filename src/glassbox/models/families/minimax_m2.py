"""MiniMax-M2: softmax attention in all layers, RMSNorm on all queries and all keys at once, and many
experts chosen by sigmoids and balanced by a bias.

Source: MiniMax 2025, "MiniMax-M2", github.com/MiniMax-AI/MiniMax-M2; sizes as in the model's
config.json on the Hub. Tested against: transformers MiniMaxM2ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import (
    expert_keys,
    expert_model_rules,
    expert_parts,
    read_num_experts,
)
from glassbox.models.families._rope import read_rotary, rotary_keys
from glassbox.models.families._shared import read_attention, read_model
from glassbox.models.family import Family, HfConfig, WeightRule


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """MiniMaxM2Config's keys."""
    parts = expert_parts(config)
    if parts is None or parts.dense is not None:
        return None
    return {
        **expert_keys(config, parts),
        **rotary_keys(parts.rotary, partial=parts.rotary.fraction != 1.0),
        "intermediate_size": parts.experts.expert.size,
        "num_local_experts": parts.experts.num_experts,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from MiniMaxM2Config's keys.

    Raises UserError for other ways to choose experts, and for norms on each head.
    """
    raw.refuse_unless("hidden_act", ("silu",))
    raw.refuse_unless("scoring_func", ("sigmoid",))
    raw.refuse_unless("use_routing_bias", (True,))
    raw.refuse_unless("use_qk_norm", (True,))
    raw.refuse_unless("qk_norm_type", ("per_layer",))
    raw.refuse_unless("shared_intermediate_size", (0,))
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    head_dim = raw.get("head_dim", int, 128)
    turned = raw.get("rotary_dim", int, head_dim)  # the published config's word for the share
    block = BlockSpec(
        mixer=read_attention(
            raw,
            head_dim=head_dim,
            positions=read_rotary(raw, base=5e6, partial=turned / head_dim),
            qk_norm=norm,
            qk_norm_over="all",
        ),
        ffn=MixtureOfExperts(
            num_experts=read_num_experts(raw),
            top_k=raw.get("num_experts_per_tok", int),
            expert=SwiGlu(size=raw.get("intermediate_size", int)),
            router="sigmoid",
            balance_bias=True,
            balance_loss=raw.get("router_aux_loss_coef", float, 0.001),
        ),
        norm=norm,
    )
    layers = [block] * raw.get("num_hidden_layers", int)
    return read_model(raw, layers, norm, context_length=196608)


def rules(config: ModelConfig) -> list[WeightRule]:
    """Mixtral's names."""
    return expert_model_rules(
        config,
        "block_sparse_moe.",
        parts=("w1", "w3", "w2"),
        balance_bias="e_score_correction_bias",
    )


def _published(**words: Any) -> ModelConfig:
    m2 = {
        "vocab_size": 200064,
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "num_hidden_layers": 62,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 196608,
        "rope_theta": 5e6,
        "rotary_dim": 64,
    }
    return read(HfConfig(m2 | words))


MINIMAX_M2 = Family(
    model_type="minimax_m2",
    architecture="MiniMaxM2ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "minimax-m2-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            num_local_experts=8,
            num_experts_per_tok=2,
            max_position_embeddings=256,
            rotary_dim=8,
        ),
        "minimax-m2": _published(),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
