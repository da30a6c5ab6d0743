"""The interface of scheduler, runner and engine: sequences, and the plan of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["waiting", "running", "finished"]


@dataclass(eq=False, slots=True)
class SequenceState:
    """One sequence being generated: its tokens, and how many of them the model's state covers.

    tokens: prompt and output; the KV cache (or state) of the first `computed` of them is stored.
    max_length: the most tokens that prompt and output may have together.
    blocks: its block table, `block_size` tokens a block, in order.
    slot: its row in states of fixed size; -1 unless running.
    drafted: draft tokens that the next step verifies; the engine sets them between steps and each
        plan consumes them.
    reused: prompt tokens found in the prefix cache when it was last admitted.
    rank: the scheduling order: priority (higher first), then arrival, then sample.
    """

    id: int
    request_id: int
    sample_index: int
    tokens: list[int]
    prompt_length: int
    max_length: int
    priority: int
    arrival: int
    tenant: str
    adapter: str
    shares: bool  # may use the prefix cache
    rank: tuple[int, int, int]
    root: bytes  # the key before its first block
    status: Status = "waiting"
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    slot: int = -1
    drafted: list[int] = field(default_factory=list)
    reused: int = 0
    follows: SequenceState | None = None  # the sibling whose prefill it waits for
    followers: list[SequenceState] = field(
        default_factory=list
    )  # the siblings that wait for its prefill
    keys: list[bytes] = field(default_factory=list)  # of its full blocks, as far as needed so far
    registered: int = 0  # blocks published in the prefix cache

    @property
    def num_generated(self) -> int:
        """Tokens of the output."""
        return len(self.tokens) - self.prompt_length


@dataclass(slots=True)
class Chunk:
    """Tokens of one sequence that a step feeds: tokens[start : start + count], then `drafted`.

    They are written at positions start, start + 1, ...; the sequence's blocks have the room.
    samples: the last of tokens[start : start + count] has no successor yet: the logits there, and
        after every draft, are needed.
    siblings: further samples of the request, forked here: each samples its own first token from this
        chunk's last logits, and shares its blocks.
    """

    sequence: SequenceState
    start: int
    count: int
    samples: bool
    drafted: Sequence[int] = ()
    siblings: Sequence[SequenceState] = ()

    @property
    def fed(self) -> list[int]:
        """The tokens to feed."""
        return self.sequence.tokens[self.start : self.start + self.count] + list(self.drafted)


@dataclass(slots=True)
class Plan:
    """One step, to be run in the order of these fields.

    block_copies, slot_copies: (source, destination), before anything is written. No destination
        appears twice, and reading all sources first equals copying one after the other.
    slot_clears: slots of new sequences, cleared after the copies.
    moved: running sequences whose `blocks` changed since the last plan.
    chunks: first decode chunks of one token (and drafts), then prefill chunks.
    sampling: the sequences whose next tokens are sampled, in the order of `chunks`, each chunk's
        siblings after its own sequence: `commit` takes the tokens in this order.
    """

    block_copies: list[tuple[int, int]] = field(default_factory=list)
    slot_copies: list[tuple[int, int]] = field(default_factory=list)
    slot_clears: list[int] = field(default_factory=list)
    moved: list[SequenceState] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    sampling: list[SequenceState] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens fed."""
        return sum(chunk.count + len(chunk.drafted) for chunk in self.chunks)


class QueueFull(Exception):
    """As many requests as allowed are waiting already."""


@dataclass(frozen=True)
class SchedulerStats:
    """Current counts, and totals: prefix_hits (tokens), preemptions, tokens_generated."""

    waiting: int
    running: int
    blocks_total: int
    blocks_free: int
    blocks_cached: int
    prefix_hits: int
    preemptions: int
    tokens_generated: int
