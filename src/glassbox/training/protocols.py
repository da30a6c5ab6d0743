"""Protocols of objectives, batch sources and hooks, which the training loop is extended by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from glassbox.core.distributed import Group

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM

Number = float | Tensor
BatchT = TypeVar("BatchT", bound="Batch")
BatchT_co = TypeVar("BatchT_co", bound="Batch", covariant=True)
BatchT_contra = TypeVar("BatchT_contra", bound="Batch", contravariant=True)


class Batch(Protocol):
    """The input of one forward pass."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens the model processes, used to report tokens per second."""

    def to(self: BatchT, device: torch.device) -> BatchT:
        """Return the batch on another device."""


@dataclass
class ObjectiveOutput:
    """The result of an objective on one batch.

    loss_sum: differentiable sum over the valid units (tokens, pairs, completions), in nats.
    weight: how many units that is. The loop divides by the sum of weights over all micro-batches
        and all ranks, so the gradient does not depend on how the units were distributed.
    metrics: name -> (sum, weight); reported as sum / weight over the whole step. Every rank returns
        the same names.

    Values may stay on the device as scalar tensors: the loop synchronizes once per step, so that
    no micro-batch waits for the one before it.
    """

    loss_sum: Tensor
    weight: Number
    metrics: Mapping[str, tuple[Number, Number]] = field(default_factory=dict)


class Objective(Protocol[BatchT_contra]):
    """Maps a batch to a summed loss, its weight, and metrics."""

    def __call__(self, model: CausalLM, batch: BatchT_contra) -> ObjectiveOutput:
        """Compute the loss. Reference and teacher models belong to the objective, frozen."""


@runtime_checkable
class TrainsAlong(Protocol):
    """An objective with companion modules trained alongside the model: a value model, a projection.

    The loop saves and restores them with each checkpoint; they are passed to the optimizer, and
    moved to the model's device, by the code that builds the run.
    """

    @property
    def companions(self) -> Mapping[str, nn.Module]:
        """The companion modules by name; the same ones on every call."""


@runtime_checkable
class InOneGraph(Protocol):
    """An objective whose loss the compiler can take in as one graph with the model's forward pass."""

    def in_one_graph(self, model: CausalLM) -> bool:
        """Whether it can with this model; batches must then be of few shapes."""


@runtime_checkable
class BeforeStep(Protocol):
    """An objective that must see all micro-batches of a step before computing the loss of any."""

    def before_step(self, model: CausalLM, batches: Sequence[Any], group: Group) -> None:
        """Called once before the forward passes of each optimizer step, on every rank."""


class BatchSource(Protocol[BatchT_co]):
    """A source of batches: token shards, or a rollout that generates and scores completions."""

    def next_step(self) -> Sequence[BatchT_co]:
        """Return this rank's micro-batches of one optimizer step, at least one."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON. Every rank calls it; rank 0's is saved and used for all ranks."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved position; the batches that follow are the same as without an interruption."""


@runtime_checkable
class AfterStep(Protocol):
    """A layer that updates itself after each step, such as auxiliary-loss-free expert balancing."""

    def after_step(self, group: Group, *, taken: bool) -> None:
        """Called once after each optimizer step, on every rank; `taken` is False if the step was skipped."""


class Hook(Protocol):
    """A periodic action such as evaluating or sampling. Every rank calls it at the same steps."""

    @property
    def every(self) -> int:
        """Interval in steps; 0 means never. Unless 0, the hook is also called after the last step."""

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """Return values for metrics.jsonl. Must not modify the model; may draw random numbers, since
        the loop restores the generators.
        """
