"""What preference and reward recipes become: a model, an objective, and a source of its batches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from glassbox.core.devices import resolve_device
from glassbox.core.distributed import Group
from glassbox.core.seeding import derive_seed
from glassbox.data.feedback import FeedbackSource, encode_feedback, read_feedback
from glassbox.data.preferences import (
    PreferenceReport,
    PreferenceSource,
    encode_preferences,
    read_preferences,
)
from glassbox.data.scored import (
    ScoredPairSource,
    SolutionSource,
    encode_solutions,
    read_solutions,
)
from glassbox.formats.open_model import open_model
from glassbox.models.causal_lm import CausalLM
from glassbox.models.scorer import add_score_head
from glassbox.runs.recipe import DpoRecipe, PreferenceRecipe, RewardRecipe
from glassbox.tokenizers import Tokenizer
from glassbox.training.protocols import BatchSource, Objective
from glassbox.tuning.preference.dpo import Dpo, DpoConfig, reference_log_probs
from glassbox.tuning.preference.kto import Kto, KtoConfig
from glassbox.tuning.preference.reference_free import ReferenceFree
from glassbox.tuning.preference.reward import BradleyTerry, ProcessConfig, StepJudge


class Parts(NamedTuple):
    """A stage's parts, and what became of its data."""

    model: CausalLM
    tokenizer: Tokenizer
    objective: Objective[Any]
    source: BatchSource[Any]
    report: PreferenceReport


def preference_parts(recipe: PreferenceRecipe | DpoRecipe, group: Group) -> Parts:
    """DPO and its kin with the model at the start, frozen, as reference; or losses that need none.

    DPO's reference is asked once for all pairs. KTO's is kept, since the mismatched answers that it
    is asked about are others in every epoch.
    """
    loss = recipe.dpo if isinstance(recipe, DpoRecipe) else recipe.loss
    model, tokenizer, _ = open_model(recipe.init)
    device = resolve_device(recipe.device, local_rank=group.local_rank)
    data, seed = recipe.data, recipe.seed
    per_step, per_batch = data.pairs_per_step, data.pairs_per_batch
    if isinstance(loss, KtoConfig):
        answers, report = encode_feedback(
            read_feedback(data.path), tokenizer, max_length=data.max_length
        )
        reference, _, _ = open_model(recipe.init)
        kto_source = FeedbackSource(
            answers,
            per_step=per_step,
            per_batch=per_batch,
            max_length=data.max_length,
            seed=seed,
            group=group,
        )
        return Parts(model, tokenizer, Kto(loss, reference.to(device)), kto_source, report)
    pairs, report = encode_preferences(
        read_preferences(data.path), tokenizer, max_length=data.max_length
    )
    known = None
    if isinstance(loss, DpoConfig):
        known = reference_log_probs(model.to(device), pairs, precision=recipe.train.precision)
    source = PreferenceSource(
        pairs,
        pairs_per_step=per_step,
        pairs_per_batch=per_batch,
        seed=seed,
        group=group,
        reference=known,
    )
    objective = Dpo(loss) if isinstance(loss, DpoConfig) else ReferenceFree(loss)
    return Parts(model, tokenizer, objective, source, report)


def reward_parts(recipe: RewardRecipe, group: Group) -> Parts:
    """A model with a scalar head, a fresh one where it had none, and pairs or solutions to learn from."""
    model, tokenizer, _ = open_model(recipe.init)
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "score head"))
    add_score_head(model, generator)
    data = recipe.data
    common: dict[str, Any] = {
        "per_step": data.pairs_per_step,
        "per_batch": data.pairs_per_batch,
        "seed": recipe.seed,
        "group": group,
    }
    if isinstance(recipe.loss, ProcessConfig):
        solutions, report = encode_solutions(
            read_solutions(data.path), tokenizer, max_length=data.max_length
        )
        return Parts(model, tokenizer, StepJudge(), SolutionSource(solutions, **common), report)
    pairs, report = encode_preferences(
        read_preferences(data.path), tokenizer, max_length=data.max_length
    )
    source = ScoredPairSource(pairs, **common)
    return Parts(model, tokenizer, BradleyTerry(recipe.loss), source, report)
