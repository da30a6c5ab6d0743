"""Tiny configs of GPT-NeoX."""

from __future__ import annotations

from typing import Any

from support.families import Case


def gpt_neox(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    # the dropout of a classifier that is not there
    return Case("gpt_neox", small | words, inert=("classifier_dropout", "is_decoder"))


CASES = {
    "gpt_neox": gpt_neox(),
    "gpt_neox odd heads, tied": gpt_neox(
        hidden_size=24, num_attention_heads=3, tie_word_embeddings=True
    ),
    "gpt_neox one branch after the other": gpt_neox(use_parallel_residual=False),
    "gpt_neox no attention biases, tanh": gpt_neox(attention_bias=False, hidden_act="gelu_fast"),
    "gpt_neox all channels, theta": gpt_neox(
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 500.0,
            "partial_rotary_factor": 1.0,
        }
    ),
}
