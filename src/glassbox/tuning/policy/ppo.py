"""Proximal policy optimization (PPO): policy and value model, generalized advantage estimation,
clipped losses.

Derivation of the advantages: docs/theory/gae.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.core.devices import autocast
from glassbox.core.errors import UserError
from glassbox.inference.evaluating import evaluating
from glassbox.layers.context import Auxiliary
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.auxiliary import with_auxiliary
from glassbox.training.protocols import Number, ObjectiveOutput
from glassbox.tuning.grading.graders import Grader, Problem, Rubric
from glassbox.tuning.log_probs import answer_log_probs
from glassbox.tuning.policy.answers import Metrics, Rollout, RolloutBatch
from glassbox.tuning.policy.grpo import kl_to_reference, policy_losses
from glassbox.tuning.policy.rloo import log_ratio_sums, whiten
from glassbox.tuning.policy.rollouts import AnswerSource, PolicyMethod, PolicySetup, Sampled
from glassbox.tuning.reference import Reference

if TYPE_CHECKING:
    from glassbox.inference.engine import Engine
    from glassbox.models.causal_lm import CausalLM


class PpoConfig(PolicyMethod):
    """Settings of PPO: sampling of answers, token rewards, advantages and losses."""

    kind: Literal["ppo"] = "ppo"
    prompts_per_step: int = Field(64, gt=0, description="prompts per rollout, over all ranks")
    group_size: int = Field(1, ge=1, description="answers sampled per prompt")
    updates_per_rollout: int = Field(4, gt=0, description="passes over the answers of a rollout")
    gamma: float = Field(1.0, gt=0, le=1, description="discount factor gamma")
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="GAE's lambda: 0 for one-step returns, 1 for full returns"
    )
    clip: float = Field(
        0.2, gt=0, lt=1, description="clip range of the policy ratio, on both sides of 1"
    )
    value_clip: float | None = Field(
        0.2, gt=0, description="clip range of the values around the old ones; null: no clipping"
    )
    value_weight: float = Field(0.5, gt=0, description="coefficient of the value loss")
    kl_in: Literal["reward", "loss"] = Field(
        "reward",
        description="where the KL to the reference is applied: in the reward or in the loss",
    )
    kl_beta: float = Field(0.05, ge=0, description="coefficient of the KL; 0: no reference needed")
    kl_target: float | None = Field(
        None,
        gt=0,
        description="target KL in nats per answer, to which kl_beta adapts (kl_in: reward)",
    )
    kl_horizon: float = Field(
        10000.0, gt=0, description="horizon of the adaptation of kl_beta, in answers"
    )
    whiten_advantages: bool = Field(
        True, description="normalize advantages to mean 0 and standard deviation 1 over the step"
    )
    value_init: str | None = Field(
        None,
        description="MODEL that the value model is initialized from, such as a reward model; null: "
        "init",
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> PpoConfig:
        if self.kl_target is not None and (self.kl_in != "reward" or self.kl_beta == 0):
            raise ValueError(
                f"kl_target = {self.kl_target} adapts the KL in the reward; "
                "use kl_in: reward and a kl_beta above 0 to begin with"
            )
        if self.overlong_buffer >= self.max_tokens:
            raise ValueError(
                f"overlong_buffer = {self.overlong_buffer} leaves nothing of max_tokens = "
                f"{self.max_tokens}; make it smaller"
            )
        return self

    def build(self, setup: PolicySetup) -> tuple[Ppo, PpoSource]:
        """Return the objective and the source; the value model is initialized from the model, or
        from `value_init`.
        """
        begun = setup.engine.model if self.value_init is None else setup.opened(self.value_init)
        value = value_model(begun)
        reference = setup.reference() if self.kl_beta > 0 else None
        source = PpoSource(
            setup.engine,
            setup.problems,
            setup.rubric,
            self,
            value=value,
            reference=reference,
            **setup.options,
        )
        return Ppo(self, value, reference), source


def generalized_advantages_plain(
    rewards: Sequence[float], values: Sequence[float], *, gamma: float, gae_lambda: float
) -> list[float]:
    """Generalized advantage estimation: A_t = sum over k of (gamma lambda)^k delta_{t+k}, delta_t =
    r_t + gamma V_{t+1} - V_t.

    V after the last token is 0. Source: Schulman et al., arXiv:1506.02438, eq. 16.

    >>> generalized_advantages_plain([0.0, 1.0], [0.5, 0.5], gamma=1.0, gae_lambda=1.0)
    [0.5, 0.5]
    """
    following = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, v, n in zip(rewards, values, following, strict=True)]
    return [
        sum((gamma * gae_lambda) ** k * delta for k, delta in enumerate(deltas[t:]))
        for t in range(len(deltas))
    ]


def generalized_advantages(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "B T"]:
    """`generalized_advantages_plain` of all rows at once, backwards from the last token; zero where
    masked.

    A_t = delta_t + gamma lambda A_{t+1}, where t + 1 is the next unmasked position of the row:
    masked positions (a tool's tokens, padding) are skipped. Tested against: the plain version.
    """
    following = torch.zeros_like(values[:, 0])
    running = torch.zeros_like(following)
    columns = []
    for t in reversed(range(values.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(here, delta + gamma * gae_lambda * running, running)
        following = torch.where(here, values[:, t], following)
        columns.append(torch.where(here, running, torch.zeros_like(running)))
    return torch.stack(columns[::-1], dim=1)


def value_losses(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    *,
    clip: float | None,
) -> Float[Tensor, "B T"]:
    """Clipped value loss: 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) of every token;
    without c the first term only.

    Source: the clip as in Schulman et al.'s PPO code (baselines' ppo2) and in Huang et al., "The N
    implementation details of RLHF with PPO" (2023), detail 12. Tested against: a plain loop.
    """
    errors = (values - returns) ** 2
    if clip is not None:
        held = torch.minimum(torch.maximum(values, old_values - clip), old_values + clip)
        errors = torch.maximum(errors, (held - returns) ** 2)
    return errors / 2


def adapted_beta(beta: float, kl: float, *, target: float, count: int, horizon: float) -> float:
    """Adaptive KL coefficient: beta (1 + clip(kl / target - 1, -0.2, 0.2) count / horizon).

    Source: Ziegler et al., arXiv:1909.08593, section 2.2.

    >>> adapted_beta(0.1, 12.0, target=6.0, count=100, horizon=1000.0)
    0.10200000000000001
    """
    error = min(0.2, max(-0.2, kl / target - 1))
    return beta * (1 + error * count / horizon)


def value_model(model: CausalLM) -> CausalLM:
    """Create a value model as a copy of `model`, with its scalar head, or one initialized to zero."""
    from glassbox.models.causal_lm import CausalLM

    config = model.config.model_copy(update={"score_head": True})
    made = CausalLM(config).to(device=model.device, dtype=model.dtype)
    missing, unexpected = made.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("score.") for name in missing)
    assert made.score is not None
    if missing:
        nn.init.zeros_(made.score.weight)
    for parameter in made.head.parameters() if made.head is not None else ():
        parameter.requires_grad_(False)  # no logits are asked of it
    return made.eval()


def token_values(value: CausalLM, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """V of every prefix: position t has the value after id t, when the target at t is sampled."""
    scores = value.scores(value.hidden_states(ids))
    return scores if scores.dtype == torch.float64 else scores.float()


class Ppo:
    """The PPO objective: `policy_losses` + value_weight * `value_losses` (+ kl_beta * KL), mean
    over tokens.

    The value model is the companion "value": trained alongside the model and saved in every
    checkpoint. With kl_in "reward" the KL term is in the source's rewards; with "loss" it is in the
    loss, and `reference` is required. Dropout is not applied in the value model.
    Source: arXiv:1707.06347; Ouyang et al., arXiv:2203.02155.
    Tested against: a loop over tokens in float64, losses and gradients.
    """

    def __init__(
        self,
        config: PpoConfig,
        value: CausalLM,
        reference: CausalLM | Reference | None = None,
    ) -> None:
        if not value.config.score_head:
            raise UserError(
                "PPO's value model has no scalar head; make one with value_model(model)"
            )
        in_loss = config.kl_in == "loss" and config.kl_beta > 0
        if in_loss and reference is None:
            raise UserError(
                f"kl_beta = {config.kl_beta} needs a reference model; give one or set kl_beta: 0"
            )
        self.config = config
        self.value = value
        self.reference = Reference.of(reference) if in_loss else None

    @property
    def companions(self) -> Mapping[str, nn.Module]:
        """The value model."""
        return {"value": self.value}

    def __call__(self, model: CausalLM, batch: RolloutBatch) -> ObjectiveOutput:
        """Compute the loss of one micro-batch."""
        config = self.config
        assert batch.old_log_probs is not None
        assert batch.old_values is not None
        assert batch.returns is not None
        assert self.value is not model, "the value model must not be the policy"
        mask = batch.targets != IGNORE
        auxiliary = Auxiliary()
        log_probs = answer_log_probs(
            model,
            batch.ids,
            batch.targets,
            temperature=config.temperature,
            auxiliary=auxiliary,
        )
        losses, clipped = policy_losses(
            log_probs,
            batch.old_log_probs,
            batch.advantages,
            clip_low=config.clip,
            clip_high=config.clip,
        )
        values = token_values(self.value, batch.ids)
        errors = value_losses(values, batch.old_values, batch.returns, clip=config.value_clip)
        tokens = mask.sum()
        metrics: dict[str, tuple[Number, Number]] = {**batch.metrics}
        metrics["clip_fraction"] = ((clipped & mask).sum(), tokens)
        metrics["value_loss"] = (_masked_sum(errors.detach(), mask), tokens)
        metrics["policy_loss"] = (_masked_sum(losses.detach(), mask), tokens)
        if self.reference is not None:
            assert not self.reference.is_trained(model), (
                "the reference must not be the trained model"
            )
            with torch.no_grad(), self.reference.reading() as frozen:
                reference = answer_log_probs(
                    frozen, batch.ids, batch.targets, temperature=config.temperature
                )
            divergence = kl_to_reference(log_probs, reference)
            metrics["kl"] = (_masked_sum(divergence.detach(), mask), tokens)
            losses = losses + config.kl_beta * divergence
        total = losses + config.value_weight * errors
        output = ObjectiveOutput(_masked_sum(total, mask), batch.weight, metrics)
        return with_auxiliary(output, auxiliary, share=batch.share)


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of selected entries; masked ones may have any value."""
    return torch.where(mask, values, torch.zeros_like(values)).sum()


