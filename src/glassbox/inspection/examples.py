"""Where on real text a part is at work: the texts that excite a neuron most, the tokens of an expert."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import evaluating
from glassbox.inspection.recording import HasModel, inspect, the_model
from glassbox.inspection.sites import names
from glassbox.models.causal_lm import CausalLM


@dataclass(frozen=True)
class NeuronExample:
    """One place where a neuron was excited: how much, in which text (by number), at which token."""

    activation: float
    text: int
    position: int


def neuron_examples(
    model: CausalLM | HasModel,
    texts: Iterable[Int[Tensor, " T"] | list[int]],
    layer: int,
    neuron: int,
    *,
    top: int = 10,
) -> list[NeuronExample]:
    """The tokens at which a hidden unit of a feed-forward is largest, at most one a text, largest first.

    texts: token ids, one text at a time; only the best are kept, so that there may be any number.
    Raises UserError where the layer's feed-forward shows no hidden units (a mixture of experts).
    Source: Geva et al., arXiv:2012.14913, section 3. Tested against: a sort of all activations.
    """
    model = the_model(model)
    name = f"blocks.{layer}.ffn.hidden"
    if name not in names(model):
        raise UserError(f"layer = {layer}: its feed-forward shows no hidden units; choose another")
    best: list[tuple[float, int, int]] = []
    with evaluating(model), torch.no_grad(), inspect(model, name) as run:
        for number, text in enumerate(texts):
            run.clear()
            model.hidden_states(torch.as_tensor(text, device=model.device).view(1, -1))
            values = run[name][0]
            if not 0 <= neuron < values.shape[1]:
                raise UserError(f"neuron = {neuron}: layer {layer} has {values.shape[1]}")
            value, position = values[:, neuron].max(0)
            entry = (float(value), -number, int(position))
            if len(best) < top:
                heapq.heappush(best, entry)
            else:
                heapq.heappushpop(best, entry)
    ordered = sorted(best, reverse=True)
    return [NeuronExample(value, -number, position) for value, number, position in ordered]


@dataclass(frozen=True)
class ExpertMap:
    """One layer's routing: chosen experts and their gates (B, T, K), and each expert's share of them (E,)."""

    experts: Int[Tensor, "B T K"]
    gates: Float[Tensor, "B T K"]
    load: Float[Tensor, " E"]


def expert_routing(model: CausalLM | HasModel, ids: Int[Tensor, "B T"]) -> dict[int, ExpertMap]:
    """Layer -> where its router sends each token, for the layers that are mixtures of experts.

    Raises UserError for a model without one. Tested against: the router's product and its largest
    logits, and transformers' router_logits.
    """
    model = the_model(model)
    known = names(model)
    layers = [n for n in range(len(model.blocks)) if f"blocks.{n}.ffn.router" in known]
    if not layers:
        raise UserError("this model has no mixture of experts")
    wanted = ["*.ffn.router", "*.ffn.experts", "*.ffn.gates"]
    with evaluating(model), torch.no_grad(), inspect(model, wanted) as run:
        model.hidden_states(ids.to(model.device))
    found = {}
    for layer in layers:
        at = f"blocks.{layer}.ffn."
        chosen = run[f"{at}experts"]
        count = torch.bincount(chosen.flatten(), minlength=run[f"{at}router"].shape[-1])
        found[layer] = ExpertMap(chosen, run[f"{at}gates"], count / count.sum())
    return found
