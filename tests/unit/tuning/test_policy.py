"""PPO, RLOO and GRPO's variants: their sources, what they learn, their minibatches, resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glassbox.core.config import parse
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.inference import Engine
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.optim.adamw import AdamW
from glassbox.optim.groups import decay_groups
from glassbox.training.config import TrainConfig
from glassbox.training.loop import Trainer
from glassbox.tuning.policy.answers import Rollout, RolloutBatch
from glassbox.tuning.policy.grpo import Grpo, GrpoConfig, RolloutSource
from glassbox.tuning.policy.ppo import (
    Ppo,
    PpoConfig,
    PpoSource,
    generalized_advantages_plain,
    token_values,
    value_model,
)
from glassbox.tuning.policy.rloo import Rloo, RlooConfig, RlooSource
from support.policy_problems import PROBLEMS, TOKENIZER, letters, model

# ---- PPO ------------------------------------------------------------------------------------

SMALL = PpoConfig(prompts_per_step=6, max_tokens=8, updates_per_rollout=2, kl_beta=0.1)


def ppo(config: PpoConfig = SMALL, seed: int = 0) -> tuple[CausalLM, Ppo, PpoSource]:
    policy, reference = model(seed), model(seed + 5)
    value = value_model(policy)
    with torch.no_grad():
        assert value.score is not None
        value.score.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(seed))
    source = PpoSource(
        Engine(policy, TOKENIZER), PROBLEMS, letters, config, value=value,
        reference=reference if config.kl_beta else None,
    )  # fmt: skip
    return policy, Ppo(config, value, reference if config.kl_beta else None), source


def test_every_token_is_paid_as_a_loop_says() -> None:
    """Rewards, values, advantages before whitening, and returns, one answer at a time from plain logits."""
    config = SMALL.model_copy(update={"whiten_advantages": False, "gamma": 0.9})
    policy, objective, source = ppo(config)
    answers, metrics = source._roll_out()
    assert source.reference is not None
    kl_total = 0.0
    for answer in answers:
        prompt = source.problems[answer.problem][0]
        ids = torch.tensor([prompt + answer.token_ids])
        scores = []
        for which in (policy, source.reference.model):
            log_p = torch.log_softmax(which(ids)[0], dim=-1)
            places = range(len(prompt) - 1, ids.shape[1] - 1)
            scores.append(
                [float(log_p[t, y]) for t, y in zip(places, answer.token_ids, strict=True)]
            )
        values = objective.value.scores(objective.value.hidden_states(ids))[0, len(prompt) - 1 : -1]
        text = source.engine.tokenizer.decode(answer.token_ids, skip_special=True)
        rewards = [-0.1 * (new - ref) for new, ref in zip(*scores, strict=True)]
        kl_total += sum(new - ref for new, ref in zip(*scores, strict=True))
        rewards[-1] += letters(text, {})
        expected = generalized_advantages_plain(
            rewards, values.tolist(), gamma=0.9, gae_lambda=0.95
        )
        assert answer.advantages == pytest.approx(expected, abs=1e-5)
        assert answer.values == pytest.approx(values.tolist(), abs=1e-5)
        returns = [a + v for a, v in zip(expected, values.tolist(), strict=True)]
        assert answer.returns == pytest.approx(returns, abs=1e-5)
    assert metrics["kl"][0] == pytest.approx(kl_total, abs=1e-4)
    assert kl_total != 0


def test_short_answers_and_a_tools_tokens_are_paid_as_a_loop_says() -> None:
    """The grade is on the last token of the model's own, wherever that is; a tool's tokens are stepped over."""
    config = SMALL.model_copy(update={"whiten_advantages": False, "gamma": 0.9})
    _, _, source = ppo(config)
    masks = [[1] * 5, [1, 1], [1, 0, 0, 1, 1, 0], [1]]
    draw = torch.Generator().manual_seed(3)
    values = [
        (torch.randn(len(mask), generator=draw) * torch.tensor(mask)).tolist() for mask in masks
    ]
    lost = [torch.randn(len(mask), generator=draw).tolist() for mask in masks]
    grades = [1.0, -0.5, 2.0, 0.25]
    answers = [
        Rollout(0, [7] * len(mask), False, 0.0, None, mask=mask, values=value)
        for mask, value in zip(masks, values, strict=True)
    ]
    source._advantages(answers, grades, lost)
    for answer, mask, value, cost, grade in zip(answers, masks, values, lost, grades, strict=True):
        own = [place for place, ours in enumerate(mask) if ours]
        rewards = [-cost[place] for place in own]
        rewards[-1] += grade
        expected = generalized_advantages_plain(
            rewards, [value[place] for place in own], gamma=0.9, gae_lambda=0.95
        )
        assert answer.advantages is not None
        assert answer.returns is not None
        assert [answer.advantages[place] for place in own] == pytest.approx(expected, abs=1e-6)
        assert [answer.returns[place] for place in own] == pytest.approx(
            [a + value[place] for a, place in zip(expected, own, strict=True)], abs=1e-6
        )
        others = set(range(len(mask))) - set(own)
        assert all(answer.advantages[place] == 0 for place in others)


def test_kl_is_in_the_reward_or_in_the_loss_and_never_in_both() -> None:
    for where in ("reward", "loss"):
        config = SMALL.model_copy(update={"kl_in": where})
        policy, objective, source = ppo(config)
        (batch,) = source.next_step()
        with_kl = objective(policy, batch)
        assert (source.reference is None) == (where == "loss")
        assert (objective.reference is None) == (where == "reward")
        without = Ppo(config.model_copy(update={"kl_beta": 0.0}), objective.value)(policy, batch)
        same = float(with_kl.loss_sum) == float(without.loss_sum)
        assert same == (where == "reward")
        ungraded = PpoSource(
            source.engine, PROBLEMS, lambda c, p: 0.0, config, value=objective.value,
            reference=source.reference,
        )  # fmt: skip
        answers, _ = ungraded._roll_out()
        paid = [sum(a.returns or []) for a in answers]
        silent = config.model_copy(update={"whiten_advantages": False})
        ungraded.config = silent
        answers, _ = ungraded._roll_out()
        flat = all(
            abs(first - 0.0) < 1e-9
            for a in answers
            for first in [(a.advantages or [0])[-1] + (a.values or [0])[-1]]
        )
        assert flat == (where == "loss"), paid


def test_the_value_model_learns_and_the_policy_is_not_touched_by_its_loss() -> None:
    free = {"kl_beta": 0.0, "value_clip": None}  # the clip would stop it a step from where it was
    policy, objective, source = ppo(SMALL.model_copy(update=free))
    (batch,) = source.next_step()
    silent = RolloutBatch(**{**vars(batch), "advantages": torch.zeros_like(batch.advantages)})
    output = objective(policy, silent)
    (output.loss_sum / output.weight).backward()
    assert all(p.grad is None or float(p.grad.abs().max()) == 0 for p in policy.parameters())
    grads = {n: p.grad for n, p in objective.value.named_parameters() if p.requires_grad}
    assert all(g is not None and float(g.abs().max()) > 0 for g in grads.values())
    first = float(output.metrics["value_loss"][0])
    optimizer = AdamW(decay_groups(objective.value.named_parameters(), 0.0))
    for _ in range(10):
        optimizer.step(1e-2)
        optimizer.zero_grad()
        output = objective(policy, silent)
        (output.loss_sum / output.weight).backward()
    assert float(output.metrics["value_loss"][0]) < first / 2


@pytest.mark.parametrize("minibatches", [1, 2])
def test_ppo_learns_to_write_small_letters(minibatches: int) -> None:
    config = PpoConfig(
        prompts_per_step=48,
        max_tokens=6,
        updates_per_rollout=2 // minibatches,
        minibatches=minibatches,
        kl_beta=0.0,
    )
    policy, objective, source = ppo(config)
    pairs = [*policy.named_parameters()]
    pairs += [(f"value.{n}", p) for n, p in objective.value.named_parameters()]
    optimizer = AdamW(decay_groups(pairs, 0.0))
    rewards = []
    for _ in range(30):
        outputs = [objective(policy, batch) for batch in source.next_step()]
        weight = sum(float(output.weight) for output in outputs)
        (sum(output.loss_sum for output in outputs) / weight).backward()
        optimizer.step(1e-2)
        optimizer.zero_grad()
        if "reward" in outputs[0].metrics:
            total, count = outputs[0].metrics["reward"]
            rewards.append(float(total) / float(count))
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3, rewards


@pytest.mark.parametrize("baseline", ["leave_one_out", "batch"])
def test_rloo_learns_to_write_small_letters(baseline: Any) -> None:
    config = RlooConfig(
        prompts_per_step=8, group_size=6, max_tokens=6, kl_beta=0.001, baseline=baseline,
        normalize_advantages=True,
    )  # fmt: skip
    policy = model()
    source = RlooSource(Engine(policy, TOKENIZER), PROBLEMS, letters, config, reference=model())
    optimizer = AdamW(decay_groups(policy.named_parameters(), 0.0))
    rewards = []
    for _ in range(30):
        (batch,) = source.next_step()
        output = Rloo(config)(policy, batch)
        (output.loss_sum / output.weight).backward()
        optimizer.step(1e-2)
        optimizer.zero_grad()
        rewards.append(batch.metrics["reward"][0] / batch.metrics["reward"][1])
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3, rewards


def test_rloos_first_update_is_reinforce() -> None:
    """-A grad log p(answer), mean over answers, without a ratio: the gradients, in float64."""
    config = RlooConfig(prompts_per_step=3, group_size=3, max_tokens=6, kl_beta=0.2)
    policy, reference = model().double(), model(3).double()
    source = RlooSource(Engine(policy, TOKENIZER), PROBLEMS, letters, config, reference=reference)
    (batch,) = source.next_step()
    output = Rloo(config)(policy, batch)
    (output.loss_sum / output.weight).backward()
    found = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()
    log_p = torch.log_softmax(policy(batch.ids), dim=-1)
    mask = batch.targets != IGNORE
    chosen = log_p.gather(-1, batch.targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    loss = -((chosen * mask).sum(-1) * batch.advantages).mean()
    loss.backward()
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-9)
    assert batch.old_log_probs is None
    assert abs(float(batch.advantages.view(3, 3).sum())) < 1e-5


# ---- minibatches ----------------------------------------------------------------------------


def rows_of(batches: list[RolloutBatch]) -> list[tuple[float, ...]]:
    """What each row is trained on, whatever batch it is in."""
    found = []
    for batch in batches:
        tables = [batch.ids, batch.targets, batch.advantages, batch.returns, batch.old_values]
        for row in range(len(batch.ids)):
            kept = batch.targets[row] != IGNORE
            found.append(tuple(x for t in tables for x in t[row][kept].tolist()))
    return sorted(found)


def test_the_minibatches_of_a_pass_are_its_answers_in_another_order_each_time() -> None:
    """At fixed weights their losses, gradients' sums and weights add up to those of the whole."""
    config = SMALL.model_copy(update={"prompts_per_step": 7, "group_size": 2})
    _, objective, source = ppo(config)
    (whole,) = source.next_step()
    policy, objective, source = ppo(config.model_copy(update={"minibatches": 3}))
    passes = [[source.next_step() for _ in range(3)] for _ in range(2)]
    for steps in passes:
        assert rows_of([batch for step in steps for batch in step]) == rows_of([whole])
        assert [sum(len(batch.ids) for batch in step) for step in steps] == [4, 5, 5]
        assert sum(step[0].weight for step in steps) == whole.weight
        outputs = [objective(policy, batch) for step in steps for batch in step]
        loss = sum(output.loss_sum.item() for output in outputs)
        assert loss == pytest.approx(objective(policy, whole).loss_sum.item(), rel=1e-5)
    assert [rows_of(step) for step in passes[0]] != [rows_of(step) for step in passes[1]]
    assert source.cursor == 7
    assert passes[0][0][0].metrics
    assert not any(step[0].metrics for step in [*passes[0][1:], *passes[1]])
    with pytest.raises(UserError, match="more than the 14 answers"):
        parse(PpoConfig, {**config.model_dump(), "minibatches": 15}, where="ppo")


