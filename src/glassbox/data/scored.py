"""Training data of reward models: preference pairs, and solutions with per-step labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.conversations import BadRow, Found, Message, read_items
from glassbox.data.examples import ExampleSource, identity_of
from glassbox.data.preferences import EncodedPair, PreferenceReport, prompt_messages
from glassbox.data.python_source import PythonSource
from glassbox.ops.cross_entropy import IGNORE

if TYPE_CHECKING:
    from glassbox.tokenizers import Tokenizer

SEPARATOR = "\n"
"""Separator after each step; the score of a step is read at its last id."""


@dataclass
class ScoredPairs:
    """B pairs as 2B whole rows: the chosen answers first, then the rejected in the same order.

    ids: (2B, T), padded on the right; ends: (2B,), where each row's last id stands; margins: (B,).
    """

    ids: Int[Tensor, "R T"]
    ends: Int[Tensor, " R"]
    margins: Float[Tensor, " B"]

    @property
    def num_tokens(self) -> int:
        """How many tokens there are to read: no padding, and what a pair's rows have alike once."""
        chosen, rejected = self.ids.chunk(2)
        lengths = torch.stack((self.ends + 1).chunk(2))
        alike = (chosen == rejected).to(torch.int64).cumprod(dim=-1).sum(dim=-1)
        return int(lengths.sum() - torch.minimum(alike, lengths.amin(dim=0)).sum())

    def to(self, device: torch.device) -> ScoredPairs:
        """Return the batch on another device."""
        return ScoredPairs(self.ids.to(device), self.ends.to(device), self.margins.to(device))


def scored_pairs(pairs: Sequence[EncodedPair]) -> ScoredPairs:
    """Pairs as one batch."""
    rows = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    ends = torch.tensor([len(row) - 1 for row in rows])
    return ScoredPairs(pad_ids(rows), ends, torch.tensor([pair.margin for pair in pairs]))


def pad_ids(rows: Sequence[Sequence[int]], fill: int = 0) -> Int[Tensor, "R T"]:
    """Rows padded on the right.

    >>> pad_ids([[5, 6], [7]]).tolist()
    [[5, 6], [7, 0]]
    """
    ids = torch.full((len(rows), max(map(len, rows))), fill, dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return ids


class ScoredPairSource(ExampleSource[ScoredPairs]):
    """`ExampleSource` over pairs whose answers are scored as wholes."""

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        *,
        per_step: int,
        per_batch: int | None = None,
        seed: int = 0,
        group: Group | None = None,
    ) -> None:
        lengths = [pair.length for pair in pairs]
        super().__init__(
            lengths,
            per_step=per_step,
            per_batch=per_batch,
            seed=seed,
            group=group,
            identity=identity_of(pairs),
        )
        self.pairs = pairs

    def batch(self, part: list[int], step: list[int]) -> ScoredPairs:
        """Pairs of these numbers."""
        return scored_pairs([self.pairs[number] for number in part])


@dataclass(frozen=True)
class Solution:
    """A prompt, the steps of an answer, and whether each of them is right."""

    prompt: list[Message]
    steps: list[str]
    labels: list[bool]


def read_solutions(path: Path | str | PythonSource) -> Found[Solution]:
    """All rows {"prompt", "completions": [step, ...], "labels": [true or false, ...]} of a file.

    The form is that of trl's stepwise supervision. Raises UserError naming file, line, key, remedy.
    """
    return read_items(path, solution_of_row, "solutions")


