"""Tiny configs of Jamba."""

from __future__ import annotations

from typing import Any

from support.families import Case


def jamba(inert: tuple[str, ...] = (), **words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 3,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "mamba_d_state": 5,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    return Case("jamba", small | words, inert=inert)


CASES = {
    "jamba": jamba(num_hidden_layers=5),
    "jamba odd heads, biases, tied": jamba(
        hidden_size=36,  # a multiple of 4, which torch's grouped product wants
        num_attention_heads=3,
        num_key_value_heads=1,
        mamba_proj_bias=True,
        mamba_conv_bias=False,
        attn_layer_period=2,
        tie_word_embeddings=True,
    ),
    "jamba sizes": jamba(
        mamba_expand=1,
        mamba_dt_rank=5,
        mamba_d_conv=3,
        num_experts=4,
        num_experts_per_tok=3,
        rms_norm_eps=0.1,
        attn_layer_period=2,
        expert_layer_period=2,
        expert_layer_offset=0,
    ),
    "jamba without experts": jamba(
        num_experts=1,
        inert=(
            "num_experts_per_tok",
            "expert_layer_period",
            "expert_layer_offset",
            "router_aux_loss_coef",
        ),
    ),
}
