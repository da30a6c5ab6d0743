"""Policy objectives and distillation beside trl's, PPO beside a loop: losses and gradients.

TOLERANCE is that of `test_preferences.py`, for its reasons; a loop over our own model's logits is
held to EXACT.
"""

from __future__ import annotations

import pytest

from glassbox.tuning.policy.ppo import PpoConfig
from support.policy_parity import POLICY_CASES, policy_difference
from support.twins import EXACT

TOLERANCE = 1e-5


@pytest.mark.parametrize("empty", [False, True], ids=["", "an empty answer"])
@pytest.mark.parametrize(
    ("name", "side"), [(name, side) for name, case in POLICY_CASES.items() for side in case.sides]
)
def test_loss_and_gradients_are_theirs(name: str, side: str, empty: bool) -> None:
    case = POLICY_CASES[name]
    tolerance = EXACT if isinstance(case.config, PpoConfig) else TOLERANCE
    for seed in range(2):
        loss, gradients = policy_difference(case, seed, side, empty=empty)
        assert loss < tolerance
        assert gradients < tolerance
