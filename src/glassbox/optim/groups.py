"""Parameter groups: which parameters are decayed, and which are not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from glassbox.layers.parameter_roles import undecayed


@dataclass(frozen=True)
class ParameterGroup:
    """Named parameters that share a weight decay and a factor on the learning rate."""

    parameters: dict[str, nn.Parameter]
    weight_decay: float = 0.0
    lr_scale: float = 1.0


def named_parameters(
    model: nn.Module, companions: Mapping[str, nn.Module] | None = None
) -> list[tuple[str, nn.Parameter]]:
    """Those of a model, then those of modules that are trained along with it, under their names."""
    named = list(model.named_parameters())
    for name, module in (companions or {}).items():
        named += [(f"{name}.{key}", parameter) for key, parameter in module.named_parameters()]
    return named


def spared_by_decay(
    model: nn.Module, companions: Mapping[str, nn.Module] | None = None
) -> set[str]:
    """Of `named_parameters`, those that their layers want spared (`layers.parameter_roles`)."""
    found = undecayed(model)
    for name, module in (companions or {}).items():
        found |= {f"{name}.{key}" for key in undecayed(module)}
    return found


def decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    *,
    spared: Collection[str] = (),
) -> list[ParameterGroup]:
    """Decay matrices; leave vectors (norm weights, biases) alone, as GPT-3 and nanoGPT do.

    spared: names of others that are left alone: those that the layers declare (`spared_by_decay`).
    Frozen parameters are left out, tied ones come once. Raises ValueError where nothing is trainable.
    """
    matrices: dict[str, nn.Parameter] = {}
    vectors: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, parameter in named_parameters:
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        is_matrix = parameter.dim() >= 2 and not name.endswith("bias") and name not in spared
        (matrices if is_matrix else vectors)[name] = parameter
    if not seen:
        raise ValueError("no parameter is trainable; unfreeze some")
    groups = [ParameterGroup(matrices, weight_decay), ParameterGroup(vectors, 0.0)]
    return [group for group in groups if group.parameters]


def model_groups(
    model: nn.Module, weight_decay: float, companions: Mapping[str, nn.Module] | None = None
) -> list[ParameterGroup]:
    """`decay_groups` of all trainable parameters of a model and of what is trained along with it."""
    named, spared = named_parameters(model, companions), spared_by_decay(model, companions)
    return decay_groups(named, weight_decay, spared=spared)