def test_ranks_deal_out_the_same_minibatches_as_one_process() -> None:
    """Also where a rank has no answer in one: it then runs a row of no targets."""
    config = GrpoConfig(
        prompts_per_step=2, group_size=2, max_tokens=6, minibatches=4, normalization="grpo"
    )

    def steps(group: Group) -> list[list[RolloutBatch]]:
        source = RolloutSource(Engine(model(), TOKENIZER), PROBLEMS, letters, config, group=group)
        return [source.next_step() for _ in range(4)]

    alone = steps(Group())
    shared = [steps(Group(rank=rank, world_size=2)) for rank in range(2)]
    empty = 0
    for number, (batch,) in enumerate(alone):
        parts = [ranks[number][0] for ranks in shared]
        assert sum(part.weight for part in parts) == batch.weight == 1
        trained = [part for part in parts if part.weight]
        assert len(trained) == 1
        assert torch.equal(trained[0].ids, batch.ids)
        assert torch.equal(trained[0].advantages, batch.advantages)
        for part in parts:
            output = Grpo(config)(model(), part)
            output.loss_sum.backward()
            if not part.weight:
                empty += 1
                assert float(output.loss_sum) == 0
    assert empty == 4


# ---- resume ---------------------------------------------------------------------------------


def train(folder: Path, method: str, steps: int, *, stop: int | None = None) -> dict[str, Tensor]:
    """A tiny run through the real loop; `stop` ends it early, as a kill would."""
    settings = {"prompts_per_step": 4, "max_tokens": 8, "updates_per_rollout": 2}
    if method.endswith("in minibatches"):
        settings |= {"updates_per_rollout": 2, "minibatches": 2}
    policy, reference = model(1), model(6)
    engine = Engine(policy, TOKENIZER)
    pairs = [*policy.named_parameters()]
    objective: Any
    source: Any
    if method.startswith("ppo"):
        config = PpoConfig(**settings, kl_beta=0.1, kl_target=0.5, kl_horizon=20.0)
        value = value_model(policy)
        objective = Ppo(config, value)
        source = PpoSource(engine, PROBLEMS, letters, config, value=value, reference=reference)
        pairs += [(f"value.{n}", p) for n, p in value.named_parameters()]
    elif method == "rloo":
        rloo = RlooConfig(**settings, group_size=3)
        objective = Rloo(rloo)
        source = RlooSource(engine, PROBLEMS, letters, rloo, reference=reference)
    else:
        grpo = GrpoConfig(
            **settings, group_size=3, normalization="grpo", ratio="sequence", clip_low=0.01,
            clip_high=0.01, dynamic_sampling=2, overlong_buffer=3, kl_beta=0.05,
        )  # fmt: skip
        objective = Grpo(grpo, reference)
        source = RolloutSource(engine, PROBLEMS, letters, grpo)
    train_config = TrainConfig(steps=steps, lr=1e-2, log_every=1, checkpoint_every=1, keep_last=9)
    train_config = parse(
        TrainConfig, {**train_config.model_dump(), "schedule": {"kind": "constant"}}
    )
    trainer = Trainer(
        policy, objective, source, AdamW(decay_groups(pairs, 0.0)), train_config,
        folder=folder, tokenizer=TOKENIZER,
    )  # fmt: skip
    if stop is not None:
        real = trainer._step

        def step() -> None:
            if trainer.state.step == stop:
                raise KeyboardInterrupt
            real()

        trainer._step = step  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        return {}
    result = trainer.run()
    found = {name: p.detach().clone() for name, p in pairs}
    state = json.loads((result.checkpoint / "training" / "state.json").read_text())
    for key in ("kl_beta",):
        if key in state["source"]:
            found[key] = torch.tensor(state["source"][key])
    return found


