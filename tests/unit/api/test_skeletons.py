"""`glassbox new`: each file that it writes works as it is, and its test passes; the checks find faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glassbox.api.checks import (
    check_grader,
    check_metric,
    check_mixer,
    check_optimizer,
    check_preference_loss,
    check_schedule,
    check_source,
    check_step,
)
from glassbox.api.skeleton import KINDS, write_skeleton
from glassbox.core.errors import UserError

FAULTY = """
import random
import torch
from torch import nn
from glassbox.data.curation.step import Dropped
from glassbox.optim.base import GroupedOptimizer

class Future(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
    def forward(self, x):
        return x.mean(dim=1, keepdim=True) * self.weight + 0 * x

class Unused(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight, self.idle = nn.Parameter(torch.ones(size)), nn.Parameter(torch.ones(size))
    def forward(self, x):
        return x * self.weight

class Forgetful(GroupedOptimizer):
    def __init__(self, groups):
        super().__init__(groups)
        self.count = 0
    @torch.no_grad()
    def step(self, lr):
        self.count += 1
        for group in self.groups:
            for p in group.parameters.values():
                p.add_(p.grad, alpha=-lr / self.count ** 0.5)
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass

class Still(Forgetful):
    def step(self, lr):
        pass

def noisy(step, total):
    return random.random()

def wrong_way(chosen, rejected):
    return chosen.ratio - rejected.ratio

def summed(chosen, rejected):
    return (rejected.ratio - chosen.ratio).sum()

def endless(completion, problem):
    return float("inf")

def shuffled():
    yield from random.sample(range(1000), 5)

def other_texts():
    yield str(random.random())

def coin(record):
    return Dropped("heads") if random.random() < 0.5 else record

def trains(model, tokenizer):
    with torch.no_grad():
        model.embedding.weight.add_(1.0)
    return 1.0

def unknown(model, tokenizer):
    return float("nan")
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_skeletons_own_test_passes(kind: str, tmp_path: Path) -> None:
    source, test = write_skeleton(kind, f"my_{kind}", tmp_path)
    assert source.read_text(encoding="utf-8").startswith('"""')
    assert "@" + "name" not in source.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout


def test_nothing_is_overwritten_and_bad_names_are_told(tmp_path: Path) -> None:
    write_skeleton("grader", "mine", tmp_path)
    with pytest.raises(UserError, match="is there already"):
        write_skeleton("grader", "mine", tmp_path)
    with pytest.raises(UserError, match="is no kind of part; use one of mixer"):
        write_skeleton("mixture", "mine", tmp_path)
    for name in ("My-Mixer", "class", "1st", "../x"):
        with pytest.raises(UserError, match="use small letters"):
            write_skeleton("mixer", name, tmp_path)


@pytest.fixture
def faulty(tmp_path: Path) -> str:
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY, encoding="utf-8")
    return str(path)


def test_the_checks_find_faults(faulty: str) -> None:
    with pytest.raises(AssertionError, match="sees a later token"):
        check_mixer(f"{faulty}:Future")
    with pytest.raises(AssertionError, match=r"'blocks\.0\.mixer\.inner\.idle' gets no gradient"):
        check_mixer(f"{faulty}:Unused")
    with pytest.raises(AssertionError, match="a resumed run differs"):
        check_optimizer(f"{faulty}:Forgetful", learning_rate=0.1)
    with pytest.raises(AssertionError, match="the loss went from"):
        check_optimizer(f"{faulty}:Still")
    with pytest.raises(AssertionError, match="the schedule remembers"):
        check_schedule(f"{faulty}:noisy")
    with pytest.raises(AssertionError, match="makes a loss larger"):
        check_preference_loss(f"{faulty}:wrong_way")
    with pytest.raises(AssertionError, match=r"got \(\) for 6 pairs"):
        check_preference_loss(f"{faulty}:summed")
    with pytest.raises(AssertionError, match="is not finite"):
        check_grader(f"{faulty}:endless", {}, {"x": None})
    with pytest.raises(AssertionError, match="item 1 is a int"):
        check_source(f"{faulty}:shuffled")
    with pytest.raises(AssertionError, match="called again, the source gives other items"):
        check_source(f"{faulty}:other_texts")
    with pytest.raises(AssertionError, match="the step gives another result"):
        check_step(f"{faulty}:coin", [str(number) for number in range(40)])
    with pytest.raises(AssertionError, match=r"changes the weights of 'embedding\.weight'"):
        check_metric(f"{faulty}:trains")
    with pytest.raises(AssertionError, match="'unknown' is nan"):
        check_metric(f"{faulty}:unknown")
