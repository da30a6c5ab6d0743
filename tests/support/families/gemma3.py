"""Tiny configs of Gemma 3."""

from __future__ import annotations

from typing import Any

from support.families import Case


def gemma3(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "head_dim": 10,
        "query_pre_attn_scalar": 36,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case("gemma3_text", small | words)


CASES = {
    "gemma3": gemma3(),
    "gemma3 odd heads, untied": gemma3(
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=False
    ),
    "gemma3 cap on logits, biases": gemma3(final_logit_softcapping=3.0, attention_bias=True),
    "gemma3 rescaled": gemma3(
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        }
    ),
}
