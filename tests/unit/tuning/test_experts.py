"""Experts are balanced by every objective: their losses and their bias, over real tokens alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glassbox.data.feedback import FeedbackBatch
from glassbox.data.loader import TokenBatch
from glassbox.data.preferences import PreferenceBatch
from glassbox.data.scored import JudgedSteps, ScoredPairs
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts, MixtureOfExpertsLayer
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.ops.cross_entropy import IGNORE
from glassbox.optim.adamw import AdamW
from glassbox.optim.groups import decay_groups
from glassbox.training.config import TrainConfig
from glassbox.training.loop import Trainer
from glassbox.training.next_token import NextToken
from glassbox.tuning.distillation.objective import Distill, DistillConfig
from glassbox.tuning.policy.answers import RolloutBatch
from glassbox.tuning.policy.grpo import Grpo, GrpoConfig
from glassbox.tuning.policy.ppo import Ppo, PpoConfig, value_model
from glassbox.tuning.policy.rloo import Rloo, RlooConfig
from glassbox.tuning.preference.dpo import Dpo, DpoConfig
from glassbox.tuning.preference.kto import Kto, KtoConfig
from glassbox.tuning.preference.reference_free import OrpoConfig, ReferenceFree
from glassbox.tuning.preference.reward import BradleyTerry, BradleyTerryConfig, StepJudge

VOCAB, SIZE, EXPERTS, TOP = 23, 16, 4, 2
BALANCE, Z = 0.3, 0.05
LENGTHS = (9, 5, 7, 4)  # what is read of four rows: up to the last token with a target
PROMPT = 2
# float64: one sum in two orders
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def model_of(seed: int = 0, **losses: float) -> CausalLM:
    experts = MixtureOfExperts(
        num_experts=EXPERTS, top_k=TOP, expert=SwiGlu(size=8), balance_bias=True, **losses
    )
    block = BlockSpec(mixer=GroupedQuery(num_heads=2, positions=Rotary()), ffn=experts)
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=SIZE,
        context_length=16,
        blocks=(Repeat(block=block, times=2),),
        score_head=True,
    )
    model = CausalLM(config).double()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def rows() -> tuple[Tensor, Tensor]:
    """Ids and targets of four answers, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCAB, (4, max(LENGTHS) + 2), generator=generator)
    targets = torch.full_like(ids, IGNORE)
    for row, length in enumerate(LENGTHS):
        targets[row, PROMPT:length] = ids[row, PROMPT + 1 : length + 1]
        ids[row, length + 1 :] = 0
    return ids, targets


def rollout() -> RolloutBatch:
    ids, targets = rows()
    advantages = torch.tensor([1.0, -0.5, 0.3, -1.2], dtype=torch.float64)
    zeros = torch.zeros(ids.shape, dtype=torch.float64)
    old = torch.full_like(zeros, -3.0)
    return RolloutBatch(
        ids,
        targets,
        advantages,
        torch.ones(4, dtype=torch.float64),
        old,
        weight=13.0,
        returns=zeros,
        old_values=zeros,
    )


def judged() -> JudgedSteps:
    ids, _ = rows()
    labels = torch.full_like(ids, IGNORE)
    for row, length in enumerate(LENGTHS):
        labels[row, length - 1], labels[row, 1] = row % 2, 1
    return JudgedSteps(ids, labels)


def packed() -> TokenBatch:
    ids, targets = rows()
    places = torch.arange(ids.shape[1])
    documents = torch.where(places < torch.tensor(LENGTHS)[:, None], 0, -1)
    return TokenBatch(ids, targets, documents)


def case_of(name: str) -> tuple[Any, Any, float]:
    """An objective, its batch, and the weight by which its sum is divided."""
    ids, targets = rows()
    pairs = PreferenceBatch(ids, targets)
    reference = model_of(seed=5)
    answers = float(sum(length - PROMPT for length in LENGTHS))
    ends = torch.tensor(LENGTHS) - 1
    desirable = torch.tensor([True, False, True, True])
    feedback = FeedbackBatch(ids, targets, desirable, ids.flip(0), targets.flip(0))
    grpo = GrpoConfig(normalization="grpo")
    make: dict[str, Callable[[], tuple[Any, Any, float]]] = {
        "sft": lambda: (NextToken(), packed(), answers),
        "dpo": lambda: (Dpo(DpoConfig(), reference), pairs, 2.0),
        "orpo": lambda: (ReferenceFree(OrpoConfig(prompt_loss=False)), pairs, 2.0),
        "kto": lambda: (Kto(KtoConfig(), reference), feedback, 4.0),
        "grpo": lambda: (Grpo(grpo), rollout(), 13.0),
        "rloo": lambda: (Rloo(RlooConfig()), rollout(), 13.0),
        "ppo": lambda: (Ppo(PpoConfig(), value_model(model_of(seed=6))), rollout(), 13.0),
        "reward": lambda: (
            BradleyTerry(BradleyTerryConfig()),
            ScoredPairs(ids, ends, torch.zeros(2, dtype=torch.float64)),
            2.0,
        ),
        "process": lambda: (StepJudge(), judged(), 8.0),
        "distill": lambda: (
            Distill(DistillConfig(), reference, vocab_size=VOCAB, hidden_size=SIZE),
            packed(),
            answers,
        ),
        "distill on answers": lambda: (
            Distill(DistillConfig(), reference, vocab_size=VOCAB, hidden_size=SIZE),
            rollout(),
            answers,
        ),
    }
    return make[name]()


