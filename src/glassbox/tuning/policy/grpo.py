"""Group relative policy optimization (GRPO): the advantage of an answer is relative to the other
answers to its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.layers.context import Auxiliary
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import Number, ObjectiveOutput
from glassbox.tuning.log_probs import answer_log_probs
from glassbox.tuning.policy.answers import Metrics, Rollout, RolloutBatch
from glassbox.tuning.policy.rollouts import AnswerSource, PolicyMethod, PolicySetup, Sampled
from glassbox.tuning.reference import Reference

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM


class GrpoConfig(PolicyMethod):
    """Settings of GRPO: sampling of answers, advantages and loss."""

    kind: Literal["grpo"] = "grpo"
    group_size: int = Field(8, ge=2, description="answers sampled per prompt")
    clip_low: float = Field(0.2, gt=0, lt=1, description="ratios below 1 - clip_low are clipped")
    clip_high: float = Field(0.2, gt=0, description="ratios above 1 + clip_high are clipped")
    kl_beta: float = Field(
        0.0, ge=0, description="coefficient of the KL to the reference; 0: no reference needed"
    )
    normalization: Literal["grpo", "dapo", "dr_grpo"] = Field(
        "dapo",
        description="grpo: mean over each answer's tokens, then over answers; dapo: mean over all "
        "tokens; dr_grpo: sum over tokens / (answers * max_tokens)",
    )
    ratio: Literal["token", "sequence"] = Field(
        "token",
        description="importance ratios per token, or per answer (GSPO): the sequence ratio to the "
        "power 1 / length",
    )
    scale_rewards: bool = Field(
        True, description="divide advantages by the group's standard deviation"
    )
    dynamic_sampling: int = Field(
        0,
        ge=0,
        description="how often a group with equal rewards is replaced by that of another prompt; 0: "
        "never",
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> GrpoConfig:
        if self.overlong_buffer >= self.max_tokens:
            raise ValueError(
                f"overlong_buffer = {self.overlong_buffer} leaves nothing of max_tokens = "
                f"{self.max_tokens}; make it smaller"
            )
        if self.ratio == "sequence" and self.normalization != "grpo":
            raise ValueError(
                f"ratio = 'sequence' with normalization = '{self.normalization}' would count long "
                "answers more, which the sequence's own ratio is there to avoid; use normalization: grpo"
            )
        return self

    def build(self, setup: PolicySetup) -> tuple[Grpo, RolloutSource]:
        """Return the objective and the source; with kl_beta > 0 the objective has a reference
        model.
        """
        reference = setup.reference() if self.kl_beta > 0 else None
        source = RolloutSource(setup.engine, setup.problems, setup.rubric, self, **setup.options)
        return Grpo(self, reference), source


def group_advantages(
    reward: Float[Tensor, "B G"], *, scale: bool = True, eps: float = 1e-4
) -> Float[Tensor, "B G"]:
    """Normalize each prompt's G rewards: A = (r - mean r) / (std r + eps), std with G - 1.

    With scale=False rewards are only centred, as in Dr. GRPO (arXiv:2503.20783). A group with equal
    rewards gets exactly zero, hence no gradient. Raises ValueError for G < 2.
    Source: DeepSeekMath (arXiv:2402.03300), section 4.1.2. Tested against: trl.

    >>> group_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), scale=False).tolist()
    [[0.5, -0.5], [0.0, 0.0]]
    """
    if reward.shape[-1] < 2:
        raise ValueError(f"a group of {reward.shape[-1]} has no mean to stand out from; use G >= 2")
    centred = reward - reward.mean(dim=-1, keepdim=True)
    if scale:
        centred = centred / (reward.std(dim=-1, keepdim=True) + eps)
    equal = reward.amax(dim=-1, keepdim=True) == reward.amin(dim=-1, keepdim=True)
    return torch.where(equal, torch.zeros_like(centred), centred)


def policy_losses(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    advantages: Float[Tensor, B * T],
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The clipped surrogate loss of every token, and whether it is clipped.

    -min(w A, clip(w, 1 - clip_low, 1 + clip_high) A) with w = exp(log p - log p_old). A is one
    advantage per answer or per token.
    Source: Schulman et al., arXiv:1707.06347, eq. 7; separate clip_high: DAPO, arXiv:2503.14476,
    eq. 10.
    Tested against: trl, and the formula token by token in float64.
    """
    ratio = (log_probs - old_log_probs).exp()
    advantage = advantages.unsqueeze(-1) if advantages.dim() == 1 else advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    losses = -torch.minimum(ratio * advantage, clipped * advantage)
    low = (ratio < 1 - clip_low) & (advantage < 0)
    high = (ratio > 1 + clip_high) & (advantage > 0)
    return losses, low | high


