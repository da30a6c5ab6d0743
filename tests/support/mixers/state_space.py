"""State-space and recurrent mixers."""

from __future__ import annotations

from glassbox.core.config import Spec
from glassbox.layers.mamba import Mamba
from glassbox.layers.mamba2 import Mamba2
from glassbox.layers.norms import RmsNorm
from glassbox.layers.rwkv import RwkvTime
from glassbox.layers.rwkv7 import Rwkv7Time

RANKS = {"decay_rank": 3, "rate_rank": 2, "gate_rank": 4}

MIXERS: dict[str, Spec] = {
    "rwkv": RwkvTime(),
    "rwkv, own size": RwkvTime(size=7),
    "rwkv7": Rwkv7Time(head_dim=4, **RANKS),
    "rwkv7, one head, lead": Rwkv7Time(head_dim=12, values="lead", **RANKS),
    "mamba": Mamba(state_size=3),
    "mamba, biases, norms": Mamba(
        inner_size=7,
        state_size=2,
        step_rank=3,
        conv_taps=2,
        conv_bias=False,
        bias=True,
        norm=RmsNorm(),
    ),
    "mamba2": Mamba2(num_heads=3, state_size=4),
    "mamba2, groups, limits, biases": Mamba2(
        num_heads=6,
        head_dim=2,
        state_size=3,
        num_groups=2,
        conv_taps=3,
        conv_bias=False,
        bias=True,
        min_step=0.3,
        max_step=1.5,
    ),
}
