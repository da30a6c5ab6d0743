"""Tiny configs of Phi-3."""

from __future__ import annotations

from typing import Any

from support.families import Case

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.0, 2.0, 5.0],
}


def phi3(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 64,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("phi3", small | words)


CASES = {
    "phi3 window": phi3(sliding_window=5),
    "phi3 odd heads, tied": phi3(
        hidden_size=30, num_attention_heads=3, num_key_value_heads=3, tie_word_embeddings=True
    ),
    "phi3 part of the channels": phi3(
        hidden_size=32,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 500.0,
            "partial_rotary_factor": 0.75,
        },
    ),
    "phi3 multi-query": phi3(num_key_value_heads=1),
    # of a length at which transformers takes the same factors for each of the sequences here
    "phi3 long factors": phi3(original_max_position_embeddings=4, rope_parameters=LONGROPE),
    "phi3 short factors": phi3(rope_parameters=LONGROPE),
}
