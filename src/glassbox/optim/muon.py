"""Muon: momentum with orthogonalized updates, matrix by matrix or batched by shape.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; decay and use at
scale: Liu et al., arXiv:2502.16982. For the matrices between the layers (`hidden_matrices`);
embeddings, the output projection and vectors belong to AdamW (`Together` joins the two).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.parameter_roles import FusedRows, fused_rows
from glassbox.models.causal_lm import CausalLM
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.base import Gathers, GroupedOptimizer, Optimizer
from glassbox.optim.groups import ParameterGroup, decay_groups, named_parameters, spared_by_decay
from glassbox.optim.matrices import hidden_matrices

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values to about 1 in five steps (Jordan et al.)."""


class MuonConfig(Spec):
    """Muon for the matrices inside the blocks, AdamW for the rest; train.lr is Muon's."""

    width_exponent: ClassVar[float | None] = 0.0
    kind: Literal["muon"] = "muon"
    momentum: float = Field(0.95, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    adamw: AdamWConfig = AdamWConfig()
    adamw_lr_ratio: float = Field(
        0.25, gt=0, description="ratio of AdamW's learning rate to Muon's"
    )

    def build(self, model: CausalLM, companions: Mapping[str, nn.Module] | None = None) -> Together:
        """Return Muon and AdamW over all trainable parameters; those of companions go to AdamW."""
        trained = [pair for pair in named_parameters(model, companions) if pair[1].requires_grad]
        taken, spared = hidden_matrices(model), spared_by_decay(model, companions)
        inside = [pair for pair in trained if pair[0] in taken]
        rest = [pair for pair in trained if pair[0] not in taken]
        optimizers: list[Optimizer] = []
        if inside:
            groups = decay_groups(inside, self.weight_decay, spared=spared)
            optimizers.append(Muon(groups, momentum=self.momentum, rows=fused_rows(model)))
        if rest or not inside:  # an adapter may be matrices alone
            groups = decay_groups(rest, self.adamw.weight_decay, spared=spared)
            scaled = [replace(group, lr_scale=self.adamw_lr_ratio) for group in groups]
            optimizers.append(self.adamw.build_groups(scaled))
        return Together(optimizers)


def orthogonalize(
    matrices: Float[Tensor, "*batch m n"], *, steps: int = 5, eps: float = 1e-7
) -> Float[Tensor, "*batch m n"]:
    """Nearly U V^T of each matrix's singular value decomposition U S V^T, by Newton-Schulz iteration.

    X <- a X + (b A + c A^2) X with A = X X^T, from X scaled to Frobenius norm 1. Singular values end
    between about 0.7 and 1.2. Tested against: torch.optim.Muon and the singular value decomposition.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(GroupedOptimizer):
    """B = mu B + (1 - mu) g; W -= lr (sqrt(max(1, rows / columns)) orthogonalize(mixed) + decay W).

    `mixed` is (1 - mu) g + mu B (Nesterov). Decay is decoupled. A stack of matrices, as experts have,
    is made orthogonal matrix by matrix, and so is a parameter that is several laid out as one (`rows`:
    q, k and v, or gate and up), each with its own rows / columns. With `batched`, matrices of one shape
    go together. Raises ValueError for parameters that are neither matrices nor stacks of them.
    Tested against: torch.optim.Muon (which computes in bfloat16), on each matrix by itself.
    """

    by_parts: ClassVar[bool] = True

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        momentum: float = 0.95,
        steps: int = 5,
        batched: bool = True,
        rows: Mapping[str, FusedRows] | None = None,
    ) -> None:
        super().__init__(groups)
        self.momentum = momentum
        self.newton_schulz_steps = steps
        self.batched = batched
        self.rows = dict(rows or {})
        self.pieces: Mapping[str, Gathers] = {}
        self.buffers: dict[str, Tensor] = {}
        for group in self.groups:
            for name, parameter in group.parameters.items():
                if parameter.dim() not in (2, 3):
                    raise ValueError(
                        f"'{name}' has shape {tuple(parameter.shape)}; Muon takes matrices only"
                    )
                self.buffers[name] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            lr = learning_rate * group.lr_scale
            pieces: dict[str, list[Tensor]] = {}
            for name, parameter in group.parameters.items():
                if parameter.grad is not None:
                    mixed = self._mixed(name, parameter.grad)
                    if name in self.pieces:
                        mixed = self.pieces[name].gather(mixed)
                    pieces[name] = self.rows[name].split(mixed) if name in self.rows else [mixed]
            for name, parts in self._orthogonal(pieces).items():
                weight = group.parameters[name]
                update = self.rows[name].join(parts) if name in self.rows else parts[0]
                if name in self.pieces:
                    update = self.pieces[name].own(update)
                weight.mul_(1 - lr * group.weight_decay)
                weight.add_(update, alpha=-lr)

    def see_parts(self, pieces: Mapping[str, Gathers], rows: Mapping[str, FusedRows]) -> None:
        """Momentum stays in parts; a matrix is gathered for the time of its orthogonalization."""
        self.pieces, self.rows = pieces, dict(rows)

    def _mixed(self, name: str, gradient: Tensor) -> Tensor:
        buffer = self.buffers[name]
        buffer.lerp_(gradient, 1 - self.momentum)
        return gradient.lerp(buffer, self.momentum)

    def _orthogonal(self, pieces: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Orthogonalize each matrix and scale it by its shape; matrices of one shape form one batch."""
        same: dict[tuple[object, ...], list[tuple[str, int]]] = defaultdict(list)
        for name, parts in pieces.items():
            for place, part in enumerate(parts):
                key = tuple(part.shape[-2:]) if self.batched else (name, place)
                same[key].append((name, place))
        found = {name: list(parts) for name, parts in pieces.items()}
        for places in same.values():
            first = pieces[places[0][0]][places[0][1]]
            rows, columns = first.shape[-2:]
            matrices = [pieces[name][place].reshape(-1, rows, columns) for name, place in places]
            updates = orthogonalize(torch.cat(matrices), steps=self.newton_schulz_steps)
            updates = updates * math.sqrt(max(1.0, rows / columns))
            parts = list(updates.split([len(one) for one in matrices]))
            for (name, place), update in zip(places, parts, strict=True):
                found[name][place] = update.view_as(pieces[name][place])
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The momentum of every parameter."""
        return {f"momentum.{name}": buffer for name, buffer in self.buffers.items()}


class Together:
    """Several optimizers over disjoint parameters, behind the interface of one."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all optimizers, in order."""
        return [p for optimizer in self.optimizers for p in optimizer.parameters()]

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self, learning_rate: float) -> None:
        """Step every optimizer."""
        for optimizer in self.optimizers:
            optimizer.step(learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of all optimizers, each key prefixed with the optimizer's index."""
        return {
            f"{number}.{key}": tensor
            for number, optimizer in enumerate(self.optimizers)
            for key, tensor in optimizer.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load all states. Raises ValueError naming the first tensor that does not fit."""
        for number, optimizer in enumerate(self.optimizers):
            prefix = f"{number}."
            own = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
            optimizer.load_state_dict(own)
