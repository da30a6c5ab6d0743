"""Learning rates that stay right as a model gets wider (`width_transfer`): maximal update parametrization.

Source: Yang et al., "Tensor Programs V", arXiv:2203.03466, table 8; for Muon the spectral condition of
Yang et al., arXiv:2310.17813. bench/width_transfer.py draws the best rate over widths, with and without.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.optim.base import GroupedOptimizer, Optimizer
from glassbox.optim.groups import ParameterGroup
from glassbox.optim.matrices import hidden_matrices
from glassbox.optim.torch_interface import members


class WidthTransfer(Spec):
    """Tune train.lr at `base_width` and keep it at any hidden_size: with m = hidden_size / base_width,

    hidden matrices are drawn with std / sqrt(m), embeddings with std; logits are times 1 / m; the rate
    of hidden matrices is times m^-e. The exponent e is the optimizer's `width_exponent`: 1 for AdamW and
    Lion, whose updates have one size a weight; 1/2 for Adafactor, whose updates are relative to the
    weights; 0 for Muon, whose updates have one spectral norm. Embeddings, norms, biases and the output
    keep train.lr. Weight decay a step (rate times decay) is the same at every width.

    All inner sizes must grow with hidden_size, with head_dim as it is: more heads, not wider ones.
    At base_width nothing changes but `init.embedding_std`'s default being spelled out.
    """

    base_width: int = Field(gt=0, description="the hidden_size at which train.lr was tuned")

    def ratio(self, config: ModelConfig) -> float:
        """m = hidden_size / base_width."""
        return config.hidden_size / self.base_width

    def config(self, config: ModelConfig) -> ModelConfig:
        """The config with initialization and logit scale for its width."""
        ratio, init = self.ratio(config), config.init
        embedding_std = init.std if init.embedding_std is None else init.embedding_std
        drawn = init.model_copy(
            update={"std": init.std / math.sqrt(ratio), "embedding_std": embedding_std}
        )
        return config.model_copy(update={"init": drawn, "logit_scale": config.logit_scale / ratio})

    def scale_rates(self, optimizer: Optimizer, model: CausalLM, exponent: float | None) -> None:
        """Scale the rates of hidden matrices in a built optimizer, in place.

        Raises UserError for an optimizer without an exponent.
        """
        if exponent is None:
            raise UserError(
                "width_transfer knows no rule for this optim.kind; use adamw, lion, adafactor or muon"
            )
        scale = self.ratio(model.config) ** -exponent
        hidden = hidden_matrices(model)
        for member in members(optimizer):
            member.groups = [
                part for group in member.groups for part in _divided(member, group, hidden, scale)
            ]


def _divided(
    member: GroupedOptimizer, group: ParameterGroup, hidden: set[str], scale: float
) -> list[ParameterGroup]:
    """A group as two: hidden matrices at their rate, and the rest as it is."""
    inside = {name: p for name, p in group.parameters.items() if name in hidden}
    rest = {name: p for name, p in group.parameters.items() if name not in hidden}
    # an independent decay is not times the rate, so it needs no correction
    decay = group.weight_decay
    decay = decay if getattr(member, "decay", "") == "independent" else decay / scale
    scaled = replace(group, parameters=inside, lr_scale=group.lr_scale * scale, weight_decay=decay)
    return [part for part in (scaled, replace(group, parameters=rest)) if part.parameters]
