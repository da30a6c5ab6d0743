"""PPO's, RLOO's and DAPO's formulas against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.inference import Engine
from glassbox.tuning.policy.answers import overlong_penalty
from glassbox.tuning.policy.grpo import GrpoConfig
from glassbox.tuning.policy.ppo import (
    Ppo,
    PpoConfig,
    PpoSource,
    adapted_beta,
    generalized_advantages,
    generalized_advantages_plain,
    value_losses,
    value_model,
)
from glassbox.tuning.policy.rloo import RlooConfig, RlooSource, leave_one_out, whiten

# ---- parts ----------------------------------------------------------------------------------
from support.policy_problems import PROBLEMS, TOKENIZER, letters, model

FLOATS = st.floats(-3, 3, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(FLOATS, FLOATS, st.booleans()), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([1.0, 0.9]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_advantages_of_all_rows_at_once_are_the_plain_sums(
    rows: Any, gamma: float, lam: float
) -> None:
    width = max(map(len, rows))
    rewards, values = torch.full((2, len(rows), width), 7.0, dtype=torch.float64)
    mask = torch.zeros_like(rewards, dtype=torch.bool)
    for i, row in enumerate(rows):
        for t, (r, v, own) in enumerate(row):
            rewards[i, t], values[i, t], mask[i, t] = r, v, own
    found = generalized_advantages(rewards, values, mask, gamma=gamma, gae_lambda=lam)
    assert (found[~mask] == 0).all()
    for i, row in enumerate(rows):
        kept = [(r, v) for r, v, own in row if own]
        if not kept:
            continue
        expected = generalized_advantages_plain(
            *map(list, zip(*kept, strict=True)), gamma=gamma, gae_lambda=lam
        )
        assert found[i][mask[i]].tolist() == pytest.approx(expected, abs=1e-9)


def test_lambda_one_is_the_return_less_the_value_and_lambda_zero_one_step() -> None:
    rewards, values = [0.0, 0.5, 2.0], [0.3, 0.2, 0.1]
    whole = generalized_advantages_plain(rewards, values, gamma=1.0, gae_lambda=1.0)
    assert whole == pytest.approx([2.5 - 0.3, 2.5 - 0.2, 2.0 - 0.1])
    step = generalized_advantages_plain(rewards, values, gamma=1.0, gae_lambda=0.0)
    assert step == pytest.approx([0.2 - 0.3, 0.5 + 0.1 - 0.2, 2.0 - 0.1])


@given(st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_leave_one_out_is_a_loop(rewards: list[list[float]]) -> None:
    found = leave_one_out(torch.tensor(rewards, dtype=torch.float64))
    for row, group in zip(found.tolist(), rewards, strict=True):
        for i, r in enumerate(group):
            others = group[:i] + group[i + 1 :]
            assert row[i] == pytest.approx(r - sum(others) / 2, abs=1e-9)
    with pytest.raises(ValueError, match="G >= 2"):
        leave_one_out(torch.ones(2, 1))


def test_values_are_clipped_from_the_worse_side() -> None:
    values = torch.tensor([[0.0, 1.0, 0.5]], requires_grad=True)
    old, returns = torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([[1.0, 1.0, 0.0]])
    losses = value_losses(values, old, returns, clip=0.2)
    expected = [
        max((v - r) ** 2, (min(max(v, o - 0.2), o + 0.2) - r) ** 2) / 2
        for v, o, r in ((0, 0.5, 1), (1, 0.5, 1), (0.5, 0.5, 0))
    ]
    assert losses[0].tolist() == pytest.approx(expected)
    losses.sum().backward()
    assert values.grad is not None
    assert values.grad[0].tolist() == pytest.approx([-1.0, 0.0, 0.5])
    free = value_losses(values, old, returns, clip=None)
    assert free[0].tolist() == pytest.approx([0.5, 0.0, 0.125])


def test_whitening_and_the_adapting_weight() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    white = whiten(values, lambda x: x)
    assert float(white.mean()) == pytest.approx(0, abs=1e-9)
    assert float(white.std()) == pytest.approx(1)
    assert float(whiten(values, lambda x: x, shift=False).mean()) == pytest.approx(3)
    two = whiten(values, lambda x: 2 * x)  # as two ranks with the same values each
    assert float(two.abs().max()) > float(white.abs().max())
    assert adapted_beta(0.1, 60, target=6, count=10, horizon=100) == pytest.approx(0.102)
    assert adapted_beta(0.1, 0, target=6, count=10, horizon=100) == pytest.approx(0.098)
    assert adapted_beta(0.1, 6, target=6, count=10, horizon=100) == 0.1


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0), (12, 0), (13, 0), (14, -1 / 3), (16, -1), (20, -1)]
)
def test_overlong_shaping_is_dapos_equation_13(length: int, penalty: float) -> None:
    assert overlong_penalty(length, 16, 3) == pytest.approx(penalty)
    assert overlong_penalty(length, 16, 0) == 0


def test_settings_that_contradict_are_refused() -> None:
    for spec, raw, said in (
        (GrpoConfig, {"ratio": "sequence"}, "normalization: grpo"),
        (GrpoConfig, {"overlong_buffer": 64}, "overlong_buffer = 64"),
        (RlooConfig, {"group_size": 1}, "leave_one_out"),
        (PpoConfig, {"kl_in": "loss", "kl_target": 6.0}, "kl_in: reward"),
        (PpoConfig, {"kl_beta": 0, "kl_target": 6.0}, "kl_beta above 0"),
    ):
        with pytest.raises(UserError, match=said):
            parse(spec, raw)
    with pytest.raises(UserError, match="needs a reference"):
        PpoSource(
            Engine(model(), TOKENIZER), PROBLEMS, letters, PpoConfig(), value=value_model(model())
        )
    with pytest.raises(UserError, match="needs a reference"):
        Ppo(PpoConfig(kl_in="loss"), value_model(model()))
    with pytest.raises(UserError, match="needs a reference"):
        RlooSource(Engine(model(), TOKENIZER), PROBLEMS, letters, RlooConfig())
    with pytest.raises(UserError, match="no scalar head"):
        Ppo(PpoConfig(kl_beta=0), model())
