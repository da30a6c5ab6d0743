"""Preference objectives without a reference model: ORPO, SimPO and CPO."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.data.preferences import EncodedPair, PreferenceBatch, PreferenceSource
from glassbox.layers.context import Auxiliary
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import ObjectiveOutput
from glassbox.tuning.log_probs import answer_log_probs
from glassbox.tuning.preference.method import PairLoss, Preferences, PreferenceSetup
from glassbox.tuning.preference.pair_scores import AnswerScores, answer_lengths, pair_metrics

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM


class ReferenceFreeLoss(PairLoss):
    """Base class of specs of losses without a reference."""

    beta: float
    nll_weight: float
    prompt_loss: bool

    def build(
        self,
        examples: Sequence[EncodedPair],
        heldout: Sequence[EncodedPair],
        setup: PreferenceSetup,
    ) -> Preferences:
        """Return the objective and sources."""
        return Preferences(
            ReferenceFree(self),
            PreferenceSource(examples, **setup.options),
            PreferenceSource(heldout, **setup.heldout_options) if heldout else None,
        )

    @abstractmethod
    def losses(self, chosen: AnswerScores, rejected: AnswerScores) -> Float[Tensor, " B"]:
        """The loss of each pair."""

    @property
    def by_token(self) -> bool:
        """Whether the margin is of mean log-probabilities per token, rather than of sums."""
        return True


class OrpoConfig(ReferenceFreeLoss):
    """Odds ratio preference optimization: SFT on the chosen answer plus an odds-ratio term."""

    kind: Literal["orpo"] = "orpo"
    beta: float = Field(
        0.1, gt=0, description="coefficient of the odds-ratio term (the paper's lambda)"
    )
    nll_weight: float = Field(
        1.0, ge=0, description="coefficient of the next-token loss on the chosen answer"
    )
    prompt_loss: bool = Field(
        False, description="include the prompt in that loss, as in the authors' code"
    )

    def losses(self, chosen: AnswerScores, rejected: AnswerScores) -> Float[Tensor, " B"]:
        """`odds_ratio_losses`."""
        return odds_ratio_losses(chosen, rejected, self)


class SimpoConfig(ReferenceFreeLoss):
    """Simple preference optimization: length-normalized log-probabilities with a target margin."""

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0)
    gamma: float = Field(
        1.0, ge=0, description="target margin of beta times the mean log p per token"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    nll_weight: float = Field(
        0.0, ge=0, description="coefficient of the next-token loss on the chosen answer"
    )
    prompt_loss: Literal[False] = False

    def losses(self, chosen: AnswerScores, rejected: AnswerScores) -> Float[Tensor, " B"]:
        """`simpo_losses`."""
        return simpo_losses(chosen, rejected, self)


class CpoConfig(ReferenceFreeLoss):
    """Contrastive preference optimization: DPO with a uniform reference, plus SFT."""

    kind: Literal["cpo"] = "cpo"
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    beta: float = Field(0.1, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    nll_weight: float = Field(
        1.0, ge=0, description="coefficient of the next-token loss on the chosen answer"
    )
    prompt_loss: Literal[False] = False

    @model_validator(mode="after")
    def _smoothing_is_for_sigmoid(self) -> CpoConfig:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(
                f"label_smoothing = {self.label_smoothing} has no meaning for loss = '{self.loss}'; "
                "use loss: sigmoid or leave it out"
            )
        return self

    @property
    def by_token(self) -> bool:
        """Whether the loss is ipo."""
        return self.loss == "ipo"

    def losses(self, chosen: AnswerScores, rejected: AnswerScores) -> Float[Tensor, " B"]:
        """`cpo_losses`."""
        return cpo_losses(chosen, rejected, self)


def odds_ratio_losses(
    chosen: AnswerScores, rejected: AnswerScores, config: OrpoConfig
) -> Float[Tensor, " B"]:
    """-beta log sigmoid(log odds(chosen) - log odds(rejected)), odds(y) = p(y) / (1 - p(y)).

    p(y) is the geometric mean of the answer's token probabilities. An empty answer, whose odds are
    infinite, adds nothing. Source: Hong et al., arXiv:2403.07691, eq. 3, 6 and 7.
    Tested against: trl, losses and gradients.
    """
    real = (chosen.lengths > 0) & (rejected.lengths > 0)
    # where there is none, any number below 0: torch.where would still hand back NaN gradients
    good, bad = (torch.where(real, side.means, -1.0) for side in (chosen, rejected))
    log_odds_ratio = (good - log_1_minus_exp(good)) - (bad - log_1_minus_exp(bad))
    return -config.beta * F.logsigmoid(log_odds_ratio) * real


def log_1_minus_exp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 - e^x) for x < 0, accurate at both ends, with finite gradients.

    >>> round(float(log_1_minus_exp(torch.tensor(-1e-6))), 3)
    -13.816
    """
    near = x > -0.6931
    far_x, near_x = torch.where(near, -1.0, x), torch.where(near, x, -0.5)
    return torch.where(near, torch.log(-torch.expm1(near_x)), torch.log1p(-torch.exp(far_x)))


