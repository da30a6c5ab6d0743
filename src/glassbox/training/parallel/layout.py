"""What a layout does at each step; the plain one sums gradients over all ranks after the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn

from glassbox.core.data_parallel import DataParallel
from glassbox.core.distributed import Group
from glassbox.core.watchdog import Watchdog
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.optim.base import Optimizer
from glassbox.optim.clipping import Clipper
from glassbox.training.parallel.recompute import recompute_blocks

if TYPE_CHECKING:
    from glassbox.core.mesh import Mesh


class LayoutSettings(Protocol):
    """What a layout reads of the recipe's `parallel`; its spec, which builds layouts, has these keys."""

    @property
    def fsdp(self) -> int:
        """Ranks that weights are divided over."""

    @property
    def tensor(self) -> int:
        """Ranks that each layer is divided over."""

    @property
    def checkpoint(self) -> Literal["none", "full", "selective"]:
        """Which activations are computed again."""

    @property
    def bucket_mb(self) -> float:
        """Megabytes a sum of gradients."""

    @property
    def timeout_seconds(self) -> float | None:
        """How long a rank may get no further."""


class Layout:
    """Every rank holds all weights and moments; gradients are summed when the backward pass is over.

    world: all ranks, for files and messages. data: the ranks that train on different rows, over which
    losses and their weights are summed.
    """

    looks_inside = True
    """Whether telemetry can run the model outside of training steps."""

    one_graph = True
    """Whether forward pass and loss can be compiled as one graph."""

    def __init__(self, world: Group | None = None, data: Group | None = None) -> None:
        self.world = world or Group()
        self.data = data or self.world

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around all steps of a run."""
        yield

    def at(self, phase: str, step: int | None = None) -> None:
        """Told where in a step this rank is; `step` (from 1) where it is a new one."""

    def create(self, config: ModelConfig) -> CausalLM:
        """A model with freshly drawn weights."""
        return CausalLM(config)

    def apply(self, model: CausalLM) -> None:
        """Lay a model out over the ranks, in place; call it once all weights are chosen and on the device."""

    def broadcast(self, module: nn.Module) -> None:
        """Give every rank the weights of rank 0."""
        self.world.broadcast_(tensor.detach() for tensor in module.state_dict().values())

    @contextlib.contextmanager
    def local(self, model: CausalLM) -> Iterator[None]:
        """Within, the model's parameters are what this rank's optimizer updates."""
        yield

    @contextlib.contextmanager
    def averaged(self, model: CausalLM) -> Iterator[None]:
        """Within, the model's parameters are what this rank keeps a moving average of."""
        yield

    def optimizer(self, optimizer: Optimizer, model: CausalLM) -> Optimizer:
        """An optimizer that was built within `local`, over the model's own parameters again."""
        return optimizer

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Around the forward and backward pass of each micro-batch of a step."""
        yield

    def reduced(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """The gradients of the step, summed over ranks: this rank's part of each, to change in place."""
        self._fill_missing(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.data.sum_gradients_(gradients)
        return gradients

    def _fill_missing(self, parameters: Sequence[nn.Parameter]) -> None:
        """Zero gradients of parameters that are touched on other ranks alone."""
        if self.data.world_size == 1:
            return
        touched = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        for parameter, ranks in zip(parameters, self.data.sum_(touched).tolist(), strict=True):
            if ranks and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def clip_(self, clipper: Clipper, gradients: Sequence[Tensor]) -> float:
        """Clip what `reduced` returned; the norm of all gradients before."""
        return float(clipper.clip_(gradients))

    def norms(
        self, parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor], order: float = 2.0
    ) -> list[Tensor]:
        """The norm of each tensor (a parameter's gradient, or its weight), over all ranks' parts of it."""
        return list(torch._foreach_norm(list(tensors), order))

    def first_weight(self, weight: float | Tensor) -> float | None:
        """The weight of what is in the gradients after the first of several micro-batches; None: unknown."""
        return float(weight)

    def count(self, parameter: nn.Parameter) -> int:
        """How many numbers a weight has, over all ranks' parts of it."""
        return parameter.numel()

    def plain(self, model: CausalLM) -> CausalLM:
        """A model of the same shapes that is not divided, to count what it has; maybe without weights."""
        return model

    @contextlib.contextmanager
    def whole(self, model: CausalLM) -> Iterator[None]:
        """Within, each rank can run the model by itself, as often as it likes."""
        yield

    @contextlib.contextmanager
    def saving(self, model: CausalLM) -> Iterator[CausalLM]:
        """A model with all weights, to be written by rank 0; every rank calls it."""
        yield model

    @contextlib.contextmanager
    def filling(self, model: CausalLM) -> Iterator[CausalLM]:
        """A model with all weights; what is loaded into it within is then in `model`."""
        yield model

    def gathered(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State by weight name (a moving average), whole."""
        return dict(state)

    def own(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of state by weight name."""
        return dict(state)


class Overlapped(Layout):
    """Copies of the model; gradients are summed bucket by bucket while the backward pass runs.

    Tested against: one process with all rows.
    """

    one_graph = False

    def __init__(self, mesh: Mesh, config: LayoutSettings, *, precision: str = "float32") -> None:
        super().__init__(mesh.world, mesh.data)
        self.mesh = mesh
        self.config = config
        self._sums: DataParallel | None = None
        self._watchdog: Watchdog | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """With a watchdog where `timeout_seconds` asks for one."""
        seconds = self.config.timeout_seconds
        if seconds is None or self.world.world_size == 1:
            yield
            return
        self._watchdog = Watchdog(self.world, seconds)
        try:
            with self._watchdog.watching():
                yield
        finally:
            self._watchdog = None

    def at(self, phase: str, step: int | None = None) -> None:
        """For the watchdog."""
        if self._watchdog is not None:
            self._watchdog.at(phase, step)

    def apply(self, model: CausalLM) -> None:
        """Activation checkpointing alone; weights stay as they are."""
        recompute_blocks([*model.blocks, *model.mtp], self.config.checkpoint)

    def optimizer(self, optimizer: Optimizer, model: CausalLM) -> Optimizer:
        """Let the gradients of all that is trained be summed as they appear."""
        self._sum(optimizer.parameters())
        return optimizer

    def _sum(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.data.world_size > 1:
            self._sums = DataParallel(
                nn.ParameterList(parameters),
                self.data,
                bucket_bytes=int(self.config.bucket_mb * 2**20),
                reduce="sum",
            )

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Sums start in the last micro-batch's backward pass."""
        if self._sums is None or last:
            yield
            return
        with self._sums.no_sync():
            yield

    def reduced(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Wait for the sums that are under way."""
        if self._sums is not None:
            self._sums.finish()
        return [p.grad for p in parameters if p.grad is not None]
