"""Tiny configs of BLOOM."""

from __future__ import annotations

from typing import Any

from support.families import Case


def bloom(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "n_layer": 2,
        "n_head": 4,
        "eos_token_id": None,
    }
    # ways of computing the same
    return Case("bloom", small | words, inert=("pretraining_tp", "slow_but_exact"))


CASES = {
    "bloom": bloom(),
    "bloom odd heads": bloom(n_head=3),
    "bloom six heads, untied": bloom(n_head=6, tie_word_embeddings=False),
    "bloom eps": bloom(layer_norm_epsilon=0.1),
}
