"""Softmax attention."""

from __future__ import annotations

from glassbox.core.config import Spec
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.norms import LayerNorm, RmsNorm
from glassbox.layers.rotary import Alibi, DynamicNtk, Llama3Scaling, LongRope, YarnScaling

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
    "single-head": GroupedQuery(num_heads=1, positions=Rotary()),
    "qk norm, scale": GroupedQuery(
        num_heads=4, num_kv_heads=2, positions=Rotary(), qk_norm=RmsNorm(offset=True), scale=0.4
    ),
    "qk norm over all heads": GroupedQuery(
        num_heads=3, positions=Rotary(), qk_norm=LayerNorm(), qk_norm_over="all"
    ),
    "window": GroupedQuery(num_heads=3, positions=Rotary(), window=4),
    "window of one": GroupedQuery(num_heads=3, num_kv_heads=1, window=1),
    "wide window, grouped": GroupedQuery(
        num_heads=4, num_kv_heads=2, positions=Rotary(), window=80
    ),
    "soft cap": GroupedQuery(num_heads=3, positions=Rotary(), softcap=2.0),
    "alibi": GroupedQuery(num_heads=3, positions=Alibi()),
    "alibi, window": GroupedQuery(num_heads=6, num_kv_heads=2, positions=Alibi(), window=5),
    "sinks": GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary(), sinks=True),
    "sinks, window": GroupedQuery(num_heads=3, positions=Rotary(), window=3, sinks=True),
    "window, cap, sinks, qk norm": GroupedQuery(
        num_heads=6,
        num_kv_heads=3,
        positions=Rotary(fraction=0.5, scaling=YarnScaling(factor=4, original_length=8)),
        qk_norm=RmsNorm(),
        window=3,
        softcap=3.0,
        sinks=True,
    ),
    "dynamic rotary": GroupedQuery(
        num_heads=3, positions=Rotary(scaling=DynamicNtk(factor=3, original_length=5))
    ),
    "rotary of Phi-3": GroupedQuery(
        num_heads=3,
        positions=Rotary(
            scaling=LongRope(
                factor=8, original_length=8, short_factor=(1, 1.5), long_factor=(1.2, 9)
            )
        ),
    ),
    "rotary of Llama 3.1": GroupedQuery(
        num_heads=3, positions=Rotary(scaling=Llama3Scaling(factor=8, original_length=20))
    ),
}
