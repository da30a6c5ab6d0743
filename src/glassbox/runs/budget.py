"""How long the quickstart's stages are made, so that all of it takes a given time on the machine at hand.

One number decides: the steps of pre-training. The other stages, and the text that is written, follow from
it by fixed shares, so that the same number gives the same run on any machine. The number is chosen by
measuring the steps of this model on this machine for a few seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from glassbox.core.devices import resolve_device
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.progress import format_seconds
from glassbox.core.yaml12 import load_yaml
from glassbox.data.loader import TokenBatch
from glassbox.inference import Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.stages.pretrain import PretrainRecipe
from glassbox.runs.stages.quickstart import QuickstartRecipe
from glassbox.training.choice import choose
from glassbox.training.next_token import NextToken
from glassbox.training.step import build_step
from glassbox.tuning.policy.grpo import GrpoConfig

DEFAULT_MINUTES = 6.0
LONG_MINUTES = 15.0
"""From here on the richer world of quickstart-long.yaml is read."""
FEWEST_STEPS, MOST_STEPS = 200, 1_000_000
STAGES = ("pretrain", "sft", "dpo", "grpo")
_STEPS = "{}.change.train.steps"
_MOST_MINUTES = 24 * 60.0
_BYTES_PER_TOKEN = 4.0
_EPOCHS = 1.6
_MEASURED_SECONDS = 3.0

# what things cost beside a measured step of pre-training, on two cores: its run also evaluates and saves; an SFT
# step has as many tokens, and its stage compiles too; a DPO step reads four texts of 16 pairs
_PRETRAIN_COST = 1.06
_SFT_COST = 1.5
_DPO_COST = 3.5
_EVALUATION_SECONDS = 6.0
_CORPUS_BYTES_A_SECOND = 1.3e6
_REST_SECONDS = 12.0


@dataclass(frozen=True)
class Speed:
    """What was measured, in seconds: a step, what comes before the first, and a GRPO step; how steps are made."""

    step: float
    first: float
    policy: float
    how: str


@dataclass(frozen=True)
class Lengths:
    """The steps of each stage, and the bytes of the training text."""

    pretrain: int
    sft: int
    dpo: int
    grpo: int
    train_bytes: int

    def overrides(self, stages: Collection[str]) -> list[str]:
        """As overrides of a quickstart's recipe that has these stages."""
        steps = [
            f"{_STEPS.format(name)}={getattr(self, name)}" for name in STAGES if name in stages
        ]
        return [f"sizes.train_bytes={self.train_bytes}", *steps]


def lengths(steps: int, *, long: bool, step_tokens: int = 2048) -> Lengths:
    """Everything that follows from the steps of pre-training.

    long: of the quickstart that reads the richer world, whose sums are mostly learned from reading and
    brought out by more steps of GRPO.

    >>> lengths(2000, long=False)
    Lengths(pretrain=2000, sft=300, dpo=40, grpo=60, train_bytes=10240000)
    """
    return Lengths(
        pretrain=steps,
        sft=max(40, round((0.1 if long else 0.15) * steps / 10) * 10),
        dpo=min(60, max(10, round(0.02 * steps / 10) * 10)),
        grpo=max(10, round((0.05 if long else 0.03) * steps / 5) * 5),
        train_bytes=max(4_000_000, round(steps * step_tokens * _BYTES_PER_TOKEN / _EPOCHS)),
    )


def seconds_of(steps: int, speed: Speed, *, long: bool, step_tokens: int = 2048) -> float:
    """About how long a quickstart of that length takes on a machine of that speed."""
    made = lengths(steps, long=long, step_tokens=step_tokens)
    training = _PRETRAIN_COST * made.pretrain + _SFT_COST * made.sft + _DPO_COST * made.dpo
    return (
        _REST_SECONDS
        + 4 * _EVALUATION_SECONDS
        + made.train_bytes / _CORPUS_BYTES_A_SECOND
        + speed.first
        + training * speed.step
        + made.grpo * speed.policy
    )


