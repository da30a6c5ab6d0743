"""ZeRO, first stage: every rank holds all weights, and updates and keeps the moments of some rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from glassbox.core.distributed import Group
from glassbox.layers.parameter_roles import fused_rows
from glassbox.models.causal_lm import CausalLM
from glassbox.optim.base import Optimizer
from glassbox.training.parallel.layout import Overlapped
from glassbox.training.parallel.local_optimizer import LocalOptimizer
from glassbox.training.parallel.pieces import Piece
from glassbox.training.parallel.swap import swapped_parameters


class Zero(Overlapped):
    """Gradients are summed as in DDP; each rank updates its rows of each weight, then all gather them.

    The moments take 1 / (number of ranks) of the memory a rank. Weights without rows (scalars) are
    updated on every rank. Source: Rajbhandari et al., arXiv:1910.02054, section 5.1.
    Tested against: one process with all rows; the same states on any number of ranks.
    """

    def apply(self, model: CausalLM) -> None:
        """Note which rows are this rank's."""
        super().apply(model)
        self._pieces: dict[str, Piece] = {}
        self._parts: dict[int, nn.Parameter] = {}
        self._real: dict[int, nn.Parameter] = {}
        self._gathers: list[tuple[nn.Parameter, nn.Parameter, Piece]] = []
        for name, parameter in model.named_parameters():
            if not (parameter.requires_grad and parameter.dim()):
                continue
            piece = Piece(len(parameter), self.data, None, Group())
            part = nn.Parameter(piece.own(parameter.data))  # a view
            self._pieces[name] = piece
            self._parts[id(parameter)] = part
            self._real[id(part)] = parameter
            self._gathers.append((parameter, part, piece))

    @contextlib.contextmanager
    def local(self, model: CausalLM) -> Iterator[None]:
        """The model's parameters are this rank's rows."""
        with swapped_parameters(model, self._parts):
            yield

    def optimizer(self, optimizer: Optimizer, model: CausalLM) -> Optimizer:
        """Over the rows that were swapped in."""
        found = LocalOptimizer(
            optimizer,
            real=self._real,
            pieces=self._pieces,
            rows=fused_rows(model),
            gradient=self._gradient,
            updated=self._gather,
            key="parallel.data = 'zero1'",
        )
        self._sum(found.parameters())
        return found

    def _gradient(self, parameter: nn.Parameter, part: nn.Parameter) -> Tensor | None:
        if parameter.grad is None:
            return None
        size = -(-len(parameter) // self.data.world_size)
        return parameter.grad[self.data.rank * size : (self.data.rank + 1) * size]

    @torch.no_grad()
    def _gather(self) -> None:
        for parameter, part, piece in self._gathers:
            parameter.copy_(piece.gather(part.data))
