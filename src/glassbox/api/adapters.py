"""`glassbox.attach_adapter` and `glassbox.merge_adapter`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassbox.adapters.attach import attach, bake
from glassbox.adapters.base import DEFAULT, BaseModel
from glassbox.adapters.specs import AnyAdapter
from glassbox.api.loaded import Loaded
from glassbox.core.config import Spec, parse
from glassbox.core.errors import UserError
from glassbox.models.causal_lm import CausalLM


class _Asked(Spec):
    adapter: AnyAdapter


def attach_adapter(
    model: CausalLM | Loaded,
    adapter: AnyAdapter | Mapping[str, Any] | str = "lora",
    *,
    name: str = DEFAULT,
    seed: int = 0,
    **settings: Any,
) -> CausalLM:
    """Freeze a model and add an adapter to it, in place; only the adapter's parameters are trained.

    adapter: a spec, a mapping as in a recipe, or a kind (lora, bottleneck, prefix, prompt) with its
        `settings`, such as rank=8, alpha=16, targets=("all-linear",), quantize="nf4".
    Returns the `CausalLM`. Raises UserError for an unknown setting, and if `targets` match no
    layer.
    Tested against: peft, in both directions on disk.

    >>> attach_adapter(model, "lora", rank=8)  # doctest: +SKIP
    """
    if isinstance(adapter, str):
        adapter = {"kind": adapter, **settings}
    elif settings:
        raise UserError(f"'{next(iter(settings))}': settings go with a kind, such as 'lora'")
    spec = parse(_Asked, {"adapter": adapter}, where="attach_adapter").adapter
    base = BaseModel()
    if isinstance(model, Loaded):
        base = BaseModel(path=None if model.path is None else model.path.resolve().as_posix())
        model = model.model
    attach(model, spec, name, base=base, seed=seed)
    return model


def merge_adapter(model: CausalLM | Loaded, *, name: str = DEFAULT) -> CausalLM:
    """Merge an adapter's update into the base model's matrices, in place; return the plain model.

    4-bit matrices are dequantized. Raises UserError for prefix, prompt and bottleneck adapters,
    which cannot be expressed as an update of a matrix.
    """
    if isinstance(model, Loaded):
        model = model.model
    return bake(model, name)
