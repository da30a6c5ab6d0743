"""Direct preference optimization (DPO) and its variants.

Derivation: docs/theory/dpo.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.core.devices import Precision, autocast
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.preferences import (
    EncodedPair,
    PreferenceBatch,
    PreferenceSource,
    preference_batch,
)
from glassbox.layers.context import Auxiliary
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import ObjectiveOutput
from glassbox.tuning.log_probs import sequence_log_probs
from glassbox.tuning.preference.method import PairLoss, Preferences, PreferenceSetup
from glassbox.tuning.preference.pair_scores import answer_lengths, pair_metrics
from glassbox.tuning.reference import Reference

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM


class DpoConfig(PairLoss):
    """Settings of DPO: the loss of the pairs' margins, and its coefficients."""

    kind: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "sigmoid_norm", "robust", "ipo", "hinge"] = "sigmoid"
    beta: float = Field(
        0.1,
        gt=0,
        description="coefficient beta; larger values keep the model closer to the reference",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="label smoothing: assumed share of wrongly labelled pairs"
    )

    @model_validator(mode="after")
    def _smoothing_is_for_sigmoid(self) -> DpoConfig:
        if self.label_smoothing and self.loss in ("ipo", "hinge"):
            raise ValueError(
                f"label_smoothing = {self.label_smoothing} has no meaning for loss = '{self.loss}'; "
                "use loss: sigmoid, sigmoid_norm or robust, or leave it out"
            )
        return self

    def build(
        self,
        examples: Sequence[EncodedPair],
        heldout: Sequence[EncodedPair],
        setup: PreferenceSetup,
    ) -> Preferences:
        """Return the objective and sources; the reference's log-probabilities are computed once,
        before training.
        """
        known = reference_log_probs(
            setup.model, [*examples, *heldout], precision=setup.precision, group=setup.group
        )
        own, theirs = known[: len(examples)], known[len(examples) :]
        return Preferences(
            Dpo(self),
            PreferenceSource(examples, reference=own, **setup.options),
            PreferenceSource(heldout, reference=theirs, **setup.heldout_options)
            if heldout
            else None,
        )


def preference_losses(
    chosen_ratio: Float[Tensor, " B"],
    rejected_ratio: Float[Tensor, " B"],
    config: DpoConfig,
    *,
    chosen_lengths: Float[Tensor, " B"],
    rejected_lengths: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """The loss of each pair, from the log-ratios r = log p(answer) - log p_reference(answer).

    With the margin m = beta (r_chosen - r_rejected), label smoothing e and lengths n in tokens:
    - sigmoid: -(1 - e) log sigmoid(m) - e log sigmoid(-m).
      Source: Rafailov et al., arXiv:2305.18290, eq. 7; e: Mitchell, "A note on DPO with noisy
      preferences" (2023), eq. 5.
    - sigmoid_norm: the same of m = beta (r_chosen / n_chosen - r_rejected / n_rejected), a
      length-normalized margin. Source: Lambert et al., Tulu 3,
      arXiv:2411.15124, eq. 6.
    - robust: (-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2 e), which is unbiased under
      label noise of rate e. Source: Chowdhury et al., arXiv:2403.00409, eq. 12.
    - hinge: max(0, 1 - m). Source: Zhao et al., SLiC-HF, arXiv:2305.10425, on DPO's margin.
    - ipo: (r_chosen / n_chosen - r_rejected / n_rejected - 1 / (2 beta))^2. Source: Azar et al.,
      arXiv:2310.12036, eq. 17; with means over tokens, as in the authors' reported results.
    Tested against: trl, losses and gradients.
    """
    if config.loss in ("ipo", "sigmoid_norm"):
        gap = chosen_ratio / chosen_lengths - rejected_ratio / rejected_lengths
    else:
        gap = chosen_ratio - rejected_ratio
    if config.loss == "ipo":
        return (gap - 1 / (2 * config.beta)) ** 2
    margin, smoothing = config.beta * gap, config.label_smoothing
    if config.loss == "hinge":
        return torch.relu(1 - margin)
    right, wrong = F.logsigmoid(margin), F.logsigmoid(-margin)
    if config.loss == "robust":
        return (smoothing * wrong - (1 - smoothing) * right) / (1 - 2 * smoothing)
    return -(1 - smoothing) * right - smoothing * wrong


class Dpo:
    """The DPO objective: summed `preference_losses` of a batch's pairs; the weight is the number of
    pairs.

    reference: a separate model, frozen here; without one, batches must include the reference's
        log-probabilities (`reference_log_probs` computes them once for all pairs).
    Metrics: the implicit rewards beta * r of both answers, their margin, and the share of pairs
        with a positive one.
    """

    def __init__(self, config: DpoConfig, reference: CausalLM | Reference | None = None) -> None:
        self.config = config
        self.reference = Reference.of(reference)

    def __call__(self, model: CausalLM, batch: PreferenceBatch) -> ObjectiveOutput:
        """Compute the loss of one batch; chosen and rejected answers share one forward pass."""
        auxiliary = Auxiliary()
        scores = sequence_log_probs(model, batch.ids, batch.targets, auxiliary=auxiliary)
        ratios = scores - self._reference_scores(model, batch)
        lengths = answer_lengths(batch.targets).to(ratios.dtype).clamp(min=1)
        chosen, rejected = ratios.chunk(2)
        chosen_lengths, rejected_lengths = lengths.chunk(2)
        losses = preference_losses(
            chosen,
            rejected,
            self.config,
            chosen_lengths=chosen_lengths,
            rejected_lengths=rejected_lengths,
        )
        beta = self.config.beta
        metrics = pair_metrics(beta * chosen, beta * rejected)
        return with_auxiliary(ObjectiveOutput(losses.sum(), len(losses), metrics), auxiliary)

    def _reference_scores(self, model: CausalLM, batch: PreferenceBatch) -> Float[Tensor, " R"]:
        if batch.reference is not None:
            return batch.reference
        if self.reference is None:
            raise UserError(
                "DPO has no reference: give Dpo a reference model, or the source the result of "
                "reference_log_probs"
            )
        assert not self.reference.is_trained(model), "the reference must not be the trained model"
        with torch.no_grad(), self.reference.reading() as frozen:
            return sequence_log_probs(frozen, batch.ids, batch.targets)


@torch.no_grad()
def reference_log_probs(
    reference: CausalLM,
    pairs: Sequence[EncodedPair],
    *,
    pairs_per_batch: int = 32,
    precision: Precision = "float32",
    group: Group | None = None,
) -> Float[Tensor, "P 2"]:
    """log p_reference(chosen) and log p_reference(rejected) of every pair, on the CPU.

    Computed in one pass before training instead of in every epoch, after which the reference can be
    freed. Pairs of similar length share a batch; the ranks of `group` divide the batches, and all
    receive all results. Equal to those computed by `Dpo` with its own reference up to rounding
    (1e-5 nats).
    """
    group = group or Group()
    training = reference.training
    reference.eval()
    scores = torch.zeros(len(pairs), 2)
    order = sorted(range(len(pairs)), key=lambda number: (pairs[number].length, number))
    stride = group.world_size * pairs_per_batch
    for first in range(group.rank * pairs_per_batch, len(order), stride):
        part = order[first : first + pairs_per_batch]
        batch = preference_batch([pairs[number] for number in part]).to(reference.device)
        with autocast(reference.device, precision):
            sums = sequence_log_probs(reference, batch.ids, batch.targets)
        scores[part] = torch.stack(sums.chunk(2), dim=1).to(scores)
    reference.train(training)
    return group.sum_(scores)
