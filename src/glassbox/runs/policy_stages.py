"""What policy recipes become: a model, an objective, and rollouts as the source of its batches."""

from __future__ import annotations

from typing import Any, NamedTuple

from glassbox.core.devices import resolve_device
from glassbox.core.distributed import Group
from glassbox.formats.open_model import open_model
from glassbox.inference import Engine
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.recipe import GrpoRecipe, PpoRecipe, RlooRecipe
from glassbox.tokenizers import Tokenizer
from glassbox.training.protocols import Objective
from glassbox.tuning.grading.graders import Grader, read_problems
from glassbox.tuning.grading.rubrics import build_rubric
from glassbox.tuning.grading.rules import RewardModel
from glassbox.tuning.policy.answers import RolloutConfig
from glassbox.tuning.policy.grpo import Grpo
from glassbox.tuning.policy.ppo import Ppo, PpoSource, value_model
from glassbox.tuning.policy.rloo import Rloo, RlooSource
from glassbox.tuning.policy.rollouts import AnswerSource, RolloutSource

PolicyRecipe = GrpoRecipe | RlooRecipe | PpoRecipe


class PolicyParts(NamedTuple):
    """A stage's parts."""

    model: CausalLM
    tokenizer: Tokenizer
    objective: Objective[Any]
    source: AnswerSource


def policy_config(recipe: PolicyRecipe) -> RolloutConfig:
    """The settings of the recipe's method."""
    if isinstance(recipe, GrpoRecipe):
        return recipe.grpo
    return recipe.rloo if isinstance(recipe, RlooRecipe) else recipe.ppo


def policy_parts(recipe: PolicyRecipe, group: Group) -> PolicyParts:
    """GRPO, RLOO or PPO on problems; the reference, where one is needed, is the model at the start.

    PPO's value model begins as a copy of the model, or of `value_init`.
    """
    device = resolve_device(recipe.device, local_rank=group.local_rank)

    def opened(name: str) -> tuple[CausalLM, Tokenizer]:
        model, tokenizer, _ = open_model(name)
        return model.to(device), tokenizer

    def reward_model(name: str) -> Grader:
        return RewardModel(*opened(name))

    config = policy_config(recipe)
    model, tokenizer = opened(recipe.init)
    reference = opened(recipe.init)[0] if recipe_beta(recipe) > 0 else None
    engine = Engine(model, tokenizer, max_batch=config.prompts_per_step * config.group_size)
    problems = read_problems(recipe.data.path, instruction=recipe.data.instruction)
    rubric = build_rubric(recipe.graders, open_reward_model=reward_model)
    options: dict[str, Any] = {
        "seed": recipe.seed,
        "group": group,
        "precision": recipe.train.precision,
    }
    source: AnswerSource
    if isinstance(recipe, GrpoRecipe):
        source = RolloutSource(engine, problems, rubric, recipe.grpo, **options)
        return PolicyParts(model, tokenizer, Grpo(recipe.grpo, reference), source)
    if isinstance(recipe, RlooRecipe):
        source = RlooSource(engine, problems, rubric, recipe.rloo, reference=reference, **options)
        return PolicyParts(model, tokenizer, Rloo(recipe.rloo), source)
    value = value_model(model if recipe.value_init is None else opened(recipe.value_init)[0])
    source = PpoSource(
        engine, problems, rubric, recipe.ppo, value=value, reference=reference, **options
    )
    return PolicyParts(model, tokenizer, Ppo(recipe.ppo, value, reference), source)


def recipe_beta(recipe: PolicyRecipe) -> float:
    """The weight of the KL to the reference."""
    if isinstance(recipe, GrpoRecipe):
        return recipe.grpo.kl_beta
    return recipe.rloo.kl_beta if isinstance(recipe, RlooRecipe) else recipe.ppo.kl_beta
