"""Tiny configs of Cohere's second architecture."""

from __future__ import annotations

from typing import Any

from support.families import Case


def cohere2(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("cohere2", small | words)


CASES = {
    "cohere2": cohere2(),
    "cohere2 odd heads, untied, every fourth": cohere2(
        hidden_size=30,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_hidden_layers=4,
        layer_types=None,
        tie_word_embeddings=False,
    ),
    "cohere2 biases, theta, scale": cohere2(
        attention_bias=True,
        logit_scale=0.3,
        layer_norm_eps=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    ),
}
