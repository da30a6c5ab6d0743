"""DeepSeek-V3 and R1: latent attention, experts chosen by sigmoids and balanced by a bias alone.

The layer that predicts a second token (layer 61 of the published files) is left out, as transformers
does; `glassbox convert` says so. The published weights are in FP8 (`narrow_files`).
Source: DeepSeek-V3, arXiv:2412.19437; sizes as in the models' config.json on the Hub.
Tested against: transformers DeepseekV3ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.models.config import ModelConfig
from glassbox.models.families._deepseek import (
    IGNORED,
    SECOND_TOKEN,
    deepseek_keys,
    deepseek_parts,
    deepseek_rules,
    read_deepseek,
    read_latent,
)
from glassbox.models.families._rope import read_rotary
from glassbox.models.family import Family, HfConfig


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """DeepseekV3Config's keys."""
    parts = deepseek_parts(config)
    if parts is None:
        return None
    words = {
        **deepseek_keys(config, parts),
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "rope_interleave": parts.mixer.positions.layout == "interleaved",
        "num_nextn_predict_layers": 0,
    }
    if parts.experts is not None:
        words |= {"n_group": parts.experts.num_groups, "topk_group": parts.experts.top_groups}
    return words


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from DeepseekV3Config's keys. Raises UserError for other ways to choose experts."""
    layout = "interleaved" if raw.get("rope_interleave", bool, True) else "half"
    rotary = read_rotary(raw).model_copy(update={"layout": layout})
    mixer = read_latent(raw, positions=rotary)
    return read_deepseek(raw, mixer, sigmoid_experts(raw), num_dense=3, context_length=4096)


def sigmoid_experts(raw: HfConfig) -> dict[str, Any]:
    """How V3 and its successors choose experts."""
    raw.refuse_unless("scoring_func", ("sigmoid",))
    raw.refuse_unless("topk_method", ("noaux_tc",))
    num_groups = raw.get("n_group", int, 8)
    return {
        "router": "sigmoid",
        "normalize_top_k": raw.get("norm_topk_prob", bool, True),
        "num_groups": num_groups,
        "top_groups": raw.get("topk_group", int, 4),
        "group_score": "max" if num_groups == 1 else "top2",
        "balance_bias": True,
    }


def published(**words: Any) -> dict[str, Any]:
    """The words of DeepSeek-V3, some of them changed."""
    yarn = {
        "rope_type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    large = {
        "vocab_size": 129280,
        "max_position_embeddings": 163840,
        "rope_scaling": yarn,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 3,
    }
    return large | words


TINY = {
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "rope_scaling": None,
    "hidden_size": 64,
    "intermediate_size": 192,
    "moe_intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
"""What a tiny model of these families changes."""


DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    prefix="model.",
    ignored=IGNORED,
    left_out=SECOND_TOKEN,
    presets={
        "deepseek-v3-tiny": read(HfConfig(published(**TINY))),
        "deepseek-v3": read(HfConfig(published())),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=deepseek_rules,
)
