"""What the scheduler and the engine say to each other: sequences, and the plan of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["waiting", "running", "finished"]


@dataclass(eq=False, slots=True)
class SequenceState:
    """One answer in the making: its tokens, and how far the model's state of them reaches.

    tokens: prompt and answer; the state of the first `computed` of them is stored.
    max_length: the most tokens that prompt and answer may have together.
    blocks: what holds the paged state, `block_size` tokens each, in order.
    slot: the row of the state of fixed size; -1 unless running.
    drafted: guesses at the next tokens, to be verified by the next step; the engine sets them
        between steps and each plan uses them up.
    reused: prompt tokens that another request had computed, when it was last admitted.
    rank: who goes first: by priority (the higher first), then arrival, then sample.
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
    shares: bool  # may use blocks that others have computed
    rank: tuple[int, int, int]
    root: bytes  # the key before its first block
    status: Status = "waiting"
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    slot: int = -1
    drafted: list[int] = field(default_factory=list)
    reused: int = 0
    follows: SequenceState | None = None  # whose reading of the same prompt it waits for
    followers: list[SequenceState] = field(default_factory=list)  # who waits for it so
    keys: list[bytes] = field(default_factory=list)  # of its full blocks, as far as needed yet
    registered: int = 0  # blocks that others can find

    @property
    def num_generated(self) -> int:
        """Tokens of the answer."""
        return len(self.tokens) - self.prompt_length


@dataclass(slots=True)
class Chunk:
    """Tokens of one sequence that a step feeds: tokens[start : start + count], then `drafted`.

    They are written at positions start, start + 1, ...; the sequence's blocks have the room.
    samples: the last of tokens[start : start + count] has no successor yet: the logits there, and
        behind every drafted token, are wanted.
    siblings: further samples of the request, born here: each draws its own first token from this
        chunk's last logits, and shares what has been stored.
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
    """One step. To be carried out in the order of these fields.

    block_copies, slot_copies: (source, destination), before anything is written. No destination
        comes twice, and reading all sources first is the same as copying one after the other.
    slot_clears: slots that begin anew, cleared behind the copies.
    moved: running sequences whose `blocks` are not what they were in the plan before.
    chunks: first those of one token (and drafts) that go on with an answer, then those that read.
    sampling: whose next tokens are wanted, in the order of `chunks`, each chunk's siblings behind
        its own sequence: `commit` takes the tokens in this order.
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
    """Counts of now, and since the beginning: prefix_hits (tokens), preemptions, tokens_generated."""

    waiting: int
    running: int
    blocks_total: int
    blocks_free: int
    blocks_cached: int
    prefix_hits: int
    preemptions: int
    tokens_generated: int
