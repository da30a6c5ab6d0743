"""Tiny configs of SmolLM3."""

from __future__ import annotations

from typing import Any

from support.families import Case


def smollm3(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "no_rope_layer_interval": 2,
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("smollm3", small | words, inert=("no_rope_layer_interval",))


CASES = {
    "smollm3": smollm3(),
    "smollm3 odd heads, untied": smollm3(
        hidden_size=30, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=False
    ),
    "smollm3 biases": smollm3(attention_bias=True, mlp_bias=True, no_rope_layers=[0, 1, 1]),
    "smollm3 window": smollm3(use_sliding_window=True, sliding_window=4),
}
