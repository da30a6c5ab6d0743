"""SFT, DPO and GRPO against transformers and trl: losses and gradients of the same weights.

All in float64 unless said otherwise. Against formulas written out here the tolerance is EXACT, two
orders above what another order of summation changes. Against transformers' models it is ROUNDED:
their norms and rotary tables pass through float32 whatever the weights' type.
"""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from torch import Tensor
from trl.trainer import dpo_trainer, grpo_trainer, rloo_trainer, sft_trainer
from trl.trainer.utils import add_fused_lm_head, nanstd

from glassbox.data.conversations import write_chat_shard
from glassbox.data.loader import PackedRows
from glassbox.data.preferences import EncodedPair, preference_batch
from glassbox.data.shards import read_shard
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.tokenizers import train_bpe
from glassbox.training.next_token import NextToken
from glassbox.tuning import dpo as dpo_module
from glassbox.tuning import grpo as grpo_module
from glassbox.tuning import log_probs as log_probs_module
from glassbox.tuning import rloo as rloo_module
from glassbox.tuning.answers import RolloutBatch
from glassbox.tuning.dpo import Dpo, DpoConfig, reference_log_probs
from glassbox.tuning.grpo import Grpo, GrpoConfig, group_advantages
from glassbox.tuning.log_probs import answer_log_probs, sequence_log_probs
from glassbox.tuning.ppo import Ppo, PpoConfig, value_model
from glassbox.tuning.rloo import Rloo, RlooConfig, leave_one_out
from support.twins import (
    EXACT,
    VOCAB,
    Accelerator,
    differs,
    same_gradients,
    share,
    tiny,
    to_llama,
)

# ---- log-probabilities ----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_answer_log_probs_are_those_of_a_loop_over_transformers_logits(temperature: float) -> None:
    model = tiny(0)
    llama = to_llama(model)
    batch = preference_batch(ragged_pairs(0))
    ours = answer_log_probs(model, batch.ids, batch.targets, temperature=temperature).detach()
    for row in range(len(batch.ids)):
        for t in range(batch.ids.shape[1]):
            target = int(batch.targets[row, t])
            expected = 0.0
            if target != IGNORE:
                logits = llama(batch.ids[row : row + 1, : t + 1]).logits[0, -1] / temperature
                expected = float(torch.log_softmax(logits, dim=-1)[target])
            assert not differs(float(ours[row, t]), expected)


# ---- DPO ------------------------------------------------------------------------------------


def ragged(generator: torch.Generator, low: int, high: int) -> list[int]:
    count = int(torch.randint(low, high + 1, (), generator=generator))
    return torch.randint(1, VOCAB, (count,), generator=generator).tolist()


def raw_pairs(seed: int, count: int = 5) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen, rejected: prompts of a single id and answers of a single id among them."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [
        (ragged(generator, 1, 12), ragged(generator, 1, 9), ragged(generator, 1, 14))
        for _ in range(count - 1)
    ]
    return [*pairs, (ragged(generator, 1, 1), ragged(generator, 1, 1), ragged(generator, 6, 6))]


def ragged_pairs(seed: int) -> list[EncodedPair]:
    return [
        EncodedPair(
            prompt + chosen,
            [0] * len(prompt) + [1] * len(chosen),
            prompt + rejected,
            [0] * len(prompt) + [1] * len(rejected),
        )
        for prompt, chosen, rejected in raw_pairs(seed)
    ]


