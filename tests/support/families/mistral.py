"""Tiny configs of Mistral."""

from __future__ import annotations

from typing import Any

from support.families import Case


def mistral(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "sliding_window": 5,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("mistral", small | words)


CASES = {
    "mistral window": mistral(),
    "mistral no window, tied": mistral(sliding_window=None, tie_word_embeddings=True),
    "mistral odd heads, own head_dim": mistral(
        num_attention_heads=3, num_key_value_heads=1, head_dim=10, sliding_window=3
    ),
    "mistral theta, linear": mistral(
        rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    ),
}
