"""Preference losses and graders of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.data.preferences import EncodedPair, preference_batch
from glassbox.tuning.grading.python_grader import PythonGrader
from glassbox.tuning.grading.rubrics import build_rubric
from glassbox.tuning.preference.dpo import Dpo, DpoConfig
from glassbox.tuning.preference.python_loss import PythonLoss, PythonObjective
from support.twins import tiny

SOURCE = """
import torch.nn.functional as F

def dpo(chosen, rejected, *, beta=0.1):
    return -F.logsigmoid(beta * (chosen.ratio - rejected.ratio))

def ipo(chosen, rejected, *, beta=0.1):
    gap = chosen.ratio / chosen.lengths - rejected.ratio / rejected.lengths
    return (gap - 1 / (2 * beta)) ** 2

def one_number(chosen, rejected):
    return dpo(chosen, rejected).sum()

def long(completion, problem, *, target=5):
    return min(1.0, len(completion) / target)

class Remembers:
    def __init__(self, target):
        self.target = target
    def __call__(self, completion, problem):
        return float(problem["answer"] == self.target)

def lonely(completion):
    return 1.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def pair(prompt: list[int], chosen: list[int], rejected: list[int]) -> EncodedPair:
    def masked(answer: list[int]) -> list[int]:
        return [0] * len(prompt) + [1] * len(answer)

    return EncodedPair(prompt + chosen, masked(chosen), prompt + rejected, masked(rejected))


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_a_formula_of_ones_own_is_the_built_in_loss(loss: str, file: Path) -> None:
    """Loss and gradients, in float64: the same sums in the same order, so equal to 1e-12."""
    batch = preference_batch(
        [
            pair([1, 2, 3], [4, 5], [6]),
            pair([7], [8, 9, 10], [11, 12]),
            pair([3, 4], [5], [6, 7, 8, 9]),
        ]
    )
    batch.reference = torch.linspace(-9, -3, 6, dtype=torch.float64)
    ours, theirs = tiny(0), tiny(0)
    config = DpoConfig(loss="sigmoid" if loss == "dpo" else "ipo", beta=0.3)
    expected = Dpo(config)(theirs, batch)
    spec = PythonLoss(path=f"{file}:{loss}", options={"beta": 0.3})
    found = PythonObjective(spec)(ours, batch)
    found.loss_sum.backward()
    expected.loss_sum.backward()
    torch.testing.assert_close(found.loss_sum, expected.loss_sum, rtol=1e-12, atol=0)
    assert found.weight == expected.weight == 3
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-14)


def test_a_loss_of_the_wrong_shape_is_one_line(file: Path) -> None:
    batch = preference_batch([pair([1, 2], [3], [4]), pair([1, 2], [3], [4])])
    spec = PythonLoss(path=f"{file}:one_number", reference=False)
    with pytest.raises(UserError, match=r"gave \(\) for 2 pairs; it must give one number a pair"):
        PythonObjective(spec)(tiny(0), batch)


def test_graders_of_ones_own_stand_in_a_rubric(file: Path) -> None:
    specs = [
        PythonGrader(path=f"{file}:long", options={"target": 10}, name="long", weight=2.0),
        PythonGrader(path=f"{file}:Remembers", options={"target": 7}, name="seven"),
    ]
    grade = build_rubric(specs).grade_all(["12345", ""], [{"answer": 7}, {"answer": 8}])
    assert [one.reward for one in grade] == [2.0, 0.0]
    assert grade[0].parts == {"long": 0.5, "seven": 1.0}


def test_a_grader_that_cannot_be_called_is_one_line(file: Path) -> None:
    with pytest.raises(UserError, match="cannot be called with"):
        PythonGrader(path=f"{file}:lonely").build(None)
    with pytest.raises(UserError, match="cannot be called with"):
        PythonGrader(path=f"{file}:long", options={"goal": 3}).build(None)
