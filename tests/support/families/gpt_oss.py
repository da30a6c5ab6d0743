"""Tiny configs of gpt-oss."""

from __future__ import annotations

from typing import Any

from support.families import Case


def gpt_oss(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
        "sliding_window": 4,
        "eos_token_id": None,
        "pad_token_id": None,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 16,
        },
    }
    return Case("gpt_oss", small | words, inert=("output_router_logits",))


CASES = {
    "gpt_oss": gpt_oss(),
    "gpt_oss odd heads, tied, no attention biases": gpt_oss(
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=6,
        tie_word_embeddings=True,
        attention_bias=False,
    ),
    "gpt_oss small limit": gpt_oss(swiglu_limit=0.2, swiglu_alpha=1.3, num_experts_per_tok=4),
    "gpt_oss unscaled, full layers": gpt_oss(
        layer_types=["full_attention"] * 3,
        sliding_window=128,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    ),
}
