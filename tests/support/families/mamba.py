"""Tiny configs of Mamba and Mamba-2."""

from __future__ import annotations

from typing import Any

from support.families import Case

SMALL = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "eos_token_id": None}


def mamba(**words: Any) -> Case:
    return Case("mamba", SMALL | {"state_size": 5} | words)


def mamba2(**words: Any) -> Case:
    shape = {"state_size": 6, "num_heads": 6, "head_dim": 8, "n_groups": 2}
    # one chunk shorter than the test's sequences; a chunk of theirs is padded to its full size
    words = SMALL | shape | {"chunk_size": 8} | words
    since = "5.23" if words["n_groups"] > 1 else ""  # 5.20 norms all groups as one
    return Case("mamba2", words, inert=("chunk_size",), since=since)


CASES = {
    "mamba": mamba(),
    "mamba biases, untied": mamba(use_bias=True, tie_word_embeddings=False),
    "mamba wide, rank, taps": mamba(
        expand=3, time_step_rank=5, conv_kernel=3, use_conv_bias=False, state_size=7
    ),
    "mamba eps": mamba(layer_norm_epsilon=0.1, residual_in_fp32=False),
    "mamba2": mamba2(),
    "mamba2 one group, odd heads, tied": mamba2(
        num_heads=3, head_dim=16, n_groups=1, tie_word_embeddings=True
    ),
    "mamba2 biases, taps": mamba2(use_bias=True, use_conv_bias=False, conv_kernel=2, n_groups=3),
    "mamba2 eps": mamba2(
        layer_norm_epsilon=0.1, residual_in_fp32=False, expand=1, num_heads=3, n_groups=1
    ),
}
