"""Tiny configs of OLMo 2."""

from __future__ import annotations

from typing import Any

from support.families import Case


def olmo2(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("olmo2", small | words)


CASES = {
    "olmo2": olmo2(),
    "olmo2 odd heads, tied": olmo2(
        hidden_size=30, num_attention_heads=3, num_key_value_heads=3, tie_word_embeddings=True
    ),
    "olmo2 biases, theta": olmo2(
        attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    ),
    "olmo2 multi-query, eps": olmo2(num_key_value_heads=1, rms_norm_eps=0.1),
}
