"""Tiny configs of Qwen2-MoE."""

from __future__ import annotations

from typing import Any

from support.families import Case

# an output beside the model's; a rule for windows that layer_types has carried out; and the width
# of dense layers where there are none
INERT = ("output_router_logits", "max_window_layers", "intermediate_size")


def qwen2_moe(inert: tuple[str, ...] = INERT, **words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 14,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    return Case("qwen2_moe", small | words, inert=inert)


CASES = {
    "qwen2_moe": qwen2_moe(),
    "qwen2_moe normalised, odd heads, tied": qwen2_moe(
        norm_topk_prob=True, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "qwen2_moe dense layer, no biases, window": qwen2_moe(
        INERT[:2], mlp_only_layers=[1], qkv_bias=False, use_sliding_window=True, sliding_window=4
    ),
}
