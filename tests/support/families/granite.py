"""Tiny configs of Granite."""

from __future__ import annotations

from typing import Any

from support.families import Case


def granite(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.25,
        "logits_scaling": 8.0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return Case("granite", small | words)


CASES = {
    "granite": granite(),
    "granite odd heads, tied, theta": granite(
        hidden_size=30,
        num_attention_heads=3,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    ),
    "granite biases, no factors": granite(
        attention_bias=True,
        mlp_bias=True,
        embedding_multiplier=1.0,
        residual_multiplier=1.0,
        attention_multiplier=1.0,
        logits_scaling=1.0,
        rms_norm_eps=0.1,
    ),
}
