"""Weights that stay in float32 in a half-precision model, as in the published files of many families.

A layer names in `wide_weights` those of its weights that it can compute with in float32 while all
others, and the hidden states, are in bfloat16 or float16: factors of norms, routers and the biases
that balance experts, rates and time steps of recurrences.
"""

from __future__ import annotations

import torch
from torch import nn

NARROW = (torch.bfloat16, torch.float16)
"""The dtypes beside which a weight may stay in float32."""


def wide_weights(model: nn.Module) -> set[str]:
    """Names, as in `state_dict`, of the weights that may be in float32 beside narrower ones."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        for name in getattr(module, "wide_weights", ())
    }


@torch.no_grad()
def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """`model.to(dtype)`, but where a model of mixed dtypes goes to a narrow one, float32 is kept.

    Mixed: some weights are narrow. Of `wide_weights`, those in float32 then stay as they are.
    Tested against: `torch.nn.Module.to`.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    is_mixed = any(tensor.dtype in NARROW for tensor in tensors.values())
    kept = wide_weights(model) if is_mixed and dtype in NARROW else set()
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not (name in kept and tensor.dtype == torch.float32):
            tensor.data = tensor.data.to(dtype)