NAMES = (
    "sft", "dpo", "orpo", "kto", "grpo", "rloo", "ppo", "reward", "process", "distill",
    "distill on answers",
)  # fmt: skip


def losses_by_hand(heard: list[tuple[MixtureOfExpertsLayer, Tensor]]) -> Tensor:
    """The balancing and the z-loss of every layer, from what it read, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for layer, hidden in heard:
        tokens = [
            hidden[row, place] for row, length in enumerate(LENGTHS) for place in range(length)
        ]
        shares = torch.zeros(EXPERTS, dtype=torch.float64)
        mean = torch.zeros(EXPERTS, dtype=torch.float64)
        squares = torch.zeros((), dtype=torch.float64)
        for token in tokens:
            logits = layer.router.weight @ token
            probabilities = logits.softmax(-1)
            for expert in probabilities.topk(TOP).indices.tolist():
                shares[expert] += 1 / len(tokens)
            mean = mean + probabilities / len(tokens)
            squares = squares + logits.logsumexp(-1) ** 2 / len(tokens)
        total = total + BALANCE * EXPERTS * (shares * mean).sum() + Z * squares
    return total


def gradients(value: Tensor, model: CausalLM) -> dict[str, Tensor]:
    named = [(name, p) for name, p in model.named_parameters()]
    found = torch.autograd.grad(value, [p for _, p in named], retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(p) if one is None else one
        for (name, p), one in zip(named, found, strict=True)
    }


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_the_objectives_own_and_the_experts(name: str) -> None:
    objective, batch, weight = case_of(name)
    plain, balanced = model_of(), model_of(balance_loss=BALANCE, z_loss=Z)
    balanced.load_state_dict(plain.state_dict())
    own = objective(plain, batch)
    assert float(own.weight) == weight
    assert "main_loss" not in own.metrics
    assert own.metrics["router_entropy"][0] > 0

    heard: list[tuple[MixtureOfExpertsLayer, Tensor]] = []
    for layer in balanced.modules():
        if isinstance(layer, MixtureOfExpertsLayer):
            layer.register_forward_hook(lambda m, inputs, _: heard.append((m, inputs[0])))
    torch.manual_seed(0)
    whole = objective(balanced, batch)
    heard = [(layer, hidden) for layer, hidden in heard if hidden.requires_grad]
    assert len(heard) == 2
    extra = losses_by_hand(heard) * weight
    torch.testing.assert_close(whole.loss_sum, own.loss_sum + extra, **CLOSE)
    assert float(extra.detach()) > 0.1 * weight
    main = whole.metrics["main_loss"]
    torch.testing.assert_close(main[0] / main[1], (own.loss_sum / weight).detach(), **CLOSE)

    together, alone, added = (
        gradients(whole.loss_sum, balanced),
        gradients(own.loss_sum, plain),
        gradients(extra, balanced),
    )
    for key, gradient in together.items():
        torch.testing.assert_close(gradient, alone[key] + added[key], **CLOSE, msg=key)
    assert added["blocks.0.ffn.router.weight"].abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_bias_counts_real_tokens_and_no_others(name: str) -> None:
    objective, batch, _ = case_of(name)
    model = model_of()
    objective(model, batch)
    for layer in model.modules():
        if isinstance(layer, MixtureOfExpertsLayer):
            assert int(layer._pending_load.sum()) == TOP * sum(LENGTHS)


class Same:
    """The same batch, every step."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def next_step(self) -> list[Any]:
        return [self.batch]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize("name", NAMES)
def test_the_loop_moves_the_bias_toward_even_loads(name: str, tmp_path: Path) -> None:
    objective, batch, _ = case_of(name)
    model = model_of(balance_rate=0.01)
    before = copy.deepcopy(model)
    objective(before, batch)
    wanted = [
        0.01 * torch.sign(load.mean() - load)
        for layer in before.modules()
        if isinstance(layer, MixtureOfExpertsLayer)
        for load in [layer._pending_load.double()]
    ]
    assert any(bool(step.abs().max() > 0) for step in wanted)
    optimizer = AdamW(decay_groups(model.named_parameters(), 0.0))
    config = TrainConfig(steps=1, lr=1e-3, schedule={"kind": "constant"})
    Trainer(model, objective, Same(batch), optimizer, config, folder=tmp_path).run()
    layers = [layer for layer in model.modules() if isinstance(layer, MixtureOfExpertsLayer)]
    for layer, step in zip(layers, wanted, strict=True):
        torch.testing.assert_close(layer.balance_bias, step.to(layer.balance_bias), **CLOSE)
