"""Kahneman-Tversky optimization (KTO): unpaired answers labelled desirable or undesirable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from glassbox.core.distributed import Group
from glassbox.data.feedback import (
    EncodedFeedback,
    Feedback,
    FeedbackBatch,
    FeedbackSource,
    encode_feedback,
    read_feedback,
)
from glassbox.data.preferences import PreferenceReport
from glassbox.data.python_source import PythonSource
from glassbox.layers.context import Auxiliary
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import Number, ObjectiveOutput
from glassbox.tuning.log_probs import sequence_log_probs
from glassbox.tuning.preference.method import PreferenceLoss, Preferences, PreferenceSetup
from glassbox.tuning.reference import Reference

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM
    from glassbox.tokenizers import Tokenizer


class KtoConfig(PreferenceLoss):
    """Settings of KTO: beta, and the weights of desirable and undesirable answers."""

    kind: Literal["kto"] = "kto"
    beta: float = Field(
        0.1,
        gt=0,
        description="coefficient beta; larger values keep the model closer to the reference",
    )
    desirable_weight: float = Field(1.0, ge=0)
    undesirable_weight: float = Field(1.0, ge=0)

    def read(self, path: str | PythonSource) -> list[Feedback]:
        """Read single answers; pairs are split into two."""
        return read_feedback(path)

    def encode(
        self, rows: Sequence[Any], tokenizer: Tokenizer, *, max_length: int
    ) -> tuple[list[Any], PreferenceReport]:
        """Encode prompts and answers separately, since each prompt is also combined with another
        answer.
        """
        return encode_feedback(rows, tokenizer, max_length=max_length)

    def build(
        self,
        examples: Sequence[EncodedFeedback],
        heldout: Sequence[EncodedFeedback],
        setup: PreferenceSetup,
    ) -> Preferences:
        """Return the objective and sources; the reference is kept, since the mismatched answers
        differ in every epoch.
        """
        return Preferences(
            Kto(self, setup.reference()),
            FeedbackSource(examples, max_length=setup.max_length, **setup.options),
            FeedbackSource(heldout, max_length=setup.max_length, **setup.heldout_options)
            if len({tuple(one.prompt_ids) for one in heldout}) > 1  # one prompt has no other
            else None,
        )


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
    """The KTO objective: summed `kto_losses` of a batch; the weight is the number of answers.

    z is estimated from the mismatched answers, max(0, mean of log p - log p_reference), detached,
    as in the paper. `before_step` takes the mean over a whole step, all micro-batches
    and ranks, so that neither changes the loss; a batch evaluated by itself uses its own mean.
    `reference` is a separate model, frozen here, or a `Reference`. Metrics: rewards beta r of good
    and of bad answers, and `kl`. Tested against: trl; one rank, two, and micro-batches of one.
    """

    def __init__(self, config: KtoConfig, reference: CausalLM | Reference) -> None:
        self.config = config
        found = Reference.of(reference)
        assert found is not None
        self.reference = found
        self._step_kl: Float[Tensor, ""] | None = None

    @torch.no_grad()
    def before_step(self, model: CausalLM, batches: Sequence[FeedbackBatch], group: Group) -> None:
        """Estimate z from all mismatched answers of a step."""
        sums = [self._differences(model, batch) for batch in batches]
        total = torch.zeros(2, dtype=torch.float64, device=model.device)
        for values in sums:
            total += torch.stack([values.double().sum(), values.new_tensor(len(values)).double()])
        group.sum_(total)
        self._step_kl = (total[0] / total[1]).float().clamp(min=0)

    def __call__(self, model: CausalLM, batch: FeedbackBatch) -> ObjectiveOutput:
        """Loss of one batch."""
        with torch.no_grad():
            kl = self._step_kl
            if kl is None:
                kl = self._differences(model, batch).mean().clamp(min=0)
            with self.reference.reading() as frozen:
                reference = sequence_log_probs(frozen, batch.ids, batch.targets)
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

    def _differences(self, model: CausalLM, batch: FeedbackBatch) -> Float[Tensor, " B"]:
        """log p - log p_reference of the mismatched answers."""
        assert not self.reference.is_trained(model), "the reference must not be the trained model"
        ours = sequence_log_probs(model, batch.other_ids, batch.other_targets)
        with self.reference.reading() as frozen:
            return ours - sequence_log_probs(frozen, batch.other_ids, batch.other_targets)
