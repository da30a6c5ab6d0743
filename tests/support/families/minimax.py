"""Tiny configs of MiniMax-Text-01."""

from __future__ import annotations

from typing import Any

from support.families import Case


def minimax(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "num_local_experts": 3,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    return Case(
        "minimax",
        small | words,
        # how many tokens theirs takes at once; noise and a loss for training
        inert=("block_size", "output_router_logits", "router_jitter_noise"),
    )


def factors(alpha: float, beta: float) -> dict[str, float]:
    names = ("full_attn", "linear_attn", "mlp")
    return {f"{name}_alpha_factor": alpha for name in names} | {
        f"{name}_beta_factor": beta for name in names
    }


CASES = {
    "minimax": minimax(),
    "minimax factors, blocks": minimax(
        block_size=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"],
        **factors(3.5, 0.8),
    ),
    "minimax odd heads, tied, window": minimax(
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=10,
        tie_word_embeddings=True,
        sliding_window=4,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        rms_norm_eps=0.01,
    ),
}
