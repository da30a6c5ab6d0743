"""What the loop asks of an objective, a batch source and a hook. New methods are new ones of these."""

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
    """What one forward pass takes."""

    @property
    def num_tokens(self) -> int:
        """How many tokens the model reads in it, for tokens per second."""

    def to(self: BatchT, device: torch.device) -> BatchT:
        """The same batch on another device."""


@dataclass
class ObjectiveOutput:
    """What an objective makes of a batch.

    loss_sum: differentiable sum over the valid units (tokens, pairs, completions), in nats.
    weight: how many units that is. The loop divides by the sum of weights over all micro-batches
        and all ranks, so the gradient does not depend on how the units were shared out.
    metrics: name -> (sum, weight); reported as sum / weight over the whole step. Every rank gives
        the same names.

    Numbers may be left on the device as scalar tensors: the loop fetches them once a step, so that
    no micro-batch waits for the one before it.
    """

    loss_sum: Tensor
    weight: Number
    metrics: Mapping[str, tuple[Number, Number]] = field(default_factory=dict)


class Objective(Protocol[BatchT_contra]):
    """A batch in, a summed loss, its weight, and metrics out."""

    def __call__(self, model: CausalLM, batch: BatchT_contra) -> ObjectiveOutput:
        """Compute the loss. Reference and teacher models belong to the objective, frozen."""


@runtime_checkable
class TrainsAlong(Protocol):
    """An objective with modules that are trained beside the model: a value model, a projection.

    The loop saves them in each checkpoint and puts them back; they are given to the optimizer, and
    brought to the model's device, by whoever builds the run.
    """

    @property
    def companions(self) -> Mapping[str, nn.Module]:
        """The modules by name; always the same ones."""


@runtime_checkable
class BeforeStep(Protocol):
    """An objective that must see a whole step's batches before it is asked about any of them."""

    def before_step(self, model: CausalLM, batches: Sequence[Any], group: Group) -> None:
        """Once before the forward passes of each optimizer step, on every rank."""


class BatchSource(Protocol[BatchT_co]):
    """Where batches come from: a file of shards, or a rollout that generates, scores and yields."""

    def next_step(self) -> Sequence[BatchT_co]:
        """This rank's micro-batches of one optimizer step, at least one."""

    def state_dict(self) -> dict[str, Any]:
        """Its position, as JSON. Every rank calls it; rank 0's is saved and serves all ranks."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; the batches that follow are the ones that would have followed."""


@runtime_checkable
class AfterStep(Protocol):
    """A layer that adjusts itself by what it saw in a step, as experts balance their load."""

    def after_step(self, group: Group, *, taken: bool) -> None:
        """Once after each optimizer step, on every rank; not `taken`: the step was skipped."""


class Hook(Protocol):
    """Something to do now and then: evaluate, sample. Every rank calls it at the same steps."""

    @property
    def every(self) -> int:
        """Call it after each step that is a multiple of this; 0 never. The last step always counts."""

    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        """Values for metrics.jsonl. It leaves the model as it was; it may draw random numbers, since
        the loop puts the generators back.
        """
