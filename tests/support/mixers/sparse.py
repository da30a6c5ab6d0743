"""Attention to chosen blocks.

The common tests ask that each of six tokens reaches all later ones, so blocks and windows are laid
such that six tokens lie within reach; the tests with 140 tokens leave most blocks unchosen.
"""

from __future__ import annotations

from glassbox.core.config import Spec
from glassbox.layers.block_mixture import BlockMixture
from glassbox.layers.native_sparse import NativeSparse
from glassbox.layers.rotary import LinearScaling, Rotary

MIXERS: dict[str, Spec] = {
    "block mixture": BlockMixture(
        num_heads=4, num_kv_heads=2, positions=Rotary(base=100.0), block_size=3, top_k=2
    ),
    "block mixture, one block, no positions": BlockMixture(
        num_heads=3, num_kv_heads=1, block_size=7, top_k=1
    ),
    "native sparse": NativeSparse(
        num_heads=4,
        num_kv_heads=2,
        positions=Rotary(base=100.0),
        block_size=4,
        stride=2,
        selection_size=4,
        num_selected=3,
        num_local=1,
        window=3,
    ),
    "native sparse, blocks of two summaries": NativeSparse(
        num_heads=3,
        num_kv_heads=3,
        positions=Rotary(scaling=LinearScaling(factor=2.0)),
        block_size=2,
        stride=2,
        selection_size=8,
        num_selected=4,
        window=1,
        summary_size=5,
    ),
    "native sparse, linear, one key head, no positions": NativeSparse(
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        block_size=3,
        stride=1,
        selection_size=5,
        num_selected=2,
        num_first=0,
        num_local=1,
        window=4,
        summary="linear",
    ),
}
