"""Tiny configs of Gemma 2."""

from __future__ import annotations

from typing import Any

from support.families import Case


def gemma2(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "head_dim": 10,
        "query_pre_attn_scalar": 36,
        "sliding_window": 5,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("gemma2", small | words)


CASES = {
    "gemma2": gemma2(),
    "gemma2 odd heads, untied": gemma2(
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=False
    ),
    "gemma2 no caps, biases": gemma2(
        attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=True
    ),
    "gemma2 scale, exact gelu": gemma2(query_pre_attn_scalar=10, hidden_activation="gelu"),
    "gemma2 windows elsewhere": gemma2(layer_types=["full_attention", "sliding_attention"]),
}
