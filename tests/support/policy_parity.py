"""Policy objectives and distillation beside trl's, on the same ragged batches: what tests and the page share.

trl's batches have prompts padded on the left and answers on the right; ours are always padded on
the right. PPO has no trainer in trl 1.16, so it is compared with a loop over tokens.
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from trl.experimental.gkd.gkd_trainer import GKDTrainer
from trl.trainer import grpo_trainer, rloo_trainer
from trl.trainer.utils import add_fused_lm_head

from glassbox.data.loader import TokenBatch
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.training.protocols import ObjectiveOutput
from glassbox.tuning.distillation.objective import Distill, DistillConfig
from glassbox.tuning.log_probs import answer_log_probs
from glassbox.tuning.policy.answers import RolloutBatch
from glassbox.tuning.policy.grpo import Grpo, GrpoConfig, group_advantages
from glassbox.tuning.policy.ppo import Ppo, PpoConfig, value_model
from glassbox.tuning.policy.rloo import Rloo, RlooConfig
from support.preference_parity import bare, padded, ragged, raw_pairs
from support.twins import VOCAB, pieces, tiny, to_llama

Config = GrpoConfig | RlooConfig | PpoConfig | DistillConfig


class PolicyCase(NamedTuple):
    """An objective, what it is compared with, and whether the policy has moved since it sampled."""

    config: Config
    against: str
    moved: bool = True
    sides: tuple[str, ...] = ("",)


SMALL = 0.1
"""Losses are sums of terms that nearly cancel: one smaller than this is compared on this scale."""
GKD = "trl.experimental GKDTrainer"
POLICY_CASES = {
    "GRPO": PolicyCase(
        GrpoConfig(normalization="grpo", kl_beta=0.3, temperature=0.7), "trl GRPOTrainer grpo"
    ),
    "GRPO, first update": PolicyCase(
        GrpoConfig(normalization="grpo"), "trl GRPOTrainer grpo", moved=False
    ),
    "Dr. GRPO": PolicyCase(
        GrpoConfig(normalization="dr_grpo", scale_rewards=False), "trl GRPOTrainer dr_grpo"
    ),
    "DAPO": PolicyCase(GrpoConfig(clip_high=0.28), "trl GRPOTrainer dapo"),
    "GSPO": PolicyCase(
        GrpoConfig(normalization="grpo", ratio="sequence", clip_low=0.03, clip_high=0.04),
        "trl GRPOTrainer grpo, importance_sampling_level sequence",
    ),
    "RLOO": PolicyCase(RlooConfig(clip_low=0.1, clip_high=0.1), "trl RLOOTrainer"),
    "RLOO, first update": PolicyCase(RlooConfig(), "trl RLOOTrainer", moved=False),
    "PPO": PolicyCase(
        PpoConfig(value_clip=0.1, value_weight=0.7), "a loop over tokens (trl 1.16 has no such trainer)"
    ),
    "PPO, KL in the loss": PolicyCase(
        PpoConfig(kl_in="loss", kl_beta=0.3, value_clip=None), "a loop over tokens"
    ),
    "distillation": PolicyCase(DistillConfig(), GKD + " beta 0", sides=("left", "right")),
    "distillation, reverse": PolicyCase(
        DistillConfig(divergence="reverse_kl"), GKD + " beta 1", sides=("left", "right")
    ),
    "distillation, JS": PolicyCase(
        DistillConfig(divergence="js", js_beta=0.3), GKD + " beta 0.3", sides=("left", "right")
    ),
}  # fmt: skip


def raw_rollout(seed: int, *, empty: bool = False) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer), two groups of four with a prompt each, one of which lost its beginning.

    One answer has a single id; perhaps one has none.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = [ragged(generator, 2, 9), ragged(generator, 30, 30)[-12:]]
    rows = [(prompt, ragged(generator, 2, 10)) for prompt in prompts for _ in range(4)]
    rows[2] = (rows[2][0], [3])
    if empty:
        rows[5] = (rows[5][0], [])
    return rows


def rollout_batch(
    seed: int,
    config: GrpoConfig,
    *,
    moved: bool,
    masked: int | None = None,
    empty: bool = False,
) -> tuple[RolloutBatch, dict[str, Tensor]]:
    """Our batch, and the same as trl's inputs: prompts padded on the left, answers on the right."""
    rows = raw_rollout(seed, empty=empty)
    generator = torch.Generator().manual_seed(seed + 7)
    rewards = torch.rand((2, 4), generator=generator, dtype=torch.float64)
    advantages = group_advantages(rewards, scale=config.scale_rewards).flatten()
    longest_prompt = max(len(prompt) for prompt, _ in rows)
    longest = max(len(answer) for _, answer in rows)
    most = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    ids = torch.zeros((8, most), dtype=torch.int64)
    targets = torch.full((8, most), IGNORE)
    old = torch.zeros((8, most), dtype=torch.float64)
    prompt_ids = torch.zeros((8, longest_prompt), dtype=torch.int64)
    prompt_mask = torch.zeros_like(prompt_ids)
    completion_ids = torch.zeros((8, longest), dtype=torch.int64)
    completion_mask = torch.zeros_like(completion_ids)
    trl_old = torch.zeros((8, longest), dtype=torch.float64)
    sampler = tiny(seed + (50 if moved else 0))
    for row, (prompt, answer) in enumerate(rows):
        sequence = torch.tensor(prompt + answer)
        said = torch.tensor(answer, dtype=torch.int64)
        ids[row, : len(sequence) - 1] = sequence[:-1]
        start = len(prompt) - 1
        prompt_ids[row, longest_prompt - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[row, longest_prompt - len(prompt) :] = 1
        completion_ids[row, : len(answer)] = said
        if row != masked:
            targets[row, start : start + len(answer)] = said
            completion_mask[row, : len(answer)] = 1
        log_p = torch.log_softmax(sampler(sequence[None]) / config.temperature, dim=-1)
        drawn = log_p[0, start:-1].gather(-1, said[:, None]).squeeze(-1).detach()
        # far from the sampler, but near enough that some ratios are clipped and some are not
        drawn = drawn if not moved else drawn + 0.5 * torch.randn(len(answer), generator=generator)
        old[row, start : start + len(answer)] = drawn
        trl_old[row, : len(answer)] = drawn
    lengths = torch.tensor([float(len(answer)) for _, answer in rows], dtype=torch.float64)
    tokens = float(completion_mask.sum())
    weights = {"grpo": 8.0, "dapo": tokens, "dr_grpo": 8.0 * config.max_tokens}
    batch = RolloutBatch(
        ids=ids,
        targets=targets,
        advantages=advantages,
        scales=1 / lengths.clamp(min=1)
        if config.normalization == "grpo"
        else torch.ones_like(lengths),
        old_log_probs=old if moved else None,
        weight=weights[config.normalization],
    )
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(tokens),
    }
    return batch, inputs | ({"old_per_token_logps": trl_old} if moved else {})


