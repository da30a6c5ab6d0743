"""Sparse upcycling: converts a dense model to a mixture of experts for further training."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.formats.huggingface import export_state, import_state
from glassbox.layers.experts import MixtureOfExperts, MixtureOfExpertsLayer
from glassbox.layers.feedforward import Perceptron
from glassbox.models.block import Block
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec
from glassbox.models.family import repeats


def upcycle(
    model: CausalLM,
    num_experts: int,
    top_k: int,
    *,
    layers: Collection[int] | None = None,
    balance_loss: float = 0.01,
    generator: torch.Generator | None = None,
) -> CausalLM:
    """A new model in which each feed-forward of `layers` (all unless given) is num_experts copies
    of itself.

    The router is initialized randomly and its gates sum to 1, so that the weighted sum of the
    copies equals the dense layer's output, and the logits equal those of `model`. `model` is not
    changed; `generator` must be on the device of its weights.
    Raises UserError for a layer that does not exist or has no feed-forward to copy, and for invalid
    numbers of experts. Source: Komatsuzaki et al., arXiv:2212.05055, section 3. Tested
    against: the dense model's logits; the Mixtral that transformers opens.
    """
    if not 1 <= top_k <= num_experts:
        raise UserError(
            f"top_k = {top_k} of num_experts = {num_experts}: a token passes at least one expert "
            "and no more than there are"
        )
    specs = model.config.layers()
    chosen = sorted(set(range(len(specs)) if layers is None else layers))
    for layer in chosen:
        if not 0 <= layer < len(specs):
            raise UserError(
                f"layer {layer} is not one of the model's {len(specs)} (0 is the first)"
            )
        ffn = specs[layer].ffn
        if not isinstance(ffn, Perceptron):
            what = "no feed-forward" if ffn is None else f"'{ffn.kind}'"
            raise UserError(
                f"layer {layer} has {what}, of which no experts can be made; leave it out"
            )
        specs[layer] = _with_experts(specs[layer], num_experts, top_k, balance_loss)
    config = model.config.model_copy(update={"blocks": repeats(specs)})
    with torch.device("meta"):
        result = CausalLM(config)
    weight = model.embedding.weight
    result = result.to(weight.dtype).to_empty(device=weight.device)

    state = export_state(model)
    for layer in chosen:
        block = result.blocks[layer]
        assert isinstance(block, Block)
        assert isinstance(block.ffn, MixtureOfExpertsLayer)
        router = block.ffn.router.weight
        drawn = torch.empty_like(router).normal_(std=config.init.std, generator=generator)
        state |= _experts_of(state, f"blocks.{layer}.ffn.", block.ffn, drawn)
        state = {name: tensor for name, tensor in state.items() if name not in _dense(layer)}
    import_state(result, state)
    return result.train(model.training)


def _with_experts(spec: BlockSpec, num_experts: int, top_k: int, balance_loss: float) -> BlockSpec:
    assert spec.ffn is not None
    assert not isinstance(spec.ffn, MixtureOfExperts)
    experts = MixtureOfExperts(
        num_experts=num_experts, top_k=top_k, expert=spec.ffn, balance_loss=balance_loss
    )
    return spec.model_copy(update={"ffn": experts})


def _dense(layer: int) -> set[str]:
    """Names of a dense feed-forward's parameters, of every kind."""
    parts = ("gate_up", "up", "down")
    return {f"blocks.{layer}.ffn.{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def _experts_of(
    state: dict[str, Tensor], prefix: str, layer: MixtureOfExpertsLayer, router: Tensor
) -> dict[str, Tensor]:
    """The experts' parameters: views of the dense layer's, repeated."""
    found = {f"{prefix}router.weight": router}
    for part in (layer.up_name, "down"):
        for kind, name in (("weight", part), ("bias", f"{part}_bias")):
            dense = state.get(f"{prefix}{part}.{kind}")
            if dense is not None:
                found[f"{prefix}{name}"] = dense.expand(layer.spec.num_experts, *dense.shape)
    return found
