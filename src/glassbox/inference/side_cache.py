"""A KV cache beside the engine's: of a draft model, or of the negative prompts of guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.inference.block_manager import BlockManager
from glassbox.inference.plan import Chunk, Plan, SequenceState
from glassbox.inference.runner import Runner
from glassbox.models.causal_lm import CausalLM


class SideCache:
    """Sequences followed by number, whose new tokens are fed on demand; no scheduler, no preemption.

    max_rows: how many sequences at a time. max_tokens: the most that a pass feeds, or one for each.
    """

    def __init__(
        self,
        model: CausalLM,
        *,
        max_rows: int,
        block_size: int = 16,
        max_tokens: int = 2048,
        dtype: torch.dtype | None = None,
        prepacked: bool | None = None,
    ) -> None:
        self.context_length = model.config.context_length
        self._max_tokens = max_tokens
        num_blocks = max_rows * -(-self.context_length // block_size)
        self._blocks = BlockManager(num_blocks, block_size, prefix_sharing=False)
        self.runner = Runner(
            model,
            max_rows=max_rows,
            max_blocks=num_blocks,
            block_size=block_size,
            dtype=dtype,
            prepacked=prepacked,
        )
        self._tracked: dict[int, SequenceState] = {}
        self._free = list(reversed(range(max_rows)))
        self._fresh: list[int] = []  # slots of new sequences, to be cleared by the next pass

    @property
    def cache_bytes(self) -> int:
        """Memory of the cache; 0 while nothing is followed."""
        return self.runner.cache_bytes if self._tracked else 0

    def has_room(self, number: int) -> bool:
        """Whether this sequence is followed, or one more can be."""
        return number in self._tracked or bool(self._free)

    def track(
        self, number: int, tokens: Sequence[int], room: int, *, adapter: str = ""
    ) -> SequenceState:
        """The sequence's state, set to these tokens, with blocks for `room` more."""
        sequence = self._tracked.get(number)
        if sequence is None:
            slot = self._free.pop()
            self._fresh.append(slot)
            sequence = _blank(number, slot, self.context_length, adapter)
            self._tracked[number] = sequence
        # After the verified tokens the cache holds drafts; accepted ones need no recomputation.
        known = min(sequence.computed, len(tokens) - 1)
        while known < min(len(sequence.tokens), len(tokens) - 1) and (
            not self.runner.has_rows and sequence.tokens[known] == tokens[known]
        ):
            known += 1
        sequence.tokens, sequence.computed = list(tokens), known
        needed = self._blocks.blocks_for(len(sequence.tokens) + room) - len(sequence.blocks)
        if self.runner.has_pages and needed > 0:
            last = sequence.blocks[-1] if sequence.blocks else -1
            sequence.blocks += self._blocks.allocate(needed, after=last)
        return sequence

    def prefill(self, sequences: list[SequenceState]) -> Tensor:
        """Feed the new tokens of each; returns the logits after its last token, one row each."""
        found: dict[SequenceState, Tensor] = {}
        plan, active = Plan(slot_clears=self._fresh, moved=sequences), sequences
        self._fresh = []
        while active:
            share = max(1, self._max_tokens // len(active))
            for one in active:
                left = len(one.tokens) - one.computed
                plan.chunks.append(Chunk(one, one.computed, min(left, share), left <= share))
            plan.sampling = [chunk.sequence for chunk in plan.chunks if chunk.samples]
            logits = self.runner.run(plan)
            for chunk in plan.chunks:
                chunk.sequence.computed += chunk.count
            if len(plan.sampling) == len(sequences):
                return logits
            found.update(zip(plan.sampling, logits, strict=True))
            active = [chunk.sequence for chunk in plan.chunks if not chunk.samples]
            plan = Plan()
        return torch.stack([found[one] for one in sequences])

    def decode(self, sequences: Sequence[SequenceState]) -> Tensor:
        """Feed the last token of each, whose place `track` has made; the logits after it."""
        chunks = [Chunk(one, len(one.tokens) - 1, 1, True) for one in sequences]
        return self.runner.run(Plan(chunks=chunks))

    def forget(self, number: int) -> None:
        """That sequence has ended: free what it held; unknown numbers are ignored."""
        sequence = self._tracked.pop(number, None)
        if sequence is not None:
            self._blocks.release(sequence.blocks)
            self._free.append(sequence.slot)
            if not self._tracked:
                self.runner.release()


def _blank(number: int, slot: int, context: int, adapter: str) -> SequenceState:
    return SequenceState(
        id=number,
        request_id=number,
        sample_index=0,
        tokens=[],
        prompt_length=0,
        max_length=context,
        priority=0,
        arrival=number,
        tenant="",
        adapter=adapter,
        shares=False,
        rank=(0, number, 0),
        root=b"",
        slot=slot,
    )
