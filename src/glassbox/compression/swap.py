"""Quantized layers in the place of plain ones: which layers, in which codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from glassbox.compression.codes import named_codes
from glassbox.compression.ggml import GgmlCodes
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
    """In which codes each layer's matrix is written, by path; layers that are not named stay as they are.

    scaled_inputs: paths of linear layers that divide their inputs channel by channel (AWQ).
    made: how the codes were chosen, for the file.
    """

    layers: Mapping[str, WeightCodes] = field(default_factory=dict)
    scaled_inputs: frozenset[str] = frozenset()
    made: Mapping[str, Any] = field(default_factory=dict)


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

    Those are few numbers, and what they lose is lost for every token. Of formats whose blocks do not fit
    a matrix's width, int8 takes its place.
    """
    codes = named_codes(codes) if isinstance(codes, str) else codes
    eight: WeightCodes = IntegerCodes(bits=8)
    if isinstance(codes, GgmlCodes):
        eight = GgmlCodes(type="Q8_0")
    outer = codes if codes.num_bytes(1, 4096) > 4000 else eight
    found: dict[str, WeightCodes] = {}
    for path, layer in quantizable(model).items():
        wanted = outer if path in (EMBEDDING, HEAD) else codes
        found[path] = wanted if fits(wanted, layer.weight.shape) else IntegerCodes(bits=8)
    return Plan(found)


def fits(codes: WeightCodes, shape: Sequence[int]) -> bool:
    """Whether a matrix of that shape can be written in these codes."""
    try:
        codes.layout(*shape)
    except UserError:
        return False
    return True


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
        layer = _coded(known.pop(path), codes, encode)
        if path in plan.scaled_inputs:
            if not isinstance(layer, QuantizedLinear):
                raise UserError(f"'{path}' is no linear layer; its inputs cannot be scaled")
            layer.scale_inputs(torch.ones(layer.in_features, device=layer.device))
        replace(model, path, layer)
    if plan.made:
        vars(model)["made"] = dict(plan.made)
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
            replace(model, path, module.to_embedding())
        elif isinstance(module, QuantizedLinear):
            replace(model, path, module.to_linear(model.dtype))
    return model


def coded_layers(model: nn.Module) -> Iterator[tuple[str, CodedMatrix]]:
    """Paths and quantized layers."""
    for path, module in model.named_modules():
        if isinstance(module, CodedMatrix):
            yield path, module


def plan_of(model: CausalLM) -> Plan:
    """Which layers are quantized, and how."""
    coded = dict(coded_layers(model))
    scaled = (
        path
        for path, layer in coded.items()
        if isinstance(layer, QuantizedLinear) and layer.input_scales is not None
    )
    layers = {path: layer.format for path, layer in coded.items()}
    return Plan(layers, frozenset(scaled), vars(model).get("made", {}))


def pack(model: nn.Module) -> None:
    """Put all codes in the order of this machine's kernels; what is saved stays the plain order."""
    for _, layer in coded_layers(model):
        layer.pack()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights as they are saved: tied ones once."""
    plain = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    coded = (layer.format.num_bytes(layer.rows, layer.columns) for _, layer in coded_layers(model))
    return plain + sum(coded)


def replace(model: CausalLM, path: str, module: nn.Module) -> None:
    """Put a module at a path."""
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
