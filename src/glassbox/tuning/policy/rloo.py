"""REINFORCE leave-one-out (RLOO): the baseline is the mean reward of the other answers, of the
whole batch, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.layers.context import Auxiliary
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import Number, ObjectiveOutput
from glassbox.tuning.grading.graders import Grader, Problem, Rubric
from glassbox.tuning.log_probs import answer_log_probs
from glassbox.tuning.policy.answers import Metrics, Rollout, RolloutBatch
from glassbox.tuning.policy.grpo import policy_losses
from glassbox.tuning.policy.rollouts import AnswerSource, PolicyMethod, PolicySetup, Sampled
from glassbox.tuning.reference import Reference

if TYPE_CHECKING:
    from glassbox.inference.engine import Engine
    from glassbox.models.causal_lm import CausalLM


class RlooConfig(PolicyMethod):
    """Settings of RLOO: sampling of answers and baseline."""

    kind: Literal["rloo"] = "rloo"
    group_size: int = Field(4, ge=1, description="answers sampled per prompt")
    baseline: Literal["leave_one_out", "batch", "none"] = Field(
        "leave_one_out",
        description="baseline subtracted from a reward: the mean of the prompt's other answers "
        "(RLOO), of all answers of the step, or none (REINFORCE)",
    )
    kl_beta: float = Field(
        0.05,
        ge=0,
        description="coefficient of the KL in the reward, per nat of log p - log p_reference",
    )
    normalize_advantages: bool = Field(
        False, description="normalize advantages to mean 0 and standard deviation 1 over the step"
    )
    clip_low: float = Field(0.2, gt=0, lt=1, description="ratios below 1 - clip_low are clipped")
    clip_high: float = Field(0.2, gt=0, description="ratios above 1 + clip_high are clipped")

    @model_validator(mode="after")
    def _settings_fit(self) -> RlooConfig:
        if self.baseline == "leave_one_out" and self.group_size < 2:
            raise ValueError(
                "baseline = 'leave_one_out' needs another answer to compare with; "
                "use group_size: 2 or more, or baseline: batch"
            )
        if self.overlong_buffer >= self.max_tokens:
            raise ValueError(
                f"overlong_buffer = {self.overlong_buffer} leaves nothing of max_tokens = "
                f"{self.max_tokens}; make it smaller"
            )
        return self

    def build(self, setup: PolicySetup) -> tuple[Rloo, RlooSource]:
        """Return the objective and the source; with kl_beta > 0 the source has a reference model."""
        source = RlooSource(
            setup.engine,
            setup.problems,
            setup.rubric,
            self,
            reference=setup.reference() if self.kl_beta > 0 else None,
            **setup.options,
        )
        return Rloo(self), source


def leave_one_out(reward: Float[Tensor, "B G"]) -> Float[Tensor, "B G"]:
    """Each reward minus the mean of the other G - 1 of its group: (G r - sum r) / (G - 1).

    Source: Ahmadian et al., arXiv:2402.14740, section 3.2. Tested against: trl, and a plain loop.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 2.0]])).tolist()
    [[0.0, -1.5, 1.5]]
    """
    size = reward.shape[-1]
    if size < 2:
        raise ValueError(f"a group of {size} has no other answer; use G >= 2")
    return (size * reward - reward.sum(dim=-1, keepdim=True)) / (size - 1)


class Rloo:
    """The RLOO objective: -min(w A, clip(w) A) per answer, w = p(answer) / p_old(answer), mean over
    answers.

    At the first update after a rollout w = 1, and the gradient is that of REINFORCE, -A grad log
    p(answer). The KL term is in the reward (`RlooSource`), not in the loss.
    Source: arXiv:2402.14740; the clip as in trl's RLOOTrainer.
    Tested against: trl's RLOOTrainer, loss and gradients.
    """

    def __init__(self, config: RlooConfig) -> None:
        self.config = config

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
        new = log_probs.sum(dim=-1, keepdim=True)  # zero where there is no target
        old = new.detach()
        if batch.old_log_probs is not None:
            old = torch.where(mask, batch.old_log_probs.to(new), 0.0).sum(dim=-1, keepdim=True)
        losses, clipped = policy_losses(
            new, old, batch.advantages, clip_low=config.clip_low, clip_high=config.clip_high
        )
        metrics: dict[str, tuple[Number, Number]] = {**batch.metrics}
        metrics["clip_fraction"] = (clipped.sum(), len(clipped))
        total = (losses.squeeze(-1) * batch.scales).sum()
        output = ObjectiveOutput(total, batch.weight, metrics)
        return with_auxiliary(output, auxiliary, share=batch.share)


class RlooSource(AnswerSource):
    """Batch source of RLOO: reward - kl_beta * (log p - log p_reference)(answer), minus its
    baseline.

    `reference` is required if kl_beta > 0, and is frozen here.
    """

    config: RlooConfig

    def __init__(
        self,
        engine: Engine,
        problems: Sequence[Problem],
        grader: Grader | Rubric,
        config: RlooConfig,
        *,
        reference: CausalLM | Reference | None = None,
        **options: Any,
    ) -> None:
        super().__init__(engine, problems, grader, config, **options)
        if config.kl_beta > 0 and reference is None:
            raise UserError(
                f"kl_beta = {config.kl_beta} needs a reference model; give one or set kl_beta: 0"
            )
        self.reference = Reference.of(reference) if config.kl_beta > 0 else None
        trained = self.reference is not None and self.reference.is_trained(engine.model)
        assert not trained, "the reference must not be the trained model"

    def _credit(self, groups: Sequence[Sampled]) -> Metrics:
        config = self.config
        answers = [answer for one in groups for answer in one.answers]
        rewards = torch.tensor([one.rewards for one in groups], dtype=torch.float64)
        metrics: Metrics = {}
        if config.old_log_probs == "recompute" and (
            config.steps_per_rollout > 1 or self.reference is not None
        ):
            self._recompute(answers)
        if self.reference is not None:
            kl = log_ratio_sums(answers, self._reference_scores(self.reference, answers))
            metrics["kl"] = (float(kl.sum()), float(len(answers)))
            rewards = rewards - config.kl_beta * kl.view_as(rewards)
        advantages = self._advantages(rewards).flatten().tolist()
        for answer, advantage in zip(answers, advantages, strict=True):
            answer.advantage = advantage
            if config.steps_per_rollout == 1 and config.old_log_probs == "recompute":
                answer.old_log_probs = None  # the policy has not moved
        return metrics

    def _advantages(self, rewards: Tensor) -> Tensor:
        config = self.config
        if config.baseline == "leave_one_out":
            advantages = leave_one_out(rewards)
        elif config.baseline == "batch":
            total = torch.stack([rewards.sum(), rewards.new_tensor(float(rewards.numel()))])
            total = self.group.sum_(total)
            advantages = rewards - total[0] / total[1]
        else:
            advantages = rewards
        if config.normalize_advantages:
            advantages = whiten(advantages, self.group.sum_, eps=1e-4)
        return advantages

    def _weight(self, answers: Sequence[Rollout]) -> float:
        return float(len(answers))


def log_ratio_sums(answers: Sequence[Rollout], reference: Sequence[Sequence[float]]) -> Tensor:
    """log p_old(answer) - log p_reference(answer) of each answer, over the model's own tokens."""
    sums = []
    for answer, scores in zip(answers, reference, strict=True):
        assert answer.old_log_probs is not None
        pairs = zip(answer.old_log_probs, scores, answer.trained, strict=True)
        sums.append(sum(own * (old - ref) for old, ref, own in pairs))
    return torch.tensor(sums, dtype=torch.float64)


def whiten(
    values: Float[Tensor, "*shape"],
    sum_: Callable[[Tensor], Tensor],
    *,
    eps: float = 1e-8,
    shift: bool = True,
) -> Float[Tensor, "*shape"]:
    """(x - mean) / (std + eps) over all values of all ranks; std with n - 1.

    `sum_` sums a tensor over the ranks. Without `shift` the mean is kept.
    """
    count, total = sum_(torch.stack([values.new_tensor(float(values.numel())), values.sum()]))
    mean = total / count
    squares = sum_(((values - mean) ** 2).sum().reshape(1))
    deviation = (squares[0] / (count - 1).clamp(min=1)).sqrt()
    white = (values - mean) / (deviation + eps)
    return white if shift else white + mean