def steps_for(minutes: float, speed: Speed, *, long: bool, step_tokens: int = 2048) -> int:
    """The most steps, in hundreds (fifties below a thousand), that fit into `minutes`; `FEWEST_STEPS` at least."""
    low, high = 0, MOST_STEPS

    def fits(steps: int) -> bool:
        return seconds_of(steps, speed, long=long, step_tokens=step_tokens) <= 60 * minutes

    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    unit = 100 if low >= 1000 else 50
    return max(FEWEST_STEPS, low // unit * unit)


def check_minutes(minutes: float) -> None:
    """Raises UserError for a time that no quickstart can take."""
    if not 1 <= minutes <= _MOST_MINUTES:
        raise UserError(
            f"--minutes {minutes:g}: give 1 to {_MOST_MINUTES:g}, or --fast for less than one minute"
        )


def begun_lengths(out: str | Path) -> list[str] | None:
    """The lengths of the quickstart that was begun in this folder, as overrides; None where there is none."""
    recipe = Path(out) / "recipe.yaml"
    if not recipe.is_file():
        return None
    try:
        raw = load_yaml(recipe)
        found = {"sizes.train_bytes": raw["sizes"]["train_bytes"]}
        for name in STAGES:
            if raw.get(name) is not None:
                found[_STEPS.format(name)] = raw[name]["change"]["train"]["steps"]
    except (UserError, KeyError, TypeError):
        return None  # the run's own check says what is wrong with it
    return [f"{key}={value}" for key, value in found.items()]


def measure(recipe: QuickstartRecipe, pretrain: PretrainRecipe, policy: GrpoConfig | None) -> Speed:
    """Real steps of the pre-training's model on random ids, as its run would make them, for a few seconds.

    Where steps are compiled the compiler's work is kept, so that the run does not wait for it again.
    """
    device = resolve_device(recipe.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CausalLM(pretrain.model.config(recipe.tokenizer.vocab_size)).to(device).train()
        rows, length = pretrain.data.rows_per_step, pretrain.data.row_length
        ids = torch.randint(0, recipe.tokenizer.vocab_size, (rows, length + 1)).to(device)
        batch = TokenBatch(
            ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.zeros_like(ids[:, 1:])
        )
        objective = NextToken()
        tokens = rows * length * 2000
        choice = choose(pretrain.train, model, objective, tokens=tokens, group=Group())
        config = choice.config(pretrain.train)
        began = time.perf_counter()
        try:
            step = build_step(model, objective, pretrain.optim.build(model), config)
            step.take([batch], 0.0)
        except Exception:  # the compiler fails: the run then goes on without it, and so does this
            choice = type(choice)(pretrain.train.stated_precision, False)
            step = build_step(
                model, objective, pretrain.optim.build(model), choice.config(pretrain.train)
            )
            step.take([batch], 0.0)
        first = time.perf_counter() - began
        taken: list[float] = []
        while sum(taken) < _MEASURED_SECONDS or len(taken) < 3:
            began = time.perf_counter()
            step.take([batch], 0.0)
            taken.append(time.perf_counter() - began)
        rollouts = 0.0 if policy is None else _rollout_seconds(model.eval(), policy)
    how = f"{choice.precision}{', compiled' if choice.compile else ''}"
    return Speed(statistics.median(taken), first, 1.5 * rollouts, how)


def _rollout_seconds(model: CausalLM, policy: GrpoConfig) -> float:
    """The answers of one step of GRPO, half as long as they may be: most end sooner."""
    engine = Engine(model, max_batch=policy.prompts_per_step * policy.group_size)
    length = max(1, min(policy.max_tokens, model.config.context_length // 2) // 2)
    prompt = list(range(1, min(48, model.config.context_length - length)))
    params = SamplingParams(max_tokens=length, ignore_eos=True, n=policy.group_size, seed=0)
    began = time.perf_counter()
    engine.generate([prompt] * policy.prompts_per_step, params)
    return time.perf_counter() - began


def say(steps: int, speed: Speed, minutes: float, *, long: bool, step_tokens: int) -> str:
    """One line: what was measured, what was chosen, and how to have it again."""
    made = lengths(steps, long=long, step_tokens=step_tokens)
    expected = seconds_of(steps, speed, long=long, step_tokens=step_tokens)
    late = (
        ""
        if expected <= 66 * minutes
        else f" (the shortest that teaches anything; {minutes:g} minutes are too few here)"
    )
    return (
        f"this machine trains on {step_tokens / speed.step:,.0f} tokens/s ({speed.how}): {made.pretrain:,} steps of "
        f"pre-training, {made.sft} of SFT, {made.dpo} of DPO, {made.grpo} of GRPO, about "
        f"{format_seconds(expected)}{late}; the same again: {'--long ' if long else ''}--steps {steps}"
    )
