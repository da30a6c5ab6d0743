"""Tiny configs of Qwen3-Next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.families import Case


def qwen3_next(*inert: str, **words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 5,
        "linear_value_head_dim": 6,
        "intermediate_size": 20,
        "moe_intermediate_size": 20,
        "shared_expert_intermediate_size": 12,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        # a memory of a token or two reads nearly nothing, and the norm behind it blows that up with
        # its rounding: by 1000 where eps is 1e-6, by 3 here
        "rms_norm_eps": 0.1,
        "pad_token_id": None,
        "eos_token_id": None,
    }
    # whether the loss that balances experts is added to the model's: to train, another may be asked
    return Case("qwen3_next", small | words, inert=("output_router_logits", *inert))


CASES = {
    "qwen3-next": qwen3_next(),
    "qwen3-next odd heads, own layer types": replace(
        qwen3_next(
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            layer_types=["full_attention", "linear_attention", "linear_attention"],
            linear_num_key_heads=3,
            linear_num_value_heads=3,
            linear_conv_kernel_dim=2,
            partial_rotary_factor=0.5,
            norm_topk_prob=False,
            rms_norm_eps=1e-6,
        ),
        tolerance=1e-4,
        reason="rounding that the norm blows up: both libraries lie up to 6e-5 from float64",
    ),
    "qwen3-next tied, biases, a dense layer": qwen3_next(
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_only_layers=[1],
        intermediate_size=28,
        linear_num_value_heads=6,
    ),
}
