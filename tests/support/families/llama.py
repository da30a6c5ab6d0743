"""Tiny configs of Llama."""

from __future__ import annotations

from typing import Any

from support.families import Case


def llama(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "eos_token_id": None,
    }
    return Case("llama", small | words)


CASES = {
    "llama": llama(),
    "llama grouped": llama(num_key_value_heads=2),
    "llama multi-query, tied": llama(num_key_value_heads=1, tie_word_embeddings=True),
    "llama odd heads": llama(hidden_size=30, num_attention_heads=3, num_key_value_heads=3),
    "llama biases": llama(attention_bias=True, mlp_bias=True, num_key_value_heads=2),
    "llama own head_dim": llama(head_dim=10, num_key_value_heads=2),
    "llama theta": llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama eps": llama(rms_norm_eps=0.1),
}
