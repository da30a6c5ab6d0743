"""Tiny configs of Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from support.families import Case

# an output beside the model's; the width of dense layers where there are none
INERT = ("output_router_logits", "intermediate_size")


def qwen3_moe(inert: tuple[str, ...] = INERT, **words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "moe_intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    return Case("qwen3_moe", small | words, inert=inert)


CASES = {
    "qwen3_moe": qwen3_moe(),
    "qwen3_moe normalised, odd heads, tied": qwen3_moe(
        norm_topk_prob=True, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "qwen3_moe dense layer, biases": qwen3_moe(
        INERT[:1], mlp_only_layers=[0], attention_bias=True, router_aux_loss_coef=0.5
    ),
    # every second layer, which we write as the list of the others
    "qwen3_moe every second layer, window": qwen3_moe(
        (*INERT[:1], "decoder_sparse_step", "mlp_only_layers"),
        decoder_sparse_step=2,
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=4,
    ),
}
