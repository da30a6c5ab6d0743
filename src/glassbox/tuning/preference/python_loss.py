"""User-defined preference losses: `kind: python, path: my.py:loss`.

The function is called with two `Answers` and the options, and returns the loss of each pair, (B,):

    def loss(chosen, rejected, *, beta=0.1):
        margin = beta * (chosen.ratio - rejected.ratio)
        return -F.logsigmoid(margin)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec
from glassbox.data.preferences import EncodedPair, PreferenceBatch, PreferenceSource
from glassbox.layers.context import Auxiliary
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import ObjectiveOutput
from glassbox.tuning.log_probs import sequence_log_probs
from glassbox.tuning.preference.dpo import reference_log_probs
from glassbox.tuning.preference.method import PairLoss, Preferences, PreferenceSetup
from glassbox.tuning.preference.pair_scores import answer_lengths, pair_metrics

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM


@dataclass(frozen=True)
class Answers:
    """The chosen or the rejected answers of B pairs.

    log_probs: log p(answer), summed over its tokens, with gradients.
    lengths: number of tokens.
    reference: log p of the model at the start, without gradients; zeros with `reference: false`.
    """

    log_probs: Float[Tensor, " B"]
    lengths: Float[Tensor, " B"]
    reference: Float[Tensor, " B"]

    @property
    def ratio(self) -> Float[Tensor, " B"]:
        """log p(answer) - log p_reference(answer)."""
        return self.log_probs - self.reference

    @property
    def means(self) -> Float[Tensor, " B"]:
        """Mean log p per token."""
        return self.log_probs / self.lengths.clamp(min=1)


class PythonLoss(PythonSpec, PairLoss):
    """A user-defined loss on pairs."""

    reference: bool = Field(
        True, description="compute the log-probabilities of the model at the start, once"
    )

    def build(
        self,
        examples: Sequence[EncodedPair],
        heldout: Sequence[EncodedPair],
        setup: PreferenceSetup,
    ) -> Preferences:
        """Return the objective and sources; the reference's log-probabilities are computed once, if
        the loss uses them.
        """
        own = theirs = None
        if self.reference:
            known = reference_log_probs(
                setup.model, [*examples, *heldout], precision=setup.precision, group=setup.group
            )
            own, theirs = known[: len(examples)], known[len(examples) :]
        source = PreferenceSource(examples, reference=own, **setup.options)
        if not heldout:
            return Preferences(PythonObjective(self), source, None)
        held = PreferenceSource(heldout, reference=theirs, **setup.heldout_options)
        return Preferences(PythonObjective(self), source, held)


class PythonObjective:
    """The objective of a user-defined loss: the sum over a batch's pairs; the weight is the number
    of pairs.

    Metrics: the log-ratios of both answers, their margin, and the share of pairs with a positive
    one.
    Raises UserError if the function does not return a (B,) tensor. Tested against: `Dpo` with DPO's
    formula.
    """

    def __init__(self, spec: PythonLoss) -> None:
        self.spec = spec

    def __call__(self, model: CausalLM, batch: PreferenceBatch) -> ObjectiveOutput:
        """Compute the loss of one batch; chosen and rejected answers share one forward pass."""
        auxiliary = Auxiliary()
        scores = sequence_log_probs(model, batch.ids, batch.targets, auxiliary=auxiliary)
        lengths = answer_lengths(batch.targets).to(scores.dtype)
        reference = torch.zeros_like(scores) if batch.reference is None else batch.reference
        chosen, rejected = (
            Answers(*parts)
            for parts in zip(scores.chunk(2), lengths.chunk(2), reference.chunk(2), strict=True)
        )
        losses = self.spec.make("preference loss", chosen, rejected)
        if not isinstance(losses, Tensor) or losses.shape != chosen.log_probs.shape:
            found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise UserError(
                f"preference loss '{self.spec.path}' gave {found} for "
                f"{len(chosen.log_probs)} pairs; it must give one number a pair"
            )
        metrics = pair_metrics(chosen.ratio, rejected.ratio)
        return with_auxiliary(ObjectiveOutput(losses.sum(), len(losses), metrics), auxiliary)
