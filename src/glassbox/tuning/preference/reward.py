"""Reward models: a scalar head trained to score answers, or the steps of a solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from glassbox.data.preferences import EncodedPair, PreferenceReport
from glassbox.data.python_source import PythonSource
from glassbox.data.scored import (
    EncodedSolution,
    JudgedSteps,
    ScoredPairs,
    ScoredPairSource,
    Solution,
    SolutionSource,
    encode_solutions,
    read_solutions,
)
from glassbox.inference.shared_prompts import can_share, hidden_of_ends, plan
from glassbox.layers.context import Auxiliary
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import ObjectiveOutput
from glassbox.tuning.log_probs import read_lengths
from glassbox.tuning.preference.method import (
    PairLoss,
    PreferenceLoss,
    Preferences,
    PreferenceSetup,
)
from glassbox.tuning.preference.pair_scores import pair_metrics

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM
    from glassbox.tokenizers import Tokenizer


class BradleyTerryConfig(PairLoss):
    """An outcome reward model: a score for a whole answer, trained on pairs."""

    kind: Literal["bradley_terry"] = "bradley_terry"
    centering: float = Field(
        0.0, ge=0, description="coefficient of (score + score)^2, which keeps scores around 0"
    )
    every_token: bool = Field(
        False,
        description="compare the answers at every token from the first difference, not only at the "
        "last token; small models learn faster this way",
    )

    def build(
        self,
        examples: Sequence[EncodedPair],
        heldout: Sequence[EncodedPair],
        setup: PreferenceSetup,
    ) -> Preferences:
        """Return the objective and sources for whole answers."""
        return Preferences(
            BradleyTerry(self),
            ScoredPairSource(examples, **setup.options),
            ScoredPairSource(heldout, **setup.heldout_options) if heldout else None,
        )


class ProcessConfig(PreferenceLoss):
    """A process reward model: a score for each step of a solution, trained on labelled steps."""

    kind: Literal["process"] = "process"

    def read(self, path: str | PythonSource) -> list[Solution]:
        """Read solutions with labelled steps."""
        return read_solutions(path)

    def encode(
        self, rows: Sequence[Any], tokenizer: Tokenizer, *, max_length: int
    ) -> tuple[list[Any], PreferenceReport]:
        """Encode solutions, with a label at each step's last id."""
        return encode_solutions(rows, tokenizer, max_length=max_length)

    def build(
        self,
        examples: Sequence[EncodedSolution],
        heldout: Sequence[EncodedSolution],
        setup: PreferenceSetup,
    ) -> Preferences:
        """Return the objective and sources for labelled steps."""
        return Preferences(
            StepJudge(),
            SolutionSource(examples, **setup.options),
            SolutionSource(heldout, **setup.heldout_options) if heldout else None,
        )


def bradley_terry_losses(
    chosen: Float[Tensor, "*pairs"],
    rejected: Float[Tensor, "*pairs"],
    *,
    margins: Float[Tensor, "*margins"] | float = 0.0,
    centering: float = 0.0,
) -> Float[Tensor, "*pairs"]:
    """-log sigmoid(s_chosen - s_rejected - margin) + centering (s_chosen + s_rejected)^2 of each pair.

    Source: Bradley and Terry (1952); margin: Touvron et al., Llama 2, arXiv:2307.09288, eq. 2;
    centering: Eisenstein et al., arXiv:2312.09244, eq. 4. Tested against: trl, losses and gradients.
    """
    losses = -F.logsigmoid(chosen - rejected - margins)
    return losses + centering * (chosen + rejected) ** 2


class BradleyTerry:
    """The objective: summed `bradley_terry_losses`, with the score at each row's last token.

    With `every_token` a pair's loss is the mean over all tokens from the first that differs, where
    an answer that has ended keeps its last score. The weight is the number of pairs, and metrics
    use the last scores. The model needs a scalar head.
    Source of `every_token`: Yao et al., DeepSpeed-Chat, arXiv:2308.01320, its reward model's loss.
    Tested against: trl, losses and gradients; every token against a loop over them.
    """

    def __init__(self, config: BradleyTerryConfig) -> None:
        self.config = config

    def __call__(self, model: CausalLM, batch: ScoredPairs) -> ObjectiveOutput:
        """Loss of one batch; both halves go through one forward pass, a long prompt once for both."""
        auxiliary = Auxiliary()
        starts, ends = common_beginnings(batch), batch.ends
        found = plan(batch.ids, starts, ends + 1) if can_share(model) else None
        if found is None:
            hidden = model.hidden_states(batch.ids, lengths=ends + 1, auxiliary=auxiliary)
        else:
            hidden, starts, ends = (
                hidden_of_ends(model, batch.ids, found),
                starts * 0,
                ends - starts,
            )
        rows = torch.arange(len(batch.ids), device=hidden.device)
        if not self.config.every_token:
            starts = ends
        counts = torch.stack((ends - starts + 1).chunk(2)).amax(dim=0)  # (B,), of each pair
        steps = torch.arange(int(counts.max()), device=hidden.device)
        places = torch.minimum(starts.unsqueeze(1) + steps, ends.unsqueeze(1))
        scores = wide(model.scores(hidden[rows.unsqueeze(1), places]))  # (2B, S)
        chosen, rejected = scores.chunk(2)
        each = bradley_terry_losses(
            chosen,
            rejected,
            margins=batch.margins.to(scores).unsqueeze(1),
            centering=self.config.centering,
        )
        losses = (each * (steps < counts.unsqueeze(1))).sum(dim=1) / counts
        metrics = pair_metrics(chosen[:, -1], rejected[:, -1])
        return with_auxiliary(ObjectiveOutput(losses.sum(), len(losses), metrics), auxiliary)


def common_beginnings(batch: ScoredPairs) -> Int[Tensor, " R"]:
    """Length of the common prefix of each row and the other row of its pair, excluding the last id
    of either.
    """
    chosen, rejected = batch.ids.chunk(2)
    same = (chosen == rejected).to(torch.int64).cumprod(dim=-1).sum(dim=-1)
    shortest = torch.stack(batch.ends.chunk(2)).amin(dim=0)
    return torch.minimum(same, shortest).repeat(2)


class StepJudge:
    """The objective: -log sigmoid(+s) of each right step, -log sigmoid(-s) of each wrong one,
    summed.

    The score s is that at a step's last token; the weight is the number of steps. Metrics: the
    accuracy of s > 0, and the share of right steps.
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
