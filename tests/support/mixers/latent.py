"""Latent attention, dense and sparse.

The kinds of rank make both forms run: a large kv_rank makes keys and values (expanded) while there
are many queries, a small one never does (absorbed). top_k = 8 is sparse from the ninth token on and
still shows every token to the six of the gradient test.
"""

from __future__ import annotations

from glassbox.core.config import Spec
from glassbox.layers.attention import Rotary
from glassbox.layers.indexer import Indexer
from glassbox.layers.latent import Latent

SMALL = {"num_heads": 3, "nope_dim": 4, "rope_dim": 2, "value_dim": 5}

MIXERS: dict[str, Spec] = {
    "latent, absorbed": Latent(kv_rank=3, **SMALL),
    "latent, expanded, query latents": Latent(kv_rank=24, q_rank=7, **SMALL),
    "latent, biases, half layout": Latent(
        num_heads=2,
        q_rank=5,
        kv_rank=9,
        nope_dim=3,
        rope_dim=4,
        value_dim=6,
        positions=Rotary(base=100.0),
        latent_bias=True,
        output_bias=True,
    ),
    "latent, sparse": Latent(
        kv_rank=24, q_rank=7, indexer=Indexer(num_heads=3, head_dim=4, top_k=8), **SMALL
    ),
    "latent, sparse, no query latents": Latent(
        kv_rank=3,
        indexer=Indexer(num_heads=1, head_dim=6, top_k=8, layout="interleaved"),
        **SMALL,
    ),
}