@pytest.mark.parametrize("method", ["ppo", "ppo in minibatches", "rloo", "gspo"])
def test_an_interrupted_run_resumes_to_the_same_bits(method: str, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", method, 5)
    for stop in (1, 2, 3):  # within a rollout, and between two
        folder = tmp_path / str(stop)
        train(folder, method, 5, stop=stop)
        resumed = train(folder, method, 5)
        assert resumed.keys() == whole.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, resumed[name]), (stop, name)
    moved = train(tmp_path / "one", method, 1)
    assert not torch.equal(moved["embedding.weight"], whole["embedding.weight"])
    if method.startswith("ppo"):
        assert float(whole["kl_beta"]) != 0.1
        assert (
            tmp_path / "whole/checkpoints/step-00000005/training/companions.safetensors"
        ).exists()
        assert not torch.equal(moved["value.embedding.weight"], whole["value.embedding.weight"])


def test_another_value_model_is_refused_by_name(tmp_path: Path) -> None:
    train(tmp_path, "ppo", 1)
    from safetensors.torch import load_file

    from glassbox.training.checkpoint import _load_companions

    path = tmp_path / "checkpoints/step-00000001/training/companions.safetensors"
    assert any(key.startswith("value.score") for key in load_file(path))
    with pytest.raises(UserError, match="another 'value'"):
        _load_companions(path, {"value": torch.nn.Linear(2, 2)})


