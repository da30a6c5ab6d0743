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
    "llama linear": llama(
        rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    ),
    # the prompt is within the length, generation goes beyond it token by token: a sequence that is
    # longer at once turns otherwise there, where all of it takes the angles of its whole length
    "llama dynamic": llama(
        max_position_embeddings=12,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0},
    ),
    "llama 3": llama(
        head_dim=16,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "llama yarn": llama(
        head_dim=16,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 500.0,
            "factor": 8.0,
            "original_max_position_embeddings": 16,
            "beta_fast": 4.0,
            "beta_slow": 1.0,
            "attention_factor": 1.3,
            "truncate": False,
        },
    ),
}