def solution_of_row(row: Mapping[str, Any]) -> Solution:
    """The solution of a row. Raises BadRow.

    >>> solution_of_row({"prompt": "1 + 1 + 1?", "completions": ["2", "4"], "labels": [True, False]}).labels
    [True, False]
    """
    for key in ("prompt", "completions", "labels"):
        if key not in row:
            raise BadRow(f"missing key '{key}'; give prompt, completions and labels")
    steps, labels = row["completions"], row["labels"]
    if not isinstance(steps, list) or not steps or not all(isinstance(s, str) and s for s in steps):
        raise BadRow(f"key 'completions' = {steps!r}; give a list of texts, one a step")
    if not isinstance(labels, list) or not all(label in (0, 1) for label in labels):
        raise BadRow(f"key 'labels' = {labels!r}; give a list of true and false, one a step")
    if len(labels) != len(steps):
        raise BadRow(f"{len(steps)} completions but {len(labels)} labels; give one a step")
    return Solution(prompt_messages(row["prompt"]), steps, [bool(label) for label in labels])


@dataclass(frozen=True)
class EncodedSolution:
    """Ids of prompt and steps; labels are 1 or 0 at each step's last id, else IGNORE."""

    ids: list[int]
    labels: list[int]

    @property
    def length(self) -> int:
        """Ids in all."""
        return len(self.ids)


def encode_solutions(
    solutions: Iterable[Solution], tokenizer: Tokenizer, *, max_length: int
) -> tuple[list[EncodedSolution], PreferenceReport]:
    """Encode solutions as at most max_length ids: the chat's prompt, then each step and `SEPARATOR`.

    Each step is encoded by itself, so that its end is an id's end. A prompt that is too long is cut
    from the left, no step is; what does not fit is left out and counted. Raises UserError where
    nothing is left.
    """
    report = PreferenceReport()
    encoded = []
    for solution in solutions:
        prompt = tokenizer.encode_chat_prompt(solution.prompt)
        ids: list[int] = []
        labels: list[int] = []
        for step, right in zip(solution.steps, solution.labels, strict=True):
            part = tokenizer.encode(step + SEPARATOR)
            ids += part
            labels += [IGNORE] * (len(part) - 1) + [int(right)]
        room = max_length - len(ids)
        if room < 1:
            report.skipped += 1
            continue
        kept = prompt[-room:]
        report.num_pairs += 1
        report.shortened += len(kept) < len(prompt)
        report.dropped_ids += len(prompt) - len(kept)
        encoded.append(EncodedSolution(kept + ids, [IGNORE] * len(kept) + labels))
    if not encoded:
        raise UserError(
            f"none of {report.skipped} solutions fits into {max_length} tokens; "
            "raise data.max_length or give shorter ones"
        )
    return encoded, report


@dataclass
class JudgedSteps:
    """B solutions: ids and labels, (B, T) each, padded on the right; labels 1, 0 or IGNORE."""

    ids: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]

    @property
    def num_tokens(self) -> int:
        """How many tokens there are to read, without padding."""
        places = torch.arange(1, self.labels.shape[1] + 1)
        return int(torch.where(self.labels != IGNORE, places, 0).amax(dim=-1).sum())

    def to(self, device: torch.device) -> JudgedSteps:
        """Return the batch on another device."""
        return JudgedSteps(self.ids.to(device), self.labels.to(device))


def judged_steps(solutions: Sequence[EncodedSolution]) -> JudgedSteps:
    """Solutions as one batch."""
    return JudgedSteps(
        pad_ids([one.ids for one in solutions]),
        pad_ids([one.labels for one in solutions], IGNORE),
    )


class SolutionSource(ExampleSource[JudgedSteps]):
    """`ExampleSource` over solutions judged step by step."""

    def __init__(
        self,
        solutions: Sequence[EncodedSolution],
        *,
        per_step: int,
        per_batch: int | None = None,
        seed: int = 0,
        group: Group | None = None,
    ) -> None:
        super().__init__(
            [len(one.ids) for one in solutions],
            per_step=per_step,
            per_batch=per_batch,
            seed=seed,
            group=group,
            what="solutions",
            identity=identity_of(solutions),
        )
        self.solutions = solutions

    def batch(self, part: list[int], step: list[int]) -> JudgedSteps:
        """Solutions of these numbers."""
        return judged_steps([self.solutions[number] for number in part])
