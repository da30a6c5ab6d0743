"""Reward models: a scalar head learns which answer is better, or which step of a solution is right."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.data.scored import JudgedSteps, ScoredPairs
from glassbox.layers.context import Auxiliary
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import ObjectiveOutput
from glassbox.tuning.log_probs import read_lengths
from glassbox.tuning.pair_scores import pair_metrics


class BradleyTerryConfig(Spec):
    """A score for a whole answer, from pairs."""

    kind: Literal["bradley_terry"] = "bradley_terry"
    centering: float = Field(
        0.0, ge=0, description="weight of (score + score)^2, which keeps scores around 0"
    )


class ProcessConfig(Spec):
    """A score for each step of a solution, from right and wrong steps."""

    kind: Literal["process"] = "process"


def bradley_terry_losses(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    *,
    margins: Float[Tensor, " B"] | float = 0.0,
    centering: float = 0.0,
) -> Float[Tensor, " B"]:
    """-log sigmoid(s_chosen - s_rejected - margin) + centering (s_chosen + s_rejected)^2 of each pair.

    Source: Bradley and Terry (1952); margin: Touvron et al., Llama 2, arXiv:2307.09288, eq. 2;
    centering: Eisenstein et al., arXiv:2312.09244, eq. 4. Tested against: trl, losses and gradients.
    """
    losses = -F.logsigmoid(chosen - rejected - margins)
    return losses + centering * (chosen + rejected) ** 2


class BradleyTerry:
    """The objective: summed `bradley_terry_losses`, the score read off at each row's last token.

    The weight is the number of pairs. The model needs a scalar head.
    """

    def __init__(self, config: BradleyTerryConfig) -> None:
        self.config = config

    def __call__(self, model: CausalLM, batch: ScoredPairs) -> ObjectiveOutput:
        """Loss of one batch; both halves go through one forward pass."""
        auxiliary = Auxiliary()
        hidden = model.hidden_states(batch.ids, lengths=batch.ends + 1, auxiliary=auxiliary)
        rows = torch.arange(len(batch.ids), device=hidden.device)
        scores = wide(model.scores(hidden[rows, batch.ends]))
        chosen, rejected = scores.chunk(2)
        losses = bradley_terry_losses(
            chosen,
            rejected,
            margins=batch.margins.to(scores),
            centering=self.config.centering,
        )
        metrics = pair_metrics(chosen, rejected)
        return with_auxiliary(ObjectiveOutput(losses.sum(), len(losses), metrics), auxiliary)


class StepJudge:
    """The objective: -log sigmoid(+s) of each right step, -log sigmoid(-s) of each wrong one, summed.

    The score s is read off at a step's last token; the weight is the number of steps. Metrics: the
    share of steps that s > 0 tells rightly, and how many are right at all.
    Source: Lightman et al., arXiv:2305.20050, section 2.4 and appendix F (which has classes of
    tokens in place of one score). Tested against: torch's binary cross-entropy, gradients too.
    """

    def __call__(self, model: CausalLM, batch: JudgedSteps) -> ObjectiveOutput:
        """Loss of one batch."""
        auxiliary = Auxiliary()
        lengths = read_lengths(batch.labels)
        hidden = model.hidden_states(batch.ids, lengths=lengths, auxiliary=auxiliary)
        judged = batch.labels != IGNORE
        scores, right = wide(model.scores(hidden[judged])), batch.labels[judged] == 1
        losses = -F.logsigmoid(torch.where(right, scores, -scores))
        told = (scores > 0) == right
        count = len(scores)
        metrics = {"step_accuracy": (told.sum(), count), "right_steps": (right.sum(), count)}
        return with_auxiliary(ObjectiveOutput(losses.sum(), count, metrics), auxiliary)


def wide(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scores in float32 or wider."""
    return scores if scores.dtype == torch.float64 else scores.float()