class PpoSource(AnswerSource):
    """Batch source of PPO: each token's reward is -beta (log p - log p_reference); the last one's
    also includes the grade.

    Advantages and returns are computed with the value model at the time of the rollout, which must
    be the objective's. beta is part of the saved position, since `kl_target` changes it.
    """

    config: PpoConfig

    def __init__(
        self,
        engine: Engine,
        problems: Sequence[Problem],
        grader: Grader | Rubric,
        config: PpoConfig,
        *,
        value: CausalLM,
        reference: CausalLM | Reference | None = None,
        **options: Any,
    ) -> None:
        super().__init__(engine, problems, grader, config, **options)
        in_reward = config.kl_in == "reward" and config.kl_beta > 0
        if in_reward and reference is None:
            raise UserError(
                f"kl_beta = {config.kl_beta} needs a reference model; give one or set kl_beta: 0"
            )
        self.value = value
        self.reference = Reference.of(reference) if in_reward else None
        trained = self.reference is not None and self.reference.is_trained(engine.model)
        assert not trained, "the reference must not be the trained model"
        self.beta = config.kl_beta

    def _credit(self, groups: Sequence[Sampled]) -> Metrics:
        config = self.config
        answers = [answer for one in groups for answer in one.answers]
        grades = [reward for one in groups for reward in one.rewards]
        if config.old_log_probs == "recompute":
            self._recompute(answers)
        metrics: Metrics = {}
        penalties = [[0.0] * len(answer.token_ids) for answer in answers]
        if self.reference is not None:
            reference = self._reference_scores(self.reference, answers)
            penalties = [
                [self.beta * own * (old - ref) for old, ref, own in zip(*three, strict=True)]
                for three in (
                    (answer.old_log_probs or [], scores, answer.trained)
                    for answer, scores in zip(answers, reference, strict=True)
                )
            ]
            metrics.update(self._adapt(log_ratio_sums(answers, reference)))
        self._value(answers)
        self._advantages(answers, grades, penalties)
        count = float(len(answers))
        metrics["return"] = (sum((a.returns or [0.0])[0] for a in answers), count)
        return metrics

    def _adapt(self, kl: Tensor) -> Metrics:
        metrics: Metrics = {
            "kl": (float(kl.sum()), float(len(kl))),
            "kl_beta": (self.beta * len(kl), float(len(kl))),
        }
        if self.config.kl_target is not None:
            total, count = self.group.sum_(
                torch.stack([kl.sum(), kl.new_tensor(float(len(kl)))])
            ).tolist()
            self.beta = adapted_beta(
                self.beta,
                total / count,
                target=self.config.kl_target,
                count=int(count),
                horizon=self.config.kl_horizon,
            )
        return metrics

    @torch.no_grad()
    def _value(self, answers: Sequence[Rollout]) -> None:
        with evaluating(self.value), autocast(self.value.device, self.precision):
            for part in self._parts(answers):
                ids, _ = self._rows(part)
                rows = token_values(self.value, ids.to(self.value.device)).tolist()
                for answer, row in zip(part, rows, strict=True):
                    start = self._start(answer)
                    said = row[start : start + len(answer.token_ids)]
                    answer.values = [v * own for v, own in zip(said, answer.trained, strict=True)]

    def _advantages(
        self,
        answers: Sequence[Rollout],
        grades: Sequence[float],
        penalties: Sequence[Sequence[float]],
    ) -> None:
        width = max(len(answer.token_ids) for answer in answers)
        rewards = torch.zeros((len(answers), width), dtype=torch.float64)
        values, mask = torch.zeros_like(rewards), torch.zeros_like(rewards, dtype=torch.bool)
        for row, (answer, grade, lost) in enumerate(zip(answers, grades, penalties, strict=True)):
            count = len(answer.token_ids)
            rewards[row, :count] = -torch.tensor(lost, dtype=torch.float64)
            values[row, :count] = torch.tensor(answer.values, dtype=torch.float64)
            mask[row, :count] = torch.tensor(answer.trained, dtype=torch.bool)
            last = max(place for place, own in enumerate(answer.trained) if own)
            rewards[row, last] += grade
        config = self.config
        advantages = generalized_advantages(
            rewards, values, mask, gamma=config.gamma, gae_lambda=config.gae_lambda
        )
        returns = advantages + values
        if config.whiten_advantages:
            white = torch.zeros_like(advantages)
            white[mask] = whiten(advantages[mask], self.group.sum_)
            advantages = white
        for row, answer in enumerate(answers):
            count = len(answer.token_ids)
            answer.advantages = advantages[row, :count].tolist()
            answer.returns = torch.where(mask, returns, 0.0)[row, :count].tolist()

    def _weight(self, answers: Sequence[Rollout]) -> float:
        return float(sum(a.num_trained for a in answers if not self._masked(a)))

    def state_dict(self) -> dict[str, Any]:
        """The position, and the current KL coefficient."""
        return {**super().state_dict(), "kl_beta": self.beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved position."""
        super().load_state_dict(state)
        self.beta = float(state["kl_beta"])
