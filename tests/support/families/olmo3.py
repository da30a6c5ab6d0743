"""Tiny configs of OLMo 3."""

from __future__ import annotations

from typing import Any

from support.families import Case


def olmo3(**words: Any) -> Case:
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
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("olmo3", small | words)


CASES = {
    "olmo3": olmo3(),
    "olmo3 odd heads, tied, every fourth": olmo3(
        hidden_size=30,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_hidden_layers=4,
        layer_types=None,
        tie_word_embeddings=True,
    ),
    "olmo3 biases, yarn in full layers": olmo3(
        attention_bias=True,
        rope_parameters={
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 2.0,
                "beta_slow": 1.0,
                "attention_factor": 1.2,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
}
