"""Tiny configs of Mixtral."""

from __future__ import annotations

from typing import Any

from support.families import Case


def mixtral(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 5,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    # the noise is refused unless zero; router logits are an output beside the model's
    inert = ("router_jitter_noise", "output_router_logits")
    return Case("mixtral", small | words, inert=inert)


CASES = {
    "mixtral": mixtral(),
    "mixtral odd heads, tied, top 3": mixtral(
        num_attention_heads=3,
        num_key_value_heads=1,
        num_experts_per_tok=3,
        tie_word_embeddings=True,
    ),
    "mixtral window, all experts": mixtral(
        sliding_window=4, num_local_experts=3, num_experts_per_tok=3, rms_norm_eps=0.1
    ),
}
