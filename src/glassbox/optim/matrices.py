"""Which parameters are matrices between layers: Muon's share of a model."""

from __future__ import annotations

from torch import nn

from glassbox.adapters.lora import LowRank
from glassbox.layers.experts import MixtureOfExpertsLayer
from glassbox.layers.linear import Linear
from glassbox.layers.mamba import MambaLayer
from glassbox.models.causal_lm import CausalLM

MATRICES: dict[type[nn.Module], tuple[str, ...]] = {
    Linear: ("weight",),
    LowRank: ("down", "up"),
    MambaLayer: ("step_weight",),
    MixtureOfExpertsLayer: ("gate_up", "up", "down"),
}
"""By kind of module, its parameters that turn one hidden vector into another, or stacks of such.

Other parameters of two axes are none: rows that are looked up, channels' own rates and factors.
"""


def hidden_matrices(model: CausalLM) -> set[str]:
    """The names of a model's `MATRICES`, without the head's and the scalar head's.

    These map to tokens and to numbers; Jordan et al. 2024 leave them, like embeddings, to AdamW.
    """
    outputs = [head for head in (model.head, model.score) if head is not None]
    outside = {id(module) for head in outputs for module in head.modules()}
    found = set()
    for prefix, module in model.named_modules():
        wanted = next((own for kind, own in MATRICES.items() if isinstance(module, kind)), ())
        if wanted and id(module) not in outside:
            found |= {
                f"{prefix}.{name}"
                for name, _ in module.named_parameters()
                if name.partition(".")[0] in wanted
            }
    return found
