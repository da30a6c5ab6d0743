"""Linear attention kinds (a state of fixed size instead of a cache), and what stands beside them."""

from __future__ import annotations

from glassbox.core.config import Spec
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.delta_net import DeltaNet, GatedDelta
from glassbox.layers.gated_attention_unit import GatedAttentionUnit
from glassbox.layers.lightning import Lightning
from glassbox.layers.norms import RmsNorm
from glassbox.layers.retention import Retention
from glassbox.layers.rotary import Rotary

# The square of a ReLU may shut off a pair of tokens within a chunk, whose gradient is then zero, as
# it should be; with these sizes and the tests' weights none of the six looked at is.
MIXERS: dict[str, Spec] = {
    "lightning": Lightning(num_heads=3),
    "lightning, own head_dim": Lightning(num_heads=5, head_dim=2, rate_scale=0.3),
    "retention": Retention(num_heads=3),
    "retention, own sizes": Retention(num_heads=2, key_dim=5, value_dim=3, positions=None),
    "delta": DeltaNet(num_heads=3),
    "gated delta": GatedDelta(num_heads=2),
    "gated delta, shared keys": GatedDelta(
        num_heads=6, num_key_heads=2, key_dim=3, value_dim=2, conv_taps=2
    ),
    # what stands between them in Qwen3-Next
    "grouped, output gate": GroupedQuery(
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        positions=Rotary(fraction=0.25),
        qk_norm=RmsNorm(offset=True),
        qkv_bias=True,
        output_gate=True,
    ),
    "flash": GatedAttentionUnit(size=7, key_dim=6, chunk=3),
    "flash-quad": GatedAttentionUnit(key_dim=6, chunk=144),
}
