"""Softmax attention."""

from __future__ import annotations

from glassbox.core.config import Spec
from glassbox.layers.attention import GroupedQuery, Rotary

MIXERS: dict[str, Spec] = {
    "multi-head, no positions": GroupedQuery(num_heads=3),
    "multi-head": GroupedQuery(num_heads=3, positions=Rotary()),
    "grouped": GroupedQuery(num_heads=6, num_kv_heads=2, positions=Rotary(base=100.0)),
    "multi-query, biases": GroupedQuery(
        num_heads=3, num_kv_heads=1, positions=Rotary(), qkv_bias=True, output_bias=True
    ),
    "own head_dim, partial, interleaved": GroupedQuery(
        num_heads=5,
        num_kv_heads=5,
        head_dim=6,
        positions=Rotary(fraction=0.7, layout="interleaved"),
    ),
}
