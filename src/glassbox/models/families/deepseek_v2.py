"""DeepSeek-V2: latent attention, fine-grained experts by softmax, shared experts beside them.

Source: DeepSeek-V2, arXiv:2405.04434; sizes as in the models' config.json on the Hub.
Tested against: transformers DeepseekV2ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.models.config import ModelConfig
from glassbox.models.families._deepseek import (
    IGNORED,
    deepseek_keys,
    deepseek_parts,
    deepseek_rules,
    read_deepseek,
    read_latent,
)
from glassbox.models.families._rope import read_rotary
from glassbox.models.family import Family, HfConfig

GREEDY, BY_GROUP = "greedy", "group_limited_greedy"
"""Their ways to choose experts: among all, or among those of the best groups."""


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """DeepseekV2Config's keys. transformers insists on whole hidden_size / num_heads, and never
    divides gates by their sum.
    """
    parts = deepseek_parts(config)
    if parts is None or config.hidden_size % parts.mixer.num_heads:
        return None
    if parts.experts is not None and parts.experts.normalize_top_k:
        return None
    words = {**deepseek_keys(config, parts), "scoring_func": "softmax", "mlp_bias": False}
    experts = parts.experts
    if experts is not None:
        words["topk_method"] = GREEDY if experts.num_groups == 1 else BY_GROUP
        words |= {"n_group": experts.num_groups, "topk_group": experts.top_groups}
    return words


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from DeepseekV2Config's keys.

    Raises UserError for other ways to choose experts, and for gates divided by their sum, which
    transformers does not do either.
    """
    raw.refuse_unless("scoring_func", ("softmax",))
    raw.refuse_unless("topk_method", (GREEDY, BY_GROUP))
    raw.refuse_unless("norm_topk_prob", (False,))
    rotary = read_rotary(raw).model_copy(update={"layout": "interleaved"})
    grouped = raw.get("topk_method", str, GREEDY) == BY_GROUP
    experts = {
        "normalize_top_k": False,
        "num_groups": raw.get("n_group", int) if grouped else 1,
        "top_groups": raw.get("topk_group", int) if grouped else 1,
    }
    return read_deepseek(
        raw, read_latent(raw, positions=rotary), experts, num_dense=0, context_length=2048
    )


def _published(**words: Any) -> ModelConfig:
    yarn = {
        "rope_type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
    }
    common = {
        "vocab_size": 102400,
        "max_position_embeddings": 163840,
        "rope_scaling": yarn,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
    }
    return read(HfConfig(common | words))


DEEPSEEK_V2 = Family(
    model_type="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    prefix="model.",
    ignored=IGNORED,
    presets={
        "deepseek-v2-tiny": _published(
            vocab_size=512,
            max_position_embeddings=256,
            rope_scaling=None,
            hidden_size=64,
            intermediate_size=192,
            moe_intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            q_lora_rank=None,
            kv_lora_rank=32,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=16,
            n_routed_experts=8,
            n_shared_experts=1,
            num_experts_per_tok=2,
        ),
        "deepseek-v2-lite": _published(
            hidden_size=2048,
            intermediate_size=10944,
            moe_intermediate_size=1408,
            num_hidden_layers=27,
            num_attention_heads=16,
            q_lora_rank=None,
            n_routed_experts=64,
        ),
        "deepseek-v2": _published(
            hidden_size=5120,
            intermediate_size=12288,
            moe_intermediate_size=1536,
            num_hidden_layers=60,
            num_attention_heads=128,
            q_lora_rank=1536,
            n_routed_experts=160,
            routed_scaling_factor=16.0,
            topk_method=BY_GROUP,
            n_group=8,
            topk_group=3,
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=deepseek_rules,
)