def sequence_ratios(
    log_probs: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """GSPO's sequence ratio log s at each token of an answer: the mean over its tokens of log p -
    log p_old.

    s = (p(answer) / p_old(answer))^(1 / length). All tokens of an answer have the same value, and
    their gradients sum to that of the sequence ratio.
    Source: GSPO, arXiv:2507.18071, eq. 7. Tested against: trl with
    importance_sampling_level="sequence".
    """
    difference = torch.where(mask, log_probs - old_log_probs, torch.zeros_like(log_probs))
    mean = difference.sum(dim=-1, keepdim=True) / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return mean.expand_as(log_probs)


def kl_to_reference(
    log_probs: Float[Tensor, "B T"], reference: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Estimate of KL(policy || reference) from sampled tokens: exp(d) - d - 1, d = log q - log p.

    Non-negative, and unbiased if the token was sampled from the policy p; q is the reference.
    Source: Schulman 2020, "Approximating KL divergence" (k3); DeepSeekMath, eq. 4.
    """
    difference = reference - log_probs
    return difference.exp() - difference - 1


class Grpo:
    """The GRPO objective: summed, scaled `policy_losses` (+ kl_beta * KL) over the answers' tokens.

    The weights of a step's batches add up to the divisor of the configured normalization, so that
    the loop's sum over weight is the method's mean for any number of micro-batches and ranks.
    Dr. GRPO is normalization "dr_grpo" with scale_rewards false; DAPO is "dapo" with a larger
    clip_high, dynamic_sampling and overlong_buffer; GSPO is ratio "sequence".
    Raises UserError if kl_beta > 0 and there is no reference model.
    Tested against: trl's GRPOTrainer, loss and gradients, for each normalization and ratio.
    """

    def __init__(self, config: GrpoConfig, reference: CausalLM | Reference | None = None) -> None:
        if config.kl_beta > 0 and reference is None:
            raise UserError(
                f"kl_beta = {config.kl_beta} needs a reference model; give one or set kl_beta: 0"
            )
        self.config = config
        self.reference = Reference.of(reference) if config.kl_beta > 0 else None

    def __call__(self, model: CausalLM, batch: RolloutBatch) -> ObjectiveOutput:
        """Compute the loss of one micro-batch."""
        config = self.config
        mask = batch.targets != IGNORE
        auxiliary = Auxiliary()
        log_probs = answer_log_probs(
            model,
            batch.ids,
            batch.targets,
            temperature=config.temperature,
            auxiliary=auxiliary,
        )
        old = log_probs.detach() if batch.old_log_probs is None else batch.old_log_probs
        new = log_probs
        if config.ratio == "sequence":
            new, old = sequence_ratios(log_probs, old, mask), torch.zeros_like(log_probs)
        losses, clipped = policy_losses(
            new,
            old,
            batch.advantages,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
        )
        tokens = mask.sum()
        metrics: dict[str, tuple[Number, Number]] = {**batch.metrics}
        metrics["clip_fraction"] = ((clipped & mask).sum(), tokens)
        if self.reference is not None:
            assert not self.reference.is_trained(model), (
                "the reference must not be the trained model"
            )
            with torch.no_grad(), self.reference.reading() as frozen:
                reference = answer_log_probs(
                    frozen, batch.ids, batch.targets, temperature=config.temperature
                )
            divergence = kl_to_reference(log_probs, reference)
            metrics["kl"] = ((divergence.detach() * mask).sum(), tokens)
            losses = losses + config.kl_beta * divergence
        # selected, not multiplied: what stands at masked places can be anything
        per_row = torch.where(mask, losses, torch.zeros_like(losses)).sum(dim=-1)
        output = ObjectiveOutput((per_row * batch.scales).sum(), batch.weight, metrics)
        return with_auxiliary(output, auxiliary, share=batch.share)


class RolloutSource(AnswerSource):
    """Batch source of GRPO, with `group_advantages`.

    With kl_beta = 0, answers with advantage zero are counted but not processed: their loss and
    gradient are exactly zero. With `dynamic_sampling`, a group with equal rewards is replaced by
    that of another prompt, at most that many times (arXiv:2503.14476, section 3.2, with a bound);
    metrics are of the first draw.
    """

    config: GrpoConfig

    def _replace(self, groups: list[Sampled]) -> int | None:
        most = self.config.dynamic_sampling
        if most == 0:
            return None
        first = self.cursor + self.group.rank
        replaced = 0
        for attempt in range(1, most + 1):
            places = [place for place, one in enumerate(groups) if one.is_zero_variance]
            if not places:
                break
            # position * most + attempt - 1: no two draws of a pass over the problems share a prompt
            positions = [(first + place * self.group.world_size) * most for place in places]
            for place, drawn in zip(places, self._draw(positions, attempt=attempt), strict=True):
                if not drawn.is_zero_variance:
                    groups[place] = drawn
                    replaced += 1
        return replaced

    def _credit(self, groups: Sequence[Sampled]) -> Metrics:
        config = self.config
        rewards = torch.tensor([one.rewards for one in groups], dtype=torch.float64)
        advantages = group_advantages(rewards, scale=config.scale_rewards).flatten().tolist()
        answers = [answer for one in groups for answer in one.answers]
        for answer, advantage in zip(answers, advantages, strict=True):
            answer.advantage = advantage
        if config.old_log_probs == "recompute" and config.steps_per_rollout > 1:
            self._recompute([answer for answer in answers if self._has_gradient(answer)])
        return {}

    def _has_gradient(self, answer: Rollout) -> bool:
        return super()._has_gradient(answer) and (answer.advantage != 0 or self.config.kl_beta > 0)

    def _weight(self, answers: Sequence[Rollout]) -> float:
        """The divisor of the normalization: answers, trained tokens, or answers * max_tokens."""
        config = self.config
        if config.normalization == "dapo":
            return float(sum(a.num_trained for a in answers if not self._masked(a)))
        count = float(len(answers))
        return count if config.normalization == "grpo" else count * config.max_tokens

    def _scale(self, answer: Rollout) -> float:
        return 1 / answer.num_trained if self.config.normalization == "grpo" else 1.0
