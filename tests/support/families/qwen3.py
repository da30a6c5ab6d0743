"""Tiny configs of Qwen3."""

from __future__ import annotations

from typing import Any

from support.families import Case


def qwen3(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "head_dim": 10,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("qwen3", small | words, inert=("max_window_layers",))


CASES = {
    "qwen3": qwen3(),
    "qwen3 odd heads, tied": qwen3(
        num_attention_heads=3, num_key_value_heads=1, head_dim=6, tie_word_embeddings=True
    ),
    "qwen3 biases": qwen3(attention_bias=True, rms_norm_eps=0.1),
    "qwen3 window above": qwen3(use_sliding_window=True, sliding_window=4, max_window_layers=1),
}
