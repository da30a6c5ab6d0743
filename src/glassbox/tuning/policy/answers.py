"""Rollout settings, sampled answers, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.core.distributed import Group
from glassbox.data.preferences import tokens_to_read
from glassbox.sandbox.python import SandboxLimits
from glassbox.tuning.policy.tools import ToolName

Metrics = dict[str, tuple[float, float]]


class ToolConfig(Spec):
    """Tools during rollouts: a turn that ends in a tool call gets its result, and generation
    continues.
    """

    names: tuple[ToolName, ...] = ()
    rounds: int = Field(4, gt=0, description="maximum number of calls per answer")
    result_chars: int = Field(400, gt=0, description="maximum length of a result in characters")
    sandbox: SandboxLimits = SandboxLimits()


class RolloutConfig(Spec):
    """How answers are sampled."""

    prompts_per_step: int = Field(16, gt=0, description="prompts per rollout, over all ranks")
    group_size: int = Field(8, ge=1, description="answers sampled per prompt")
    max_tokens: int = Field(64, gt=0, description="maximum number of tokens per answer")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    overlong: Literal["train", "mask"] = Field(
        "train",
        description="answers truncated at max_tokens; mask: graded and counted in their group's mean,"
        " but not trained on",
    )
    overlong_buffer: int = Field(
        0,
        ge=0,
        description="number of tokens before max_tokens over which the penalty grows to "
        "overlong_penalty; 0: none",
    )
    overlong_penalty: float = Field(1.0, gt=0, description="penalty at max_tokens")
    updates_per_rollout: int = Field(1, gt=0, description="passes over the answers of a rollout")
    minibatches: int = Field(
        1,
        gt=0,
        description="optimizer steps per pass, which divide the rollout's answers in a new order each"
        " time",
    )
    old_log_probs: Literal["recompute", "engine"] = Field(
        "recompute",
        description="log-probabilities of the sampling policy: recomputed by the training forward "
        "pass, or those of the engine",
    )
    tokens_per_batch: int = Field(
        16384, gt=0, description="maximum number of tokens per micro-batch, including padding"
    )
    tools: ToolConfig = ToolConfig()

    @model_validator(mode="after")
    def _minibatches_fit(self) -> RolloutConfig:
        if self.minibatches > self.prompts_per_step * self.group_size:
            raise ValueError(
                f"minibatches = {self.minibatches} is more than the "
                f"{self.prompts_per_step * self.group_size} answers of a rollout "
                "(prompts_per_step * group_size); make it smaller"
            )
        return self

    @property
    def steps_per_rollout(self) -> int:
        """Number of optimizer steps per rollout."""
        return self.updates_per_rollout * self.minibatches


def overlong_penalty(length: int, max_tokens: int, buffer: int) -> float:
    """DAPO's soft length penalty: 0 up to max_tokens - buffer tokens, then decreasing linearly to
    -1 at max_tokens.

    Source: DAPO, arXiv:2503.14476, eq. 13. Tested against: the equation, piece by piece.

    >>> [overlong_penalty(n, 100, 20) for n in (50, 80, 90, 100)]
    [0.0, 0.0, -0.5, -1.0]
    """
    if buffer == 0:
        return 0.0
    return min(0.0, max(-1.0, (max_tokens - buffer - length) / buffer))


@dataclass
class Rollout:
    """One graded completion of a rollout, JSON-serializable, so that it can be saved in a
    checkpoint.

    token_ids: all tokens after the prompt. mask: 1 for the model's own tokens, 0 for a tool's,
        which are not trained on; None: all are the model's. advantage: of the answer; advantages,
        returns, values: per token, with a value model (0 at a tool's tokens).
    """

    problem: int
    token_ids: list[int]
    truncated: bool
    advantage: float
    old_log_probs: list[float] | None
    mask: list[int] | None = None
    advantages: list[float] | None = None
    returns: list[float] | None = None
    values: list[float] | None = None

    @property
    def trained(self) -> list[int]:
        """1 for each of the model's own tokens."""
        return [1] * len(self.token_ids) if self.mask is None else self.mask

    @property
    def num_trained(self) -> int:
        """Number of the model's own tokens."""
        return sum(self.trained)


_REAL_LISTS = ("old_log_probs", "advantages", "returns", "values")


def gather_answers(
    answers: list[Rollout], total: int, size: int, most: int, group: Group
) -> list[Rollout]:
    """Gather the answers of all ranks in the order of their prompts, by summing tables to which
    each row has one contributor.

    total: number of answers over all ranks; size: answers per prompt; most: maximum number of
        tokens of an answer.
    """
    if group.world_size == 1:
        return answers
    whole = torch.zeros((total, 5 + len(_REAL_LISTS) + 2 * most), dtype=torch.int64)
    real = torch.zeros((total, 1 + len(_REAL_LISTS) * most), dtype=torch.float64)
    for place, answer in enumerate(answers):
        row = (place // size * group.world_size + group.rank) * size + place % size
        lists = [getattr(answer, name) for name in _REAL_LISTS]
        facts = [answer.problem, int(answer.truncated), len(answer.token_ids)]
        facts += [int(answer.mask is not None), 0, *(int(values is not None) for values in lists)]
        count = len(answer.token_ids)
        whole[row, : len(facts)] = torch.tensor(facts)
        whole[row, len(facts) : len(facts) + count] = torch.tensor(answer.token_ids)
        whole[row, len(facts) + most : len(facts) + most + count] = torch.tensor(answer.trained)
        real[row, 0] = answer.advantage
        for number, values in enumerate(lists):
            if values is not None:
                start = 1 + number * most
                real[row, start : start + count] = torch.tensor(values, dtype=torch.float64)
    gathered = []
    head = 5 + len(_REAL_LISTS)
    for ints, reals in zip(group.sum_(whole).tolist(), group.sum_(real).tolist(), strict=True):
        problem, truncated, count, masked = ints[:4]
        kept = {
            name: reals[1 + n * most : 1 + n * most + count] if ints[5 + n] else None
            for n, name in enumerate(_REAL_LISTS)
        }
        ids = ints[head : head + count]
        mask = ints[head + most : head + most + count] if masked else None
        gathered.append(Rollout(problem, ids, bool(truncated), reals[0], mask=mask, **kept))
    return gathered


@dataclass
class RolloutBatch:
    """Answers to train on, one per row, padded on the right.

    ids, targets: (B, T), target t is id t + 1; IGNORE except at the model's own tokens of an
        answer.
    advantages: (B,), or (B, T) for one per token.
    scales: (B,), factor on each row's summed loss (1 / length for "grpo", else 1).
    old_log_probs: (B, T), the sampling policy's; None if the policy has not changed since.
    returns, old_values: (B, T), targets and predictions of the value model, if there is one.
    weight: the loss's divisor, that of a whole step on its first batch; it also counts answers that
        are omitted because their gradient is zero.
    share: this batch's fraction of that weight by tokens, which weights the layers' auxiliary
        losses; None: all of it.
    metrics: of the rollout, on one batch of each step.
    """

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    advantages: Float[Tensor, B * T]
    scales: Float[Tensor, " B"]
    old_log_probs: Float[Tensor, "B T"] | None
    weight: float
    metrics: Metrics = field(default_factory=dict)
    returns: Float[Tensor, "B T"] | None = None
    old_values: Float[Tensor, "B T"] | None = None
    share: float | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens to process: without padding, and each prompt once."""
        return tokens_to_read(self.ids, self.targets)

    def to(self, device: torch.device) -> RolloutBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        for name, value in moved.items():
            moved[name] = value.to(device) if isinstance(value, Tensor) else value
        return RolloutBatch(**moved)


def spread(
    rows: Sequence[Sequence[float] | None], starts: Sequence[int], width: int
) -> Float[Tensor, "B T"] | None:
    """Place one list per row at its start, with zeros elsewhere; None if the first row has none."""
    if rows[0] is None:
        return None
    table = torch.zeros((len(rows), width))
    for place, (values, start) in enumerate(zip(rows, starts, strict=True)):
        assert values is not None
        table[place, start : start + len(values)] = torch.tensor(values)
    return table


def parts_of(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Divide rows of similar length into parts of at most `most` tokens with padding (and at least
    one row).

    >>> list(parts_of([4, 9, 4], 10))
    [[0, 2], [1]]
    """
    part: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        # the newest is the longest of its part
        if part and (len(part) + 1) * lengths[number] > most:
            yield part
            part = []
        part.append(number)
    if part:
        yield part
