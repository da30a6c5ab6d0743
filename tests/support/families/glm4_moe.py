"""Tiny configs of GLM-4.5."""

from __future__ import annotations

from typing import Any

from support.families import Case

# a second predicted token, of which they build no layer unless asked; an output beside the model's
UNUSED = ("num_mtp_layers", "num_nextn_predict_layers", "output_router_logits")


def glm4_moe(inert: tuple[str, ...] = (), **words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    return Case("glm4_moe", small | words, inert=(*UNUSED, *inert))


CASES = {
    "glm4_moe": glm4_moe(),
    "glm4_moe qk norm, odd heads, tied": glm4_moe(
        use_qk_norm=True, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "glm4_moe groups, biases, all turned": glm4_moe(
        attention_bias=True,
        n_group=3,
        topk_group=2,
        n_shared_experts=2,
        routed_scaling_factor=2.5,
        norm_topk_prob=False,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 500.0,
            "partial_rotary_factor": 1.0,
        },
    ),
    "glm4_moe experts alone": glm4_moe(
        ("intermediate_size",), first_k_dense_replace=0, n_routed_experts=4
    ),
}