# ---- GRPO's variants ------------------------------------------------------------------------


def test_dynamic_sampling_replaces_zero_variance_groups_up_to_its_bound() -> None:
    def even(completion: str, problem: Mapping[str, Any]) -> float:
        return letters(completion, problem) if problem["answer"] % 2 else 0.5

    base = {"prompts_per_step": 6, "group_size": 3, "max_tokens": 8}

    def roll(rounds: int) -> tuple[list[Rollout], Any]:
        config = GrpoConfig(**base, dynamic_sampling=rounds)
        return RolloutSource(Engine(model(), TOKENIZER), PROBLEMS, even, config)._roll_out()

    plain, metrics = roll(0)
    silent = sum(a.advantage == 0 for a in plain)
    assert silent >= 6
    assert "replaced_groups" not in metrics
    again, more = roll(3)
    assert sum(a.advantage == 0 for a in again) < silent
    assert more["replaced_groups"][0] > 0
    assert more["reward"] == metrics["reward"]  # of the first draw
    for old, new in zip(plain, again, strict=True):
        if old.advantage != 0:
            assert old == new
    constant = RolloutSource(
        Engine(model(), TOKENIZER),
        PROBLEMS,
        lambda c, p: 1.0,
        GrpoConfig(**base, dynamic_sampling=2),
    )
    answers, metrics = constant._roll_out()  # it ends all the same
    assert all(a.advantage == 0 for a in answers)
    assert metrics["replaced_groups"][0] == 0


def test_long_answers_lose_reward_before_they_are_cut() -> None:
    config = GrpoConfig(prompts_per_step=4, group_size=4, max_tokens=8, overlong_buffer=4)
    source = RolloutSource(Engine(model(), TOKENIZER), PROBLEMS, lambda c, p: 1.0, config)
    groups = source._draw([0, 1, 2, 3])
    for one in groups:
        for answer, reward in zip(one.answers, one.rewards, strict=True):
            length = 8 if answer.truncated else len(answer.token_ids)
            assert reward == pytest.approx(1 + min(0, (4 - length) / 4))
    assert len({r for one in groups for r in one.rewards}) > 1


def test_values_stand_where_the_targets_are() -> None:
    """V at t knows the ids up to t and nothing later."""
    value = value_model(model())
    with torch.no_grad():
        assert value.score is not None
        value.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    whole = token_values(value, ids)
    for t in range(9):
        torch.testing.assert_close(
            token_values(value, ids[:, : t + 1])[:, t], whole[:, t], rtol=1e-4, atol=1e-5
        )
    fresh = value_model(model())
    assert float(token_values(fresh, ids).abs().max()) == 0