def trl_grpo(
    llama: nn.Module, reference: nn.Module, config: GrpoConfig, inputs: dict[str, Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """trl's loss and metrics."""
    trainer = bare(
        grpo_trainer.GRPOTrainer,
        llama,
        args=types.SimpleNamespace(
            delta=None, use_bias_correction_kl=False, steps_per_generation=1
        ),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=config.ratio,
        beta=config.kl_beta,
        loss_type=config.normalization,
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high,
        max_completion_length=config.max_tokens,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
    )
    heads = {"temperature": config.temperature}
    add_fused_lm_head(llama, **heads, outputs=("log_probs", "entropy"))
    add_fused_lm_head(reference, **heads)
    if config.kl_beta:
        with torch.no_grad():
            scored = trainer._get_per_token_logps_and_entropies(
                reference,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                inputs["completion_ids"].shape[1],
            )
        inputs = {**inputs, "ref_per_token_logps": scored[0]}
    loss = trainer._compute_loss(llama, inputs)
    return loss, {key: v[-1] for key, v in trainer._metrics["train"].items()}


def rloo_batch(
    config: RlooConfig, seed: int, model: CausalLM, *, moved: bool, empty: bool = False
) -> tuple[RolloutBatch, dict[str, Tensor]]:
    """The same for whole answers, whose ratios would stray far: brought near, so that some are clipped."""
    batch, inputs = rollout_batch(
        seed, GrpoConfig(temperature=config.temperature), moved=True, empty=empty
    )
    del inputs["old_per_token_logps"]
    scored = answer_log_probs(
        model, batch.ids, batch.targets, temperature=config.temperature
    ).detach()
    batch.old_log_probs = None
    if moved:
        generator = torch.Generator().manual_seed(seed)
        scored = scored + 0.1 * torch.randn(scored.shape, generator=generator, dtype=scored.dtype)
        batch.old_log_probs = scored  # what stands at masked places does not count
    inputs["old_logps"] = torch.where(batch.targets != IGNORE, scored, 0.0).sum(dim=-1)
    batch.weight = 8.0
    return batch, inputs


def trl_rloo(
    llama: nn.Module, config: RlooConfig, inputs: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Any]]:
    """trl's loss and metrics."""
    trainer = bare(
        rloo_trainer.RLOOTrainer,
        llama,
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high,
        temperature=config.temperature,
    )
    add_fused_lm_head(llama, temperature=config.temperature, outputs=("log_probs", "entropy"))
    loss = trainer._compute_loss(llama, inputs)
    return loss, {key: v[-1] for key, v in trainer._metrics["train"].items()}


def ppo_parts(
    config: PpoConfig, seed: int, *, empty: bool = False
) -> tuple[CausalLM, CausalLM, CausalLM, RolloutBatch]:
    """Policy, value model, reference, and a batch whose advantages, returns and old values are random."""
    value = value_model(tiny(seed + 50))
    assert value.score is not None
    with torch.no_grad():
        value.score.weight.normal_(generator=torch.Generator().manual_seed(seed + 1))
    batch, _ = rollout_batch(seed, GrpoConfig(), moved=True, empty=empty)
    generator = torch.Generator().manual_seed(seed + 9)
    tables = torch.randn((3, *batch.targets.shape), generator=generator, dtype=torch.float64)
    batch.advantages, batch.returns, batch.old_values = tables
    return tiny(seed), value, tiny(seed + 100), batch


def ppo_by_loop(
    config: PpoConfig,
    seed: int,
    model: CausalLM,
    value: CausalLM,
    reference: CausalLM,
    batch: RolloutBatch,
    *,
    empty: bool = False,
) -> tuple[Tensor, int]:
    """Summed loss and number of tokens, one token at a time, nothing padded."""
    assert batch.old_log_probs is not None
    assert batch.returns is not None
    assert batch.old_values is not None
    assert value.score is not None
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for row, (prompt, answer) in enumerate(raw_rollout(seed, empty=empty)):
        sequence = torch.tensor([prompt + answer])
        new = torch.log_softmax(model(sequence)[0], dim=-1)
        ref = torch.log_softmax(reference(sequence)[0], dim=-1).detach()
        says = value.hidden_states(sequence)[0] @ value.score.weight[0]
        for k, token in enumerate(answer):
            t = len(prompt) - 1 + k
            advantage, goal, was = (
                table[row, t] for table in (batch.advantages, batch.returns, batch.old_values)
            )
            ratio = torch.exp(new[t, token] - batch.old_log_probs[row, t])
            held = ratio.clamp(1 - config.clip, 1 + config.clip)
            total = total - torch.min(ratio * advantage, held * advantage)
            if config.kl_in == "loss":
                quotient = torch.exp(ref[t, token] - new[t, token])
                total = total + config.kl_beta * (quotient - torch.log(quotient) - 1)
            error = (says[t] - goal) ** 2
            if config.value_clip is not None:
                near = was + (says[t] - was).clamp(-config.value_clip, config.value_clip)
                error = torch.max(error, (near - goal) ** 2)
            total = total + config.value_weight * error / 2
            tokens += 1
    return total, tokens


def distill_batch(
    seed: int, *, empty: bool
) -> tuple[TokenBatch, list[tuple[list[int], list[int]]]]:
    """Rows of prompt and answer; the answers are what is learnt."""
    rows = [(pair.prompt, pair.chosen) for pair in raw_pairs(seed, empty=empty)]
    most = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    ids, targets = (
        torch.zeros((len(rows), most), dtype=torch.int64),
        torch.full((len(rows), most), IGNORE),
    )
    for row, (prompt, answer) in enumerate(rows):
        sequence, first = torch.tensor(prompt + answer), len(prompt) - 1
        ids[row, : len(sequence) - 1] = sequence[:-1]
        targets[row, first : len(sequence) - 1] = sequence[first + 1 :]
    return TokenBatch(ids, targets, torch.zeros_like(ids)), rows  # fmt: skip


def trl_gkd(
    config: DistillConfig, llama: nn.Module, teacher: nn.Module, rows: Any, side: str
) -> Tensor:
    """trl's loss, its mean over all answers' tokens."""
    beta = {"forward_kl": 0, "reverse_kl": 1, "js": config.js_beta}[config.divergence]
    trainer = bare(GKDTrainer, llama, teacher_model=teacher, beta=beta)
    whole = padded(rows, side)
    labels = whole["input_ids"].masked_fill(whole.pop("completion_mask") == 0, IGNORE)
    tokens = sum(len(answer) for _, answer in rows)
    inputs = {**whole, "labels": labels}
    return trainer.compute_loss(llama, inputs, num_items_in_batch=torch.tensor(tokens))  # fmt: skip


def ours_and_theirs(
    case: PolicyCase, seed: int, side: str, *, empty: bool
) -> tuple[dict[str, nn.Module], ObjectiveOutput, Any, Tensor]:
    """Our modules and output, their model (None where it is ours as well) and mean loss."""
    config, model, reference = case.config, tiny(seed), tiny(seed + 100)
    if isinstance(config, PpoConfig):
        model, value, reference, batch = ppo_parts(config, seed, empty=empty)
        total, tokens = ppo_by_loop(config, seed, model, value, reference, batch, empty=empty)
        batch.weight = float(tokens)
        output = Ppo(config, value, reference)(model, batch)
        return {"": model, "value.": value}, output, None, total / tokens
    llama, llama_reference = to_llama(model), to_llama(reference)
    if isinstance(config, DistillConfig):
        made, rows = distill_batch(seed, empty=empty)
        objective = Distill(config, reference, vocab_size=VOCAB, hidden_size=16)
        theirs = trl_gkd(config, llama, llama_reference, rows, side)
        return {"": model}, objective(model, made), llama, theirs
    if isinstance(config, RlooConfig):
        batch, inputs = rloo_batch(config, seed, model, moved=case.moved, empty=empty)
        return {"": model}, Rloo(config)(model, batch), llama, trl_rloo(llama, config, inputs)[0]
    batch, inputs = rollout_batch(seed, config, moved=case.moved, empty=empty)
    theirs, _ = trl_grpo(llama, llama_reference, config, inputs)
    return {"": model}, Grpo(config, reference)(model, batch), llama, theirs


def policy_difference(
    case: PolicyCase, seed: int, side: str = "", *, empty: bool = False
) -> tuple[float, float]:
    """Relative difference of the loss, and of the worst weight's gradient to the largest gradient."""
    modules, output, llama, theirs = ours_and_theirs(case, seed, side, empty=empty)
    loss = output.loss_sum / output.weight
    of_loss = abs(loss.item() - theirs.item()) / max(SMALL, abs(theirs.item()))
    named = {
        prefix + name: p
        for prefix, module in modules.items()
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    found = gradients(loss, named)
    if llama is None:
        other = gradients(theirs, named)
    else:
        theirs.backward()
        found = pieces(modules[""], found)
        other = {name: p.grad for name, p in llama.named_parameters()}
    largest = max(float(other[name].abs().max()) for name in found)
    assert largest > 0, "nothing to compare"
    worst = max(float((ours - other[name]).abs().max()) for name, ours in found.items())
    return of_loss, worst / largest


def gradients(loss: Tensor, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of each tensor, zeros where the loss does not know it."""
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    pairs = zip(named.items(), found, strict=True)
    return {name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in pairs}
