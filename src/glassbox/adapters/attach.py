"""Attach, merge and remove adapters on a model. Reading and writing files: `formats.peft`.

The base model is frozen and only the adapter is trained. A model may have several adapters, of
which one is used for all rows of a batch or a different one for each row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from glassbox.adapters.base import (
    DEFAULT,
    Adapters,
    AdapterSpec,
    BaseModel,
    adapters_of,
    replace_module,
    weights_fingerprint,
)
from glassbox.adapters.linear_parts import is_router
from glassbox.core.errors import UserError
from glassbox.layers.linear import Linear
from glassbox.layers.quantized import Nf4Linear
from glassbox.layers.quantized_linear import QuantizedLinear
from glassbox.models.causal_lm import CausalLM


def attach(
    model: CausalLM,
    spec: AdapterSpec,
    name: str = DEFAULT,
    *,
    base: BaseModel | None = None,
    seed: int = 0,
) -> Adapters:
    """Freeze a model and add an adapter, which becomes the active one and the only one trained.

    base: name and path of the base model, whose fingerprint is computed before it is changed.
        Raises UserError if the targets match no linear layer, the name is taken, or the kinds
        cannot be combined.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"adapter name '{name}': use letters, digits, '_' and '-'")
    if hasattr(nn.ModuleDict(), name):  # it would be an attribute of one
        raise UserError(f"adapter name '{name}' is taken by torch; give another name")
    adapters = adapters_of(model)
    if adapters is None:
        base = base or BaseModel()
        base = BaseModel(base.name, base.path, base.fingerprint or weights_fingerprint(model))
        adapters = Adapters(model, base)
    elif name in adapters.specs:
        raise UserError(f"adapter '{name}' is there already; give another name")
    elif adapters.merged is not None:
        raise UserError(f"adapter '{adapters.merged}' is merged; unmerge it first")
    elif spec.stands_alone or any(held.stands_alone for held in adapters.specs.values()):
        raise UserError(f"an adapter of kind '{spec.kind}' stands alone; detach the others first")
    elif adapters.extra or spec.trains_base:
        raise UserError("an adapter that trains parts of the base along cannot share it")
    generator = torch.Generator().manual_seed(seed)
    if adapters_of(model) is None:
        model.requires_grad_(False)
        if spec.quantize is not None:
            quantize(model, torch.bfloat16 if spec.compute == "bfloat16" else torch.float32)
        vars(model)["adapters"] = adapters
    adapters.specs[name] = spec
    try:
        spec.attach(adapters, name, generator)
        _train_along(adapters, spec, name)
    except BaseException:
        adapters.specs.pop(name)
        if not adapters.specs:
            detach(model)
        raise
    adapters.selection.active = name
    return adapters


def detach(model: CausalLM) -> None:
    """Remove all adapters and restore the base, which stays in 4 bits if it was quantized.

    Parameters of the base that were trained as well keep their values.
    """
    adapters = adapters_of(model)
    if adapters is None:
        return
    adapters.unmerge()
    for path, layer in list(adapters.layers()):
        replace_module(model, path, layer.base)
    if adapters.virtual is not None:
        del model.virtual
    del vars(model)["adapters"]
    for hook in adapters.hooks:
        hook.remove()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in adapters.trainable_before)


def drop(model: CausalLM, name: str) -> None:
    """Remove one adapter; removing the last one is the same as `detach`.

    Where it was the active one, none is. Raises UserError for a name not held, and while merged.
    """
    adapters = adapters_of(model)
    assert adapters is not None
    adapters._check(name)
    if len(adapters.specs) == 1:
        detach(model)
        return
    adapters.specs.pop(name)
    adapters.parts.pop(name, None)
    for path, layer in list(adapters.layers()):
        if name in layer.updates:
            del layer.updates[name]
        if not layer.updates:
            replace_module(model, path, layer.base)
    if adapters.selection.active == name:
        adapters.selection.active = None


def bake(model: CausalLM, name: str = DEFAULT, *, dtype: torch.dtype | None = None) -> CausalLM:
    """Merge an adapter permanently and dequantize 4-bit matrices, for export as a plain model.

    dtype: of the dequantized matrices; by default the embedding's. Raises UserError for adapters
        that cannot be expressed as an update of a matrix.
    """
    adapters = adapters_of(model)
    if adapters is not None:
        adapters.unmerge()
        adapters.selection.set_rows(None)
        for _, layer in adapters.layers():
            if isinstance(layer.base, Nf4Linear | QuantizedLinear):
                layer.base = layer.base.to_linear(dtype or model.dtype)
        adapters.merge(name)
        for path, layer in list(adapters.layers()):
            replace_module(model, path, layer.base)
        for hook in adapters.hooks:
            hook.remove()
        del vars(model)["adapters"]
    for path, module in list(model.named_modules()):
        if isinstance(module, Nf4Linear | QuantizedLinear):
            replace_module(model, path, module.to_linear(dtype or model.dtype))
    return model.requires_grad_()


def quantize(model: CausalLM, compute_dtype: torch.dtype = torch.bfloat16) -> None:
    """Quantize the weights of all linear layers in the blocks to 4 bits (NF4, double quantization)."""
    for path, module in list(model.named_modules()):
        if path.startswith("blocks.") and isinstance(module, Linear) and not is_router(path):
            replace_module(model, path, Nf4Linear.from_linear(module, compute_dtype=compute_dtype))


def train_only(model: CausalLM, patterns: Sequence[str]) -> list[str]:
    """Freeze all parameters except those whose names match a pattern (`blocks.5.*`, `*norm*`).

    Returns the names that stay trainable. Raises UserError for a pattern that matches none.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise UserError(
                f"train.only: '{pattern}' matches no parameter; names are as "
                f"'{next(iter(named))}' and '{list(named)[-1]}'"
            )
    kept = [name for name in named if any(fnmatchcase(name, p) for p in patterns)]
    for name, parameter in named.items():
        parameter.requires_grad_(name in kept)
    return kept


def _train_along(adapters: Adapters, spec: AdapterSpec, name: str) -> None:
    """Biases, the head of a reward model, and what `also` names."""
    model = adapters.model
    own = {id(tensor) for tensor in adapters.state(name).values()}
    named = {
        path.replace(".base.", "."): parameter
        for path, parameter in model.named_parameters()
        if id(parameter) not in own
    }
    head = ["score.*"] if model.score is not None else []
    for pattern in spec.also:
        if not any(fnmatchcase(path, pattern) for path in named):
            raise UserError(f"adapter.also: '{pattern}' matches no parameter")
    adapted = {path for path, _ in adapters.layers()}
    for path, parameter in named.items():
        if spec.trains(path, adapted) or any(fnmatchcase(path, p) for p in head):
            parameter.requires_grad_()
            adapters.extra.append(path)
            rows = spec.trained_rows(path, adapters.parts.get(name, []))
            if rows is not None:
                adapters.hooks.append(parameter.register_hook(_only_rows(rows)))


def _only_rows(rows: Sequence[tuple[int, int]]) -> Callable[[Tensor], Tensor]:
    """Of a bias that is several of theirs at once, the gradient of the adapted ones."""

    def mask(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        for start, stop in rows:
            kept[start:stop] = gradient[start:stop]
        return kept

    return mask
