"""Who computes what in the next step. Pure Python; it knows no tensors.

    plan = scheduler.schedule()          # what to compute, and where to store it
    tokens = ...                         # the engine does so and draws the tokens wanted
    scheduler.commit(plan, tokens)       # what became of it

One order rules everything: priority (the higher first), then arrival, then sample number. Waiting
sequences start in that order and nobody overtakes the first in line; when blocks run out the last
in that order gives way and is computed again later. So the first always moves on, whoever has been
moved out comes back before anyone newer, and two requests cannot push each other out for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from glassbox.inference.blocks import BlockManager
from glassbox.inference.plan import Chunk, Plan, SequenceState

__all__ = ["Chunk", "Plan", "QueueFull", "Scheduler", "SchedulerStats", "SequenceState"]


class QueueFull(Exception):
    """As many requests as allowed are waiting already."""


@dataclass(frozen=True)
class SchedulerStats:
    """Counts now (sequences, blocks) and since the beginning (the last three, the first in tokens)."""

    waiting: int
    running: int
    blocks_total: int
    blocks_free: int
    blocks_cached: int
    prefix_hits: int
    preemptions: int
    tokens_generated: int


class Scheduler:
    """Decides, step by step, which sequences run.

    max_running: sequences that run at the same time; slots are 0 to max_running - 1.
    max_queue: requests that may wait beyond those that could start at once; None for any number.
    token_budget: the most tokens a step feeds, at least max_running. Without `chunked_prefill` a
        prompt is read whole, and one that does not fit the budget is the only one read in its step.
    blocks: None where the model keeps no paged state (rings and running states need slots alone).
    """

    def __init__(
        self,
        *,
        max_running: int,
        token_budget: int,
        max_queue: int | None = None,
        chunked_prefill: bool = True,
        blocks: BlockManager | None = None,
    ) -> None:
        raise NotImplementedError

    def add(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        n: int = 1,
        priority: int = 0,
        tenant: str = "",
        adapter: str = "",
        shares: bool = True,
    ) -> list[SequenceState]:
        """Put a request in line; its n sequences. `shares=False` computes every token of its prompt.

        The prompt is read once, by the first sequence to start; the others are born at its end.
        Raises QueueFull, and UserError for what could never fit.
        """
        raise NotImplementedError

    def schedule(self) -> Plan:
        """What to do now. Every plan must be carried out and committed before the next."""
        raise NotImplementedError

    def commit(
        self,
        plan: Plan,
        tokens: Sequence[Sequence[int]],
        finished: Collection[SequenceState] = (),
    ) -> list[SequenceState]:
        """The plan has been carried out: `tokens[i]` are the new ones of plan.sampling[i].

        One token each; behind drafted ones, those kept and one more (1 to 1 + k): all but the last
        must be the drafted ones, and the rest of the drafts is rolled back. Sequences named in
        `finished`, and those at max_length, end and give everything back; returns them all.
        Sequences that were cancelled meanwhile are passed over, whatever their tokens.
        """
        raise NotImplementedError

    def cancel(self, request_id: int) -> None:
        """End a request at any moment, also between schedule and commit; unknown ids are ignored."""
        raise NotImplementedError

    def finish(self, sequence: SequenceState) -> None:
        """End one sequence at any moment; its siblings go on."""
        raise NotImplementedError

    @property
    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        raise NotImplementedError

    def stats(self) -> SchedulerStats:
        """Counts of now."""
        raise NotImplementedError
