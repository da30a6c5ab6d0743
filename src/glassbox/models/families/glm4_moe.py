"""GLM-4.5: grouped-query attention, some dense layers first, then DeepSeek-V3's experts.

Half of each head's channels are turned. The layer after the last, which predicts a second token, is
left out, as transformers does; `glassbox convert` says so. Source: GLM-4.5 team, arXiv:2508.06471; sizes
as in the models' config.json on the Hub. Tested against: transformers Glm4MoeForCausalLM, logits and
gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._deepseek import read_experts
from glassbox.models.families._experts import expert_keys, expert_model_rules, expert_parts
from glassbox.models.families._rope import read_rotary, rotary_keys
from glassbox.models.families._shared import read_attention, read_model, read_swiglu
from glassbox.models.family import Family, HfConfig, WeightRule


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Glm4MoeConfig's keys."""
    parts = expert_parts(config)
    if parts is None:
        return None
    experts, size = parts.experts, parts.experts.expert.size
    layers = config.layers()
    words = expert_keys(config, parts)
    del words["router_aux_loss_coef"]
    return {
        **words,
        **rotary_keys(parts.rotary, partial=True),
        "attention_bias": parts.mixer.qkv_bias,
        "use_qk_norm": parts.mixer.qk_norm is not None,
        "intermediate_size": size if parts.dense is None else parts.dense.size,
        "moe_intermediate_size": size,
        "n_routed_experts": experts.num_experts,
        "n_shared_experts": (experts.shared or 0) // size,
        "routed_scaling_factor": experts.routed_scale,
        "norm_topk_prob": experts.normalize_top_k,
        "n_group": experts.num_groups,
        "topk_group": experts.top_groups,
        "first_k_dense_replace": sum(not isinstance(x.ffn, MixtureOfExperts) for x in layers),
        "num_nextn_predict_layers": 0,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Glm4MoeConfig's keys. Raises UserError for other ways to choose experts."""
    raw.refuse_unless("hidden_act", ("silu",))
    raw.refuse_unless("scoring_func", ("sigmoid",))
    raw.refuse_unless("topk_method", ("noaux_tc",))
    num_layers = raw.get("num_hidden_layers", int)
    num_dense = min(raw.get("first_k_dense_replace", int, 1), num_layers)
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-5))
    mixer = read_attention(
        raw,
        positions=read_rotary(raw, partial=0.5),
        qkv_bias=raw.get("attention_bias", bool, False),
        qk_norm=norm if raw.get("use_qk_norm", bool, False) else None,
    )
    num_groups = raw.get("n_group", int, 1)
    experts = read_experts(
        raw,
        router="sigmoid",
        normalize_top_k=raw.get("norm_topk_prob", bool, True),
        num_groups=num_groups,
        top_groups=raw.get("topk_group", int, 1),
        group_score="max" if num_groups == 1 else "top2",
        balance_bias=True,
    )
    dense = [BlockSpec(mixer=mixer, ffn=read_swiglu(raw), norm=norm)] if num_dense else []
    sparse = BlockSpec(mixer=mixer, ffn=experts, norm=norm)
    layers = dense * num_dense + [sparse] * (num_layers - num_dense)
    return read_model(raw, layers, norm, context_length=131072)


def rules(config: ModelConfig) -> list[WeightRule]:
    """As Qwen's, but for the name of the shared expert."""
    return expert_model_rules(config, shared="shared_experts")


def _published(**words: Any) -> ModelConfig:
    air = {
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 46,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 1,
        "attention_bias": True,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
    }
    return read(HfConfig(air | words))


GLM4_MOE = Family(
    model_type="glm4_moe",
    architecture="Glm4MoeForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    left_out=r"model\.layers\.(46|92)\..*",
    presets={
        "glm4-moe-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=192,
            moe_intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            n_routed_experts=8,
            num_experts_per_tok=2,
            max_position_embeddings=256,
        ),
        "glm-4.5-air": _published(),
        "glm-4.5": _published(
            hidden_size=5120,
            intermediate_size=12288,
            moe_intermediate_size=1536,
            num_hidden_layers=92,
            n_routed_experts=160,
            first_k_dense_replace=3,
            routed_scaling_factor=2.5,
            use_qk_norm=True,
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