def simpo_losses(
    chosen: AnswerScores, rejected: AnswerScores, config: SimpoConfig
) -> Float[Tensor, " B"]:
    """-log sigmoid(m) with m = beta (mean log p(chosen) - mean log p(rejected)) - gamma, smoothed by e.

    Source: Meng et al., arXiv:2405.14734, eq. 6. Tested against: trl, losses and gradients.
    """
    margin = config.beta * (chosen.means - rejected.means) - config.gamma
    return _smoothed(margin, config.label_smoothing)


def cpo_losses(
    chosen: AnswerScores, rejected: AnswerScores, config: CpoConfig
) -> Float[Tensor, " B"]:
    """With m = beta (log p(chosen) - log p(rejected)), sums over tokens:

    - sigmoid: -log sigmoid(m), smoothed by e, - hinge: max(0, 1 - m),
    - ipo: (mean log p(chosen) - mean log p(rejected) - 1 / (2 beta))^2.
    Source: Xu et al., arXiv:2401.08417, eq. 3. Tested against: trl, losses and gradients.
    """
    if config.loss == "ipo":
        return (chosen.means - rejected.means - 1 / (2 * config.beta)) ** 2
    margin = config.beta * (chosen.sums - rejected.sums)
    return (
        torch.relu(1 - margin)
        if config.loss == "hinge"
        else _smoothed(margin, config.label_smoothing)
    )


def _smoothed(margin: Float[Tensor, " B"], smoothing: float) -> Float[Tensor, " B"]:
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


class ReferenceFree:
    """The objective: each pair's loss plus `nll_weight` times the mean -log p per token of its
    chosen answer.

    The weight is the number of pairs, so that all pairs count equally however they are batched (trl
    averages the second term over a batch's tokens instead). Metrics: the rewards beta log p, per
    token or per answer as in the loss, and `nll`, the second term.
    """

    def __init__(self, config: ReferenceFreeLoss) -> None:
        self.config = config

    def __call__(self, model: CausalLM, batch: PreferenceBatch) -> ObjectiveOutput:
        """Compute the loss of one batch; chosen and rejected answers share one forward pass."""
        config, targets = self.config, batch.targets
        if config.prompt_loss:
            pairs = len(targets) // 2
            whole = with_prompts(batch.ids[:pairs], targets[:pairs])
            targets = torch.cat((whole, targets[pairs:]))
        auxiliary = Auxiliary()
        tokens = answer_log_probs(model, batch.ids, targets, auxiliary=auxiliary)
        lengths = answer_lengths(batch.targets).to(tokens.dtype)
        sums = (tokens * (batch.targets != IGNORE)).sum(dim=-1)
        chosen, rejected = (
            AnswerScores(*side) for side in zip(sums.chunk(2), lengths.chunk(2), strict=True)
        )
        losses = config.losses(chosen, rejected)
        read = AnswerScores(tokens.sum(dim=-1), answer_lengths(targets).to(tokens.dtype))
        nll = -read.means.chunk(2)[0]
        good, bad = (s.means if config.by_token else s.sums for s in (chosen, rejected))
        metrics = pair_metrics(config.beta * good, config.beta * bad)
        metrics["nll"] = (nll.detach().sum(), len(nll))
        total = (losses + config.nll_weight * nll).sum()
        return with_auxiliary(ObjectiveOutput(total, len(losses), metrics), auxiliary)


def with_prompts(ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Targets of whole rows, including the prompt's tokens except the first, from `targets` of the
    answers.

    >>> with_prompts(torch.tensor([[5, 6, 7, 0]]), torch.tensor([[-100, -100, 8, -100]])).tolist()
    [[6, 7, 8, -100]]
    """
    scored = targets != IGNORE
    after = scored.flip(-1).cumsum(dim=-1).flip(-1) > 0  # up to the last that is scored
    following = torch.cat((ids[:, 1:], torch.full_like(ids[:, :1], IGNORE)), dim=1)
    return torch.where(scored, targets, torch.where(after, following, IGNORE))
