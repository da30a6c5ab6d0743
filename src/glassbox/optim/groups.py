"""Parameter groups: which parameters weight decay applies to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from glassbox.layers.parameter_roles import undecayed


@dataclass(frozen=True)
class ParameterGroup:
    """Named parameters that share a weight decay and a learning-rate multiplier."""

    parameters: dict[str, nn.Parameter]
    weight_decay: float = 0.0
    lr_scale: float = 1.0


def named_parameters(
    model: nn.Module, companions: Mapping[str, nn.Module] | None = None
) -> list[tuple[str, nn.Parameter]]:
    """Parameters of the model, then of its companion modules, by name."""
    named = list(model.named_parameters())
    for name, module in (companions or {}).items():
        named += [(f"{name}.{key}", parameter) for key, parameter in module.named_parameters()]
    return named


def spared_by_decay(
    model: nn.Module, companions: Mapping[str, nn.Module] | None = None
) -> set[str]:
    """Names of parameters that their layers exempt from weight decay (`layers.parameter_roles`)."""
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
    """Two groups: matrices with weight decay, vectors (norm weights, biases) without, as in GPT-3 and nanoGPT.

    spared: names of further parameters without decay, as declared by their layers (`spared_by_decay`).
    Frozen parameters are omitted, tied ones appear once. Raises ValueError if nothing is trainable.
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
    """`decay_groups` of all trainable parameters of a model and its companions."""
    named, spared = named_parameters(model, companions), spared_by_decay(model, companions)
    return decay_groups(named, weight_decay, spared=spared)
