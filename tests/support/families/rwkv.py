"""Tiny configs of RWKV-4."""

from __future__ import annotations

from typing import Any

from support.families import Case


def rwkv(**words: Any) -> Case:
    small = {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "context_length": 64,
        "eos_token_id": None,
    }
    # generate of transformers 5.23 drops the state that the model returns, and goes on from nothing;
    # their own state, passed by hand, is held in test_rwkv.py
    return Case("rwkv", small | words, inert=("rescale_every",), their_cache=False)


CASES = {
    "rwkv": rwkv(),
    "rwkv narrow, tied": rwkv(intermediate_size=33, tie_word_embeddings=True),
    "rwkv eps, odd": rwkv(hidden_size=15, layer_norm_epsilon=0.1),
    "rwkv three layers": rwkv(num_hidden_layers=3),
}
