"""Tiny configs of Qwen2."""

from __future__ import annotations

from typing import Any

from support.families import Case


def qwen2(**words: Any) -> Case:
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
    return Case("qwen2", small | words, inert=("max_window_layers",))


CASES = {
    "qwen2": qwen2(),
    "qwen2 odd heads, tied": qwen2(
        hidden_size=30, num_attention_heads=3, num_key_value_heads=3, tie_word_embeddings=True
    ),
    "qwen2 multi-query, yarn": qwen2(
        num_key_value_heads=1,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        },
    ),
    "qwen2 window above": qwen2(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen2 window below": qwen2(
        use_sliding_window=True,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    ),
}
