"""Quantized layers in the place of plain ones: which layers, in which codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from glassbox.compression.codes import named_codes
from glassbox.compression.integers import IntegerCodes
from glassbox.core.errors import UserError
from glassbox.layers.linear import Embedding, Linear
from glassbox.layers.quantized_linear import CodedMatrix, QuantizedEmbedding, QuantizedLinear
from glassbox.layers.weight_codes import WeightCodes
from glassbox.models.causal_lm import CausalLM

EMBEDDING = "embedding"
HEAD = "head"


@dataclass(frozen=True)
class Plan:
    """In which codes each layer's matrix is written, by path; layers that are not named stay as they are."""

    layers: Mapping[str, WeightCodes] = field(default_factory=dict)


def quantizable(model: CausalLM) -> dict[str, Linear | Embedding]:
    """The layers whose matrices can be written in codes: linear layers, the embedding, the head.

    Not routers, nor layers that compute in float32 beside narrower ones; position embeddings neither.
    """
    found: dict[str, Linear | Embedding] = {}
    found |= {
        path: module
        for path, module in model.named_modules()
        if type(module) is Linear and not path.endswith("router")
    }
    if type(model.embedding) is Embedding:
        found[EMBEDDING] = model.embedding
    return found


def plan_for(model: CausalLM, codes: WeightCodes | str) -> Plan:
    """All layers in these codes; of 4 bits, embedding and output matrix in 8, a scale a row.

    They are a sixth of a small model's time, and what they lose is lost for every token.
    """
    codes = named_codes(codes) if isinstance(codes, str) else codes
    outer = codes if isinstance(codes, IntegerCodes) and codes.bits == 8 else IntegerCodes(bits=8)
    return Plan(
        {path: outer if path in (EMBEDDING, HEAD) else codes for path in quantizable(model)}
    )


def swap_in(model: CausalLM, plan: Plan, *, encode: bool = True) -> CausalLM:
    """Put quantized layers in the place of those that the plan names, their matrices rounded to nearest.

    encode: False leaves the parts on the meta device, to be set by who reads them from a file. Each
    plain matrix is let go before the next is rounded. Raises UserError for a path that is none.
    """
    known = quantizable(model)
    for path in plan.layers:
        if path not in known:
            raise UserError(
                f"'{path}' is no layer of this model that can be quantized; there are "
                f"'{next(iter(known), '')}' and {max(0, len(known) - 1)} more"
            )
    for path, codes in plan.layers.items():
        _replace(model, path, _coded(known.pop(path), codes, encode))
    return model


def _coded(layer: Linear | Embedding, codes: WeightCodes, encode: bool) -> CodedMatrix:
    if isinstance(layer, Embedding):
        make = QuantizedEmbedding.from_embedding if encode else QuantizedEmbedding.empty
        return make(layer, codes)
    make_linear = QuantizedLinear.from_linear if encode else QuantizedLinear.empty
    return make_linear(layer, codes)


@torch.no_grad()
def quantize(model: CausalLM, codes: WeightCodes | str | Plan) -> CausalLM:
    """Round a model's matrices to nearest, in place: `plan_for` and `swap_in`. Returns the model."""
    return swap_in(model, codes if isinstance(codes, Plan) else plan_for(model, codes))


@torch.no_grad()
def widen(model: CausalLM) -> CausalLM:
    """Plain layers in the place of quantized ones, of the widened matrices. Returns the model."""
    for path, module in list(coded_layers(model)):
        if isinstance(module, QuantizedEmbedding):
            _replace(model, path, module.to_embedding())
        elif isinstance(module, QuantizedLinear):
            _replace(model, path, module.to_linear(model.dtype))
    return model


def coded_layers(model: nn.Module) -> Iterator[tuple[str, CodedMatrix]]:
    """Paths and quantized layers."""
    for path, module in model.named_modules():
        if isinstance(module, CodedMatrix):
            yield path, module


def plan_of(model: CausalLM) -> Plan:
    """Which layers are quantized, and how."""
    return Plan({path: layer.format for path, layer in coded_layers(model)})


def pack(model: nn.Module) -> None:
    """Put all codes in the order of this machine's kernels; what is saved stays the plain order."""
    for _, layer in coded_layers(model):
        layer.pack()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights as they are saved: tied ones once."""
    plain = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    coded = (layer.format.num_bytes(layer.rows, layer.columns) for _, layer in coded_layers(model))
    return plain + sum(coded)


def _replace(model: CausalLM, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
