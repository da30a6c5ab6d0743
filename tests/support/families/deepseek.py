"""Tiny configs of DeepSeek V2, V3 and V3.2."""

from __future__ import annotations

from typing import Any

from support.families import Case

YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "beta_fast": 2.0,
    "beta_slow": 1.0,
}
SMALL = {
    "vocab_size": 63,
    "hidden_size": 24,
    "intermediate_size": 40,
    "moe_intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 10,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,  # that the few tokens of a test reach every expert
    "first_k_dense_replace": 1,
    "max_position_embeddings": 64,
    "eos_token_id": None,
}
EXPERTS = (
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "norm_topk_prob",
    "routed_scaling_factor",
    "topk_method",
)
"""Words that a model without experts has no use for."""
# pipeline parallelism of their training; a second predicted token, of which they build no layer
UNUSED = ("pretraining_tp", "num_mtp_layers", "num_nextn_predict_layers", "output_router_logits")
DENSE = {"first_k_dense_replace": 2}


def v2(inert: tuple[str, ...] = (), **words: Any) -> Case:
    return Case("deepseek_v2", SMALL | words, inert=(*UNUSED, *inert))


def v3(inert: tuple[str, ...] = (), **words: Any) -> Case:
    small = {"n_group": 3, "topk_group": 2, "n_shared_experts": 1}
    return Case("deepseek_v3", SMALL | small | words, inert=(*UNUSED, *inert))


def v32(inert: tuple[str, ...] = (), **words: Any) -> Case:
    small = {
        "n_group": 3,
        "topk_group": 2,
        "n_shared_experts": 1,
        "index_n_heads": 8,
        "index_head_dim": 6,
        "index_topk": 5,
    }
    return Case(
        "deepseek_v32",
        SMALL | small | words,
        inert=(*UNUSED, *inert),
        unreached=(".indexer.",),
    )


CASES = {
    "deepseek v2": v2(),
    "deepseek v2 odd heads, no query latents": v2(
        num_attention_heads=3, num_key_value_heads=3, q_lora_rank=None
    ),
    "deepseek v2 groups, scaled": v2(
        topk_method="group_limited_greedy",
        n_group=3,
        topk_group=2,
        routed_scaling_factor=3.0,
    ),
    "deepseek v2 biases, yarn": v2(
        attention_bias=True,
        rope_parameters={**YARN, "mscale": 0.7, "mscale_all_dim": 0.5},
    ),
    "deepseek v2 tied, only experts": v2(
        ("intermediate_size",),
        first_k_dense_replace=0,
        n_routed_experts=4,
        tie_word_embeddings=True,
    ),
    "deepseek v3": v3(),
    "deepseek v3 dense": v3(EXPERTS, **DENSE),
    "deepseek v3 odd heads, biases": v3(
        num_attention_heads=5, num_key_value_heads=5, attention_bias=True
    ),
    "deepseek v3 yarn": v3(rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 0.8}),
    "deepseek v3 yarn without mscale": v3(rope_parameters=YARN),
    "deepseek v3 half layout, no query latents, tied": v3(
        rope_interleave=False, q_lora_rank=None, tie_word_embeddings=True
    ),
    "deepseek v3 one group, gates as they are": v3(
        n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.5, rms_norm_eps=0.01
    ),
    "deepseek v32": v32(),
    "deepseek v32 dense layers": v32(EXPERTS, **DENSE),
    "deepseek v32 odd heads, biases, yarn": v32(
        num_attention_heads=3,
        num_key_value_heads=3,
        attention_bias=True,
        rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
    "deepseek v32 tied, past never long enough": v32(index_topk=40, tie_word_embeddings=True),
}
