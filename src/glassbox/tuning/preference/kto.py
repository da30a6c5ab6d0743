"""Kahneman-Tversky optimization: single answers, liked or not, against what the model says anyway."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.data.feedback import FeedbackBatch
from glassbox.layers.context import Auxiliary
from glassbox.models.causal_lm import CausalLM
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import Number, ObjectiveOutput
from glassbox.tuning.log_probs import freeze, sequence_log_probs


class KtoConfig(Spec):
    """How far from the reference KTO may lead, and how much good and bad answers weigh."""

    kind: Literal["kto"] = "kto"
    beta: float = Field(0.1, gt=0, description="higher keeps the model nearer to the reference")
    desirable_weight: float = Field(1.0, ge=0)
    undesirable_weight: float = Field(1.0, ge=0)


def kto_losses(
    ratio: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    kl: Float[Tensor, ""],
    config: KtoConfig,
) -> Float[Tensor, " B"]:
    """w (1 - sigmoid(s beta (r - z))) of each answer, r = log p(answer) - log p_reference(answer).

    s and w are +1 and desirable_weight for a good answer, -1 and undesirable_weight for a bad one;
    z is the KL to the reference. Source: Ethayarajh et al., arXiv:2402.01306, eq. 7 and 8.
    Tested against: trl, losses and gradients.
    """
    good, bad = ratio.new_tensor([config.desirable_weight, config.undesirable_weight])
    sign, weight = 2 * desirable.to(ratio) - 1, torch.where(desirable, good, bad)
    return weight * (1 - torch.sigmoid(sign * config.beta * (ratio - kl)))


class Kto:
    """The objective: summed `kto_losses` of a batch; the weight is how many answers it has.

    z is estimated from the batch's mismatched answers, max(0, mean of log p - log p_reference), and
    takes no gradient, as the paper has it; small batches make it noisy. `reference` is a model of
    its own, frozen here. Metrics: rewards beta r of good and of bad answers, and `kl`.
    """

    def __init__(self, config: KtoConfig, reference: CausalLM) -> None:
        self.config = config
        self.reference = freeze(reference)

    def __call__(self, model: CausalLM, batch: FeedbackBatch) -> ObjectiveOutput:
        """Loss of one batch."""
        assert self.reference is not model, "the reference must not be the model that is trained"
        with torch.no_grad():
            reference = sequence_log_probs(self.reference, batch.ids, batch.targets)
            kl = self._kl(model, batch)
        auxiliary = Auxiliary()
        scores = sequence_log_probs(model, batch.ids, batch.targets, auxiliary=auxiliary)
        ratio = scores - reference
        losses = kto_losses(ratio, batch.desirable, kl, self.config)
        rewards, good = self.config.beta * ratio.detach(), batch.desirable
        metrics: dict[str, tuple[Number, Number]] = {
            "reward_chosen": ((rewards * good).sum(), good.sum()),
            "reward_rejected": ((rewards * ~good).sum(), (~good).sum()),
            "kl": (kl * len(losses), len(losses)),
        }
        return with_auxiliary(ObjectiveOutput(losses.sum(), len(losses), metrics), auxiliary)

    def _kl(self, model: CausalLM, batch: FeedbackBatch) -> Float[Tensor, ""]:
        ours = sequence_log_probs(model, batch.other_ids, batch.other_targets)
        theirs = sequence_log_probs(self.reference, batch.other_ids, batch.other_targets)
        return (ours - theirs).mean().clamp(min=0)
