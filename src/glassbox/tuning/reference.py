"""Reference models of objectives: the model as it was at the start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from glassbox.adapters.base import adapters_of
from glassbox.inference.evaluating import evaluating
from glassbox.tuning.log_probs import freeze

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM


class Reference:
    """A separate frozen model; or, if `adapted`, the trained model with its adapter disabled.

    The latter needs no memory: if only an adapter is trained, its base is the model at the start.
    Tested against: a frozen copy of the base, scores and a whole run.
    """

    def __init__(self, model: CausalLM, *, adapted: bool = False) -> None:
        self.model = model if adapted else freeze(model)
        self.adapted = adapted

    @classmethod
    def of(cls, reference: CausalLM | Reference | None) -> Reference | None:
        """Wrap a model as a reference; a reference or None is returned unchanged."""
        return reference if reference is None or isinstance(reference, cls) else cls(reference)  # type: ignore[arg-type]

    def is_trained(self, model: CausalLM) -> bool:
        """Whether this is a model that is being trained, which is an error."""
        return self.model is model and not self.adapted

    @contextlib.contextmanager
    def reading(self) -> Iterator[CausalLM]:
        """Context in which the reference model is in eval mode and without the adapter; to be used
        under torch.no_grad().
        """
        if not self.adapted:
            yield self.model
            return
        adapters = adapters_of(self.model)
        off = contextlib.nullcontext() if adapters is None else adapters.using(None)
        with evaluating(self.model), off:
            yield self.model