def trl_dpo(
    llama: torch.nn.Module, reference: torch.nn.Module, config: DpoConfig, seed: int
) -> tuple[float, dict[str, float]]:
    """trl's loss (a mean over pairs) with its gradients in llama, and its metrics."""
    trainer = dpo_trainer.DPOTrainer.__new__(dpo_trainer.DPOTrainer)
    # "aot" sorts a batch's margins; with the pairs one by one it is the smoothed sigmoid loss
    smoothed = config.label_smoothing > 0
    vars(trainer).update(
        model=llama,
        ref_model=reference.eval().requires_grad_(False),
        accelerator=Accelerator(),
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        beta=config.beta,
        loss_types=["aot" if smoothed else config.loss],
        loss_weights=[1.0],
        label_smoothing=config.label_smoothing,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    add_fused_lm_head(llama, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    add_fused_lm_head(reference)
    collate = dpo_trainer.DataCollatorForPreference(pad_token_id=0)
    rows = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in raw_pairs(seed)
    ]
    batches = [[row] for row in rows] if smoothed else [rows]
    losses = [trainer._compute_loss(llama, collate(batch), False) for batch in batches]
    loss = torch.stack(losses).mean()
    loss.backward()
    metrics = {key: sum(v) / len(v) for key, v in trainer._metrics["train"].items() if v}
    return float(loss), metrics


DPO_CONFIGS = [
    DpoConfig(beta=0.3),
    DpoConfig(beta=0.1, label_smoothing=0.2),
    DpoConfig(beta=0.2, loss="ipo"),
    DpoConfig(beta=0.4, loss="hinge"),
]


def dpo_agrees(config: DpoConfig, seed: int) -> bool:
    model, reference = tiny(seed), tiny(seed + 100)
    llama, llama_reference = to_llama(model), to_llama(reference)
    expected, metrics = trl_dpo(llama, llama_reference, config, seed)
    output = Dpo(config, reference)(model, preference_batch(ragged_pairs(seed)))
    (output.loss_sum / output.weight).backward()
    if differs(float(output.loss_sum) / output.weight, expected):
        return False
    names = {
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
        "reward_margin": "rewards/margins",
        "reward_accuracy": "rewards/accuracies",
    }
    for ours, theirs in names.items():
        if differs(share(output.metrics[ours]), metrics[theirs]):
            return False
    return same_gradients(model, llama)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", DPO_CONFIGS, ids=lambda c: f"{c.loss}-{c.label_smoothing}")
def test_dpo_has_trls_loss_gradients_and_metrics(config: DpoConfig, seed: int) -> None:
    assert dpo_agrees(config, seed)


@pytest.mark.parametrize("seed", range(3))
def test_dpo_is_the_papers_formula_pair_by_pair(seed: int) -> None:
    """Equation 7 of arXiv:2305.18290 on plain logits, one answer at a time, nothing padded."""
    model, reference = tiny(seed), tiny(seed + 100)

    def score(which: CausalLM, prompt: list[int], answer: list[int]) -> Tensor:
        log_p = torch.log_softmax(which(torch.tensor([prompt + answer]))[0], dim=-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        return torch.stack([log_p[t, y] for t, y in zip(places, answer, strict=True)]).sum()

    total = torch.zeros((), dtype=torch.float64)
    for prompt, chosen, rejected in raw_pairs(seed):
        with torch.no_grad():
            leash = score(reference, prompt, chosen) - score(reference, prompt, rejected)
        margin = score(model, prompt, chosen) - score(model, prompt, rejected) - leash
        total = total - torch.log(1 / (1 + torch.exp(-0.3 * margin)))
    total.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    output = Dpo(DpoConfig(beta=0.3), reference)(model, preference_batch(ragged_pairs(seed)))
    output.loss_sum.backward()
    assert not differs(float(output.loss_sum), float(total), EXACT)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=EXACT)


def test_scores_computed_beforehand_give_the_same_loss_and_gradients() -> None:
    """In float32 as people train: 1e-5 relative, the scores are sums of a dozen log-probabilities."""
    model, reference = tiny(0).float(), tiny(100).float()
    pairs = ragged_pairs(0)
    batch = preference_batch(pairs)
    asked = Dpo(DpoConfig(), reference)(model, batch)
    asked.loss_sum.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    scores = reference_log_probs(reference, pairs, pairs_per_batch=2)
    assert torch.equal(scores, reference_log_probs(reference, pairs, pairs_per_batch=2))
    known = Dpo(DpoConfig())(model, preference_batch(pairs, scores))
    known.loss_sum.backward()
    torch.testing.assert_close(known.loss_sum, asked.loss_sum, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


# ---- GRPO -----------------------------------------------------------------------------------


def raw_rollout(seed: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion), two groups of four with a prompt each; one completion of a single id."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [ragged(generator, 2, 9), ragged(generator, 1, 4)]
    rows = [(prompt, ragged(generator, 2, 10)) for prompt in prompts for _ in range(4)]
    rows[2] = (rows[2][0], [3])
    return rows


def rollout_batch(
    seed: int, config: GrpoConfig, *, moved: bool, masked: int | None = None
) -> tuple[RolloutBatch, dict[str, Tensor]]:
    """Our batch, and the same as trl's inputs: prompts padded on the left, answers on the right."""
    rows = raw_rollout(seed)
    generator = torch.Generator().manual_seed(seed + 7)
    rewards = torch.rand((2, 4), generator=generator, dtype=torch.float64)
    advantages = group_advantages(rewards).flatten()
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
        ids[row, : len(sequence) - 1] = sequence[:-1]
        start = len(prompt) - 1
        prompt_ids[row, longest_prompt - len(prompt) :] = torch.tensor(prompt)
        prompt_mask[row, longest_prompt - len(prompt) :] = 1
        completion_ids[row, : len(answer)] = torch.tensor(answer)
        if row != masked:
            targets[row, start : start + len(answer)] = torch.tensor(answer)
            completion_mask[row, : len(answer)] = 1
        log_p = torch.log_softmax(sampler(sequence[None]) / config.temperature, dim=-1)
        drawn = log_p[0, start:-1].gather(-1, torch.tensor(answer)[:, None]).squeeze(-1).detach()
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
        scales=1 / lengths if config.normalization == "grpo" else torch.ones_like(lengths),
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
    llama: torch.nn.Module,
    reference: torch.nn.Module,
    config: GrpoConfig,
    inputs: dict[str, Tensor],
) -> tuple[float, dict[str, float]]:
    trainer = grpo_trainer.GRPOTrainer.__new__(grpo_trainer.GRPOTrainer)
    vars(trainer).update(
        model=llama,
        accelerator=Accelerator(),
        args=types.SimpleNamespace(
            delta=None, use_bias_correction_kl=False, steps_per_generation=1
        ),
        aux_loss_enabled=False,
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
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
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
    loss.backward()
    return float(loss), {key: v[-1] for key, v in trainer._metrics["train"].items()}


def grpo_agrees(config: GrpoConfig, seed: int, *, moved: bool, masked: int | None = None) -> bool:
    model, reference = tiny(seed), tiny(seed + 100)
    llama, llama_reference = to_llama(model), to_llama(reference)
    batch, inputs = rollout_batch(seed, config, moved=moved, masked=masked)
    expected, metrics = trl_grpo(llama, llama_reference, config, inputs)
    output = Grpo(config, reference)(model, batch)
    (output.loss_sum / output.weight).backward()
    if differs(float(output.loss_sum) / output.weight, expected):
        return False
    # trl averages a sequence's clip over answers, we over their tokens
    by_token = config.ratio == "token"
    if by_token and differs(
        share(output.metrics["clip_fraction"]), metrics["clip_ratio/region_mean"]
    ):
        return False
    if config.kl_beta and differs(share(output.metrics["kl"]), metrics["kl"]):
        return False
    return same_gradients(model, llama)


GRPO_CONFIGS = [
    GrpoConfig(
        normalization=normalization, kl_beta=kl_beta, temperature=temperature, clip_high=0.28
    )
    for normalization in ("grpo", "dapo", "dr_grpo")
    for kl_beta, temperature in ((0.0, 1.0), (0.3, 0.7))
]


GSPO_CONFIGS = [
    GrpoConfig(
        normalization="grpo",
        ratio="sequence",
        kl_beta=kl_beta,
        temperature=temperature,
        clip_low=0.03,
        clip_high=0.04,
    )
    for kl_beta, temperature in ((0.0, 1.0), (0.3, 0.7))
]


def grpo_name(config: GrpoConfig) -> str:
    kind = "gspo" if config.ratio == "sequence" else config.normalization
    return f"{kind}-kl{config.kl_beta}-t{config.temperature}"


@pytest.mark.parametrize("moved", [False, True], ids=["fresh", "moved"])
@pytest.mark.parametrize("config", GRPO_CONFIGS + GSPO_CONFIGS, ids=grpo_name)
def test_grpo_has_trls_loss_gradients_and_metrics(config: GrpoConfig, moved: bool) -> None:
    for seed in range(2):
        assert grpo_agrees(config, seed, moved=moved)


@pytest.mark.parametrize("config", GRPO_CONFIGS, ids=grpo_name)
def test_a_masked_answer_counts_as_in_trl(config: GrpoConfig) -> None:
    assert grpo_agrees(config, 0, moved=True, masked=5)


@pytest.mark.parametrize("config", GRPO_CONFIGS, ids=grpo_name)
def test_grpo_is_the_papers_formula_token_by_token(config: GrpoConfig) -> None:
    """Equations 3 and 4 of arXiv:2402.03300; 8 of 2503.14476; 2 of 2503.20783."""
    model, reference = tiny(3), tiny(103)
    batch, _ = rollout_batch(3, config, moved=True)
    total = torch.zeros((), dtype=torch.float64)
    tokens = 0
    num_clipped = 0
    for row, (prompt, answer) in enumerate(raw_rollout(3)):
        sequence = torch.tensor([prompt + answer])
        new = torch.log_softmax(model(sequence)[0] / config.temperature, dim=-1)
        ref = torch.log_softmax(reference(sequence)[0] / config.temperature, dim=-1).detach()
        of_row = torch.zeros((), dtype=torch.float64)
        for k, token in enumerate(answer):
            t = len(prompt) - 1 + k
            ratio = torch.exp(new[t, token] - batch.old_log_probs[row, t])
            advantage = batch.advantages[row]
            clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
            of_row = of_row - torch.min(ratio * advantage, clipped * advantage)
            num_clipped += int(clipped * advantage < ratio * advantage)
            quotient = torch.exp(ref[t, token]) / torch.exp(new[t, token])
            of_row = of_row + config.kl_beta * (quotient - torch.log(quotient) - 1)
        tokens += len(answer)
        total = total + (of_row / len(answer) if config.normalization == "grpo" else of_row)
    divisor = {"grpo": 8, "dapo": tokens, "dr_grpo": 8 * config.max_tokens}[config.normalization]
    (total / divisor).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    output = Grpo(config, reference)(model, batch)
    (output.loss_sum / output.weight).backward()
    assert not differs(float(output.loss_sum) / output.weight, float(total) / divisor, EXACT)
    assert tuple(map(int, output.metrics["clip_fraction"])) == (num_clipped, tokens)
    assert 0 < num_clipped < tokens
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=EXACT)


def rloo_agrees(config: RlooConfig, seed: int, *, moved: bool) -> bool:
    """trl's RLOOTrainer: loss and gradients of whole answers."""
    model = tiny(seed)
    llama = to_llama(model)
    batch, inputs = rollout_batch(seed, GrpoConfig(temperature=config.temperature), moved=True)
    old = inputs.pop("old_per_token_logps")
    if not moved:  # the policy's own
        scored = answer_log_probs(
            model, batch.ids, batch.targets, temperature=config.temperature
        ).detach()
        inputs["old_logps"] = scored.sum(dim=-1)
        batch.old_log_probs = None
    else:
        inputs["old_logps"] = (old * inputs["completion_mask"]).sum(dim=-1)
        # whole answers move far: brought near, so that some ratios are clipped and some are not
        scored = answer_log_probs(model, batch.ids, batch.targets).detach()
        near = scored + 0.05 * torch.randn(
            scored.shape, generator=torch.Generator().manual_seed(seed), dtype=scored.dtype
        )
        batch.old_log_probs = near  # what stands at masked places does not count
        inputs["old_logps"] = torch.where(batch.targets != IGNORE, near, 0.0).sum(dim=-1)
    batch.weight = 8.0
    trainer = rloo_trainer.RLOOTrainer.__new__(rloo_trainer.RLOOTrainer)
    vars(trainer).update(
        model=llama,
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high,
        temperature=config.temperature,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
    )
    add_fused_lm_head(llama, temperature=config.temperature, outputs=("log_probs", "entropy"))
    expected = trainer._compute_loss(llama, inputs)
    expected.backward()
    output = Rloo(config)(model, batch)
    (output.loss_sum / output.weight).backward()
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    if moved and not 0 < clipped < 1:
        raise AssertionError("this batch shows nothing of the clip")
    return (
        not differs(float(output.loss_sum) / 8, float(expected))
        and not differs(share(output.metrics["clip_fraction"]), clipped)
        and same_gradients(model, llama)
    )


@pytest.mark.parametrize("moved", [False, True], ids=["fresh", "moved"])
@pytest.mark.parametrize("seed", range(2))
def test_rloo_has_trls_loss_gradients_and_clip(seed: int, moved: bool) -> None:
    assert rloo_agrees(RlooConfig(clip_low=0.1, clip_high=0.1), seed, moved=moved)


def test_a_mean_over_an_answers_tokens_is_caught_in_rloo(planted: pytest.MonkeyPatch) -> None:
    right = answer_log_probs

    def wrong(model, ids, targets, *, temperature=1.0):  # type: ignore[no-untyped-def]
        scores = right(model, ids, targets, temperature=temperature)
        return scores / (targets != IGNORE).sum(-1, keepdim=True)

    config = RlooConfig(clip_low=0.1, clip_high=0.1)
    planted.setattr(rloo_module, "answer_log_probs", wrong)
    assert not rloo_agrees(config, 0, moved=False)


def test_ppo_is_the_formula_token_by_token() -> None:
    """Both clips, the value model's loss, and the KL in the loss; gradients of policy and value model."""
    config = PpoConfig(kl_in="loss", kl_beta=0.3, clip=0.2, value_clip=0.1, value_weight=0.7)
    model, reference = tiny(3), tiny(103)
    value = value_model(tiny(50))
    assert value.score is not None
    with torch.no_grad():
        value.score.weight.normal_(generator=torch.Generator().manual_seed(1))
    batch, _ = rollout_batch(3, GrpoConfig(), moved=True)
    generator = torch.Generator().manual_seed(9)
    shape = batch.targets.shape
    tables = torch.randn((3, *shape), generator=generator, dtype=torch.float64)
    batch.advantages, batch.returns, batch.old_values = tables
    total = torch.zeros((), dtype=torch.float64)
    tokens = 0
    for row, (prompt, answer) in enumerate(raw_rollout(3)):
        sequence = torch.tensor([prompt + answer])
        new = torch.log_softmax(model(sequence)[0], dim=-1)
        ref = torch.log_softmax(reference(sequence)[0], dim=-1).detach()
        says = value.hidden_states(sequence)[0] @ value.score.weight[0]
        for k, token in enumerate(answer):
            t = len(prompt) - 1 + k
            ratio = torch.exp(new[t, token] - batch.old_log_probs[row, t])
            advantage, goal, was = (table[row, t] for table in tables)
            total = total - torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            quotient = torch.exp(ref[t, token] - new[t, token])
            total = total + 0.3 * (quotient - torch.log(quotient) - 1)
            held = was + (says[t] - was).clamp(-0.1, 0.1)
            total = total + 0.7 * torch.max((says[t] - goal) ** 2, (held - goal) ** 2) / 2
            tokens += 1
    (total / tokens).backward()
    named = [*model.named_parameters(), *value.named_parameters()]
    expected = [None if p.grad is None else p.grad.clone() for _, p in named]
    model.zero_grad()
    value.zero_grad()
    batch.weight = float(tokens)
    output = Ppo(config, value, reference)(model, batch)
    (output.loss_sum / output.weight).backward()
    assert not differs(float(output.loss_sum), float(total), EXACT)
    for (_, parameter), gradient in zip(named, expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=EXACT)
    assert sum(gradient is not None for gradient in expected) > len(named) / 2 + 1


def test_leave_one_out_is_trls() -> None:
    """trl's lines: baselines = (sum - own) / (G - 1)."""
    rewards = torch.rand((6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    baselines = (torch.nansum(rewards, dim=1, keepdim=True) - rewards) / 4
    torch.testing.assert_close(leave_one_out(rewards), rewards - baselines, rtol=0, atol=1e-12)


def test_advantages_are_trls() -> None:
    """trl's lines: nanmean and nanstd over the group, (r - mean) / (std + 1e-4)."""
    rewards = torch.rand((6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = nanstd(rewards, dim=1)[:, None]
    expected = (rewards - torch.nanmean(rewards, dim=1, keepdim=True)) / (spread + 1e-4)
    torch.testing.assert_close(group_advantages(rewards), expected, rtol=0, atol=1e-12)


# ---- the tests above catch the bugs that such code is known for --------------------------------


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    return monkeypatch


def scoring(change: str):  # type: ignore[no-untyped-def]
    """answer_log_probs with a fault in it."""
    right = log_probs_module.answer_log_probs

    def wrong(model, ids, targets, *, temperature=1.0):  # type: ignore[no-untyped-def]
        if change == "unshifted":  # the logits at t score the token at t
            targets = torch.where(targets == IGNORE, IGNORE, ids)
        elif change == "prompt":  # nothing masked but the padding
            shifted = torch.roll(ids, -1, dims=1)
            targets = torch.where(shifted != 0, shifted, targets)
        elif change == "first":  # each answer's first token dropped
            earlier = torch.roll(targets, 1, dims=1)
            earlier[:, 0] = IGNORE
            targets = torch.where(earlier == IGNORE, IGNORE, targets)
        elif change == "temperature":
            temperature = 1.0
        return right(model, ids, targets, temperature=temperature)

    return wrong


@pytest.mark.parametrize("change", ["unshifted", "prompt", "first", "mean"])
def test_planted_scoring_bugs_are_caught_in_dpo(planted: pytest.MonkeyPatch, change: str) -> None:
    assert dpo_agrees(DPO_CONFIGS[0], 0)

    def sequence(model, ids, targets):  # type: ignore[no-untyped-def]
        scores = scoring(change)(model, ids, targets)
        lengths = (targets != IGNORE).sum(dim=-1) if change == "mean" else 1
        return scores.sum(dim=-1) / lengths

    planted.setattr(dpo_module, "sequence_log_probs", sequence)
    assert not dpo_agrees(DPO_CONFIGS[0], 0)


@pytest.mark.parametrize("change", ["unshifted", "first", "temperature"])
def test_planted_scoring_bugs_are_caught_in_grpo(planted: pytest.MonkeyPatch, change: str) -> None:
    config = GRPO_CONFIGS[1]
    assert grpo_agrees(config, 0, moved=True)
    planted.setattr(grpo_module, "answer_log_probs", scoring(change))
    assert not grpo_agrees(config, 0, moved=True)


def test_a_sequence_ratio_without_its_length_is_caught(planted: pytest.MonkeyPatch) -> None:
    assert all(grpo_agrees(config, 0, moved=True) for config in GSPO_CONFIGS)
    right = grpo_module.sequence_ratios

    def wrong(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
        return right(new, old, mask) * mask.sum(-1, keepdim=True)

    planted.setattr(grpo_module, "sequence_ratios", wrong)
    assert not grpo_agrees(GSPO_CONFIGS[0], 0, moved=True)


def test_a_reversed_kl_is_caught(planted: pytest.MonkeyPatch) -> None:
    right = grpo_module.kl_to_reference
    planted.setattr(grpo_module, "kl_to_reference", lambda p, q: right(q, p))
    assert not grpo_agrees(GRPO_CONFIGS[1], 0, moved=True)


def test_a_negated_kl_is_caught(planted: pytest.MonkeyPatch) -> None:
    right = grpo_module.kl_to_reference
    planted.setattr(grpo_module, "kl_to_reference", lambda p, q: -right(p, q))
    assert not grpo_agrees(GRPO_CONFIGS[1], 0, moved=True)


def test_a_clip_without_the_minimum_is_caught(planted: pytest.MonkeyPatch) -> None:
    def wrong(new, old, advantages, *, clip_low, clip_high):  # type: ignore[no-untyped-def]
        ratio = (new - old).exp()
        return -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages[:, None], ratio > 9

    planted.setattr(grpo_module, "policy_losses", wrong)
    assert not grpo_agrees(GRPO_CONFIGS[0], 0, moved=True)


def test_a_reference_that_is_not_frozen_is_caught() -> None:
    """Were the reference's scores differentiable, its parameters would receive gradients."""
    model, reference = tiny(0), tiny(100)
    batch = preference_batch(ragged_pairs(0))
    objective = Dpo(DpoConfig(), reference)
    objective(model, batch).loss_sum.backward()
    assert all(p.grad is None and not p.requires_grad for p in reference.parameters())
    assert not reference.training
    for parameter in reference.parameters():
        parameter.requires_grad_(True)
    objective(model, batch).loss_sum.backward()
    assert all(p.grad is None for p in reference.parameters())
    live = sequence_log_probs(model, batch.ids, batch.targets) - sequence_log_probs(
        reference, batch.ids, batch.targets
    )
    live.sum().backward()
    assert any(p.grad is not None for p in reference.parameters())


# ---- SFT ------------------------------------------------------------------------------------

CHATS = [
    [
        {"role": "user", "content": "Who has the kite?"},
        {"role": "assistant", "content": "Mia has it."},
    ],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And the ball?"},
        {"role": "assistant", "content": "Tom."},
        {"role": "user", "content": "Where <|im_end|> is he?"},
        {"role": "assistant", "content": "By the pond, with a frog."},
    ],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "?"}],
]


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    texts = [message["content"] for chat in CHATS for message in chat]
    tokenizer = train_bpe(texts, 320)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return tokenizer, transformers.AutoTokenizer.from_pretrained(folder)


def test_sft_has_trls_labels_loss_and_gradients(chat_tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Ours packed into rows; trl's one conversation a row, through its own preparation and loss."""
    ours, theirs = chat_tokenizer
    model = tiny(0, ours.vocab_size)
    llama = to_llama(model)
    # a special token spelled by a user is text to us, and control to transformers: not compared here
    chats = [
        [{**m, "content": m["content"].replace("<|im_end|>", "then")} for m in chat]
        for chat in CHATS
    ]
    write_chat_shard(tmp_path / "chats", chats, ours, row_length=90)
    rows = PackedRows(read_shard(tmp_path / "chats", fingerprint=ours.fingerprint), 90)
    assert len(rows) < len(chats)
    batch = rows.batch(range(len(rows)))
    output = NextToken()(model, batch)
    (output.loss_sum / output.weight).backward()

    arguments = sft_trainer.SFTConfig(
        output_dir=str(tmp_path / "trl"),
        assistant_only_loss=True,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        per_device_train_batch_size=3,
    )
    trainer = sft_trainer.SFTTrainer(
        model=llama,
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": chat} for chat in chats]),
        processing_class=theirs,
    )
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(chats))])
    trained = int((inputs["labels"][:, 1:] != IGNORE).sum())
    assert output.weight == trained
    documents = {tuple(ids) for ids in rows_of(batch)}
    assert documents == {
        tuple(label for label in row.tolist() if label != IGNORE) for row in inputs["labels"]
    }
    loss = trainer.compute_loss(llama, inputs, num_items_in_batch=torch.tensor(trained))
    loss.backward()
    assert not differs(share((output.loss_sum, output.weight)), float(loss))
    assert same_gradients(model, llama)


def rows_of(batch) -> list[list[int]]:  # type: ignore[no-untyped-def]
    """The trained targets of each packed document, in order."""
    found: dict[tuple[int, int], list[int]] = {}
    for row in range(len(batch.ids)):
        for target, document in zip(
            batch.targets[row].tolist(), batch.documents[row].tolist(), strict=True
        ):
            if target != IGNORE:
                found.setdefault((row, document), []).append(target)
    return list(found.values())


def test_sft_loss_is_transformers_on_the_documents_apart(chat_tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ours, _ = chat_tokenizer
    model = tiny(1, ours.vocab_size)
    llama = to_llama(model)
    write_chat_shard(tmp_path / "chats", CHATS, ours, row_length=90)
    rows = PackedRows(read_shard(tmp_path / "chats"), 90)
    output = NextToken()(model, rows.batch(range(len(rows))))
    output.loss_sum.backward()
    total = torch.zeros((), dtype=torch.float64)
    for chat in CHATS:
        ids, mask = (torch.tensor([column]) for column in ours.encode_chat(chat))
        labels = torch.where(mask == 1, ids, IGNORE)
        total = total + llama(ids, labels=labels).loss.double() * (labels[:, 1:] != IGNORE).sum()
    total.backward()
    assert not differs(float(output.loss_sum), float(total))
    assert same_gradients(model, llama)
