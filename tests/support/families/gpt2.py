"""Tiny configs of GPT-2."""

from __future__ import annotations

from typing import Any

from support.families import Case


def gpt2(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "eos_token_id": None,
    }
    return Case("gpt2", small | words)


CASES = {
    "gpt2": gpt2(),
    "gpt2 odd heads": gpt2(n_head=3),
    "gpt2 inner": gpt2(n_inner=20),
    "gpt2 exact gelu": gpt2(activation_function="gelu"),
    "gpt2 untied": gpt2(tie_word_embeddings=False),
    "gpt2 eps": gpt2(layer_norm_epsilon=0.1),
}
