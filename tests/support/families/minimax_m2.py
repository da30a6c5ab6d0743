"""Tiny configs of MiniMax-M2."""

from __future__ import annotations

from typing import Any

from support.families import Case

# the noise is refused unless zero; router logits are an output beside the model's
INERT = ("router_jitter_noise", "output_router_logits")


def minimax_m2(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return Case("minimax_m2", small | words, inert=INERT)


CASES = {
    "minimax_m2": minimax_m2(),
    "minimax_m2 odd heads, tied": minimax_m2(
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "minimax_m2 half turned, theta, eps": minimax_m2(
        rms_norm_eps=0.1,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 500.0,
            "partial_rotary_factor": 0.5,
        },
    ),
}
