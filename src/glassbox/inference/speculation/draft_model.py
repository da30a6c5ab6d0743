"""Drafts from a smaller model with a KV cache of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.inference.block_manager import BlockManager
from glassbox.inference.evaluating import evaluating
from glassbox.inference.plan import Chunk, Plan, SequenceState
from glassbox.inference.runner import Runner
from glassbox.inference.sampling.sampler import RowSampler
from glassbox.inference.speculation.proposers import DraftRequest, check_draft, with_own_matcher
from glassbox.models.causal_lm import CausalLM


class DraftModel:
    """Samples drafts from a smaller model of the same vocabulary, with the same random numbers.

    All sequences are drafted for together: passes of at most `max_tokens` tokens, or one for each
    sequence, prefill the new tokens of each, then each pass drafts one token for all.
    max_rows: how many sequences it tracks at a time; others get no drafts.
    Raises UserError where the vocabularies differ.
    """

    def __init__(
        self,
        model: CausalLM,
        draft: CausalLM,
        *,
        max_rows: int = 256,
        block_size: int = 16,
        max_tokens: int = 2048,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_draft(model, draft)
        self._max_tokens = max_tokens
        self.model = draft
        self._context = draft.config.context_length
        num_blocks = max_rows * -(-self._context // block_size)
        self._blocks = BlockManager(num_blocks, block_size, prefix_sharing=False)
        self._runner = Runner(
            draft, max_rows=max_rows, max_blocks=num_blocks, block_size=block_size, dtype=dtype
        )
        self._tracked: dict[int, SequenceState] = {}
        self._free = list(reversed(range(max_rows)))
        self._sampler: RowSampler | None = None  # of the rows below, where it can be used again
        self._sampled: list[int] = []

    @torch.inference_mode()
    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        """Drafts for each sequence; none beyond the draft model's context."""
        drafts: list[list[int]] = [[] for _ in requests]
        wanted: list[int] = []
        live: list[tuple[int, SequenceState]] = []
        fresh: list[int] = []
        for which, request in enumerate(requests):
            count = min(request.count, self._context - len(request.tokens))
            if count > 0 and (request.number in self._tracked or self._free):
                sequence = self._track(request, count, fresh)
                wanted.append(count)
                live.append((which, sequence))
        if not live:
            return drafts
        sampler = self._sampler_of([requests[which] for which, _ in live])
        done = [requests[which].generated for which, _ in live]
        steps = torch.tensor(done, device=self.model.device)
        with evaluating(self.model):
            logits = self._prefill([sequence for _, sequence in live], fresh)
            kept = self._runner.save([sequence.slot for _, sequence in live])
            behind = list(live)
            while True:
                picked = sampler.pick(logits, steps)
                active = []
                for row, ((which, sequence), token, sound) in enumerate(
                    zip(live, picked.tokens.tolist(), picked.sound.tolist(), strict=True)
                ):
                    if sound:
                        drafts[which].append(token)
                    if sound and len(drafts[which]) < wanted[row]:
                        sequence.tokens.append(token)
                        active.append(row)
                if not active:
                    break
                index = torch.tensor(active, device=steps.device)
                sampler.accept(picked.tokens, _mask(len(live), active, steps.device))
                sampler, steps = sampler.select(active), steps[index] + 1
                live, wanted = [live[row] for row in active], [wanted[row] for row in active]
                chunks = [Chunk(s, len(s.tokens) - 1, 1, True) for _, s in live]
                logits = self._runner.run(Plan(chunks=chunks))
        self._restore(behind, kept)
        return drafts

    def _sampler_of(self, requests: Sequence[DraftRequest]) -> RowSampler:
        """Their sampler: that of the last call where they are the same and it has no state."""
        numbers = [request.number for request in requests]
        if self._sampler is None or self._sampled != numbers:
            rows = [with_own_matcher(request.row()) for request in requests]
            sampler = RowSampler.of(rows, self.model.config.vocab_size, self.model.device)
            self._sampler, self._sampled = (None if sampler.has_state else sampler), numbers
            return sampler
        return self._sampler

    def _prefill(self, sequences: list[SequenceState], fresh: list[int]) -> Tensor:
        """Prefill the new tokens of each; returns the logits after its last token, one row each."""
        found: dict[SequenceState, Tensor] = {}
        plan, active = Plan(slot_clears=fresh, moved=sequences), sequences
        while active:
            share = max(1, self._max_tokens // len(active))
            for one in active:
                left = len(one.tokens) - one.computed
                plan.chunks.append(Chunk(one, one.computed, min(left, share), left <= share))
            logits = self._runner.run(plan)
            for chunk in plan.chunks:
                chunk.sequence.computed += chunk.count
            done = [chunk.sequence for chunk in plan.chunks if chunk.samples]
            if len(done) == len(sequences):
                return logits
            found.update(zip(done, logits, strict=True))
            active = [chunk.sequence for chunk in plan.chunks if not chunk.samples]
            plan = Plan()
        return torch.stack([found[one] for one in sequences])

    def forget(self, number: int) -> None:
        """That sequence has ended: free what it held."""
        if number in self._sampled:
            self._sampler, self._sampled = None, []
        sequence = self._tracked.pop(number, None)
        if sequence is not None:
            self._blocks.release(sequence.blocks)
            self._free.append(sequence.slot)
            if not self._tracked:
                self._runner.release()

    def _track(self, request: DraftRequest, count: int, fresh: list[int]) -> SequenceState:
        """Our state of a sequence: the tokens still in the cache, and blocks for new ones."""
        sequence = self._tracked.get(request.number)
        if sequence is None:
            slot = self._free.pop()
            fresh.append(slot)
            sequence = self._tracked[request.number] = _blank(request.number, slot, self._context)
        # After the verified tokens the cache holds drafts; accepted ones need no recomputation.
        known = min(sequence.computed, len(request.tokens) - 1)
        while known < min(len(sequence.tokens), len(request.tokens) - 1) and (
            not self._runner.has_rows and sequence.tokens[known] == request.tokens[known]
        ):
            known += 1
        sequence.tokens, sequence.computed = list(request.tokens), known
        needed = self._blocks.blocks_for(len(sequence.tokens) + count) - len(sequence.blocks)
        if self._runner.has_pages and needed > 0:
            last = sequence.blocks[-1] if sequence.blocks else -1
            sequence.blocks += self._blocks.allocate(needed, after=last)
        return sequence

    def _restore(
        self, live: list[tuple[int, SequenceState]], kept: list[dict[str, Tensor]]
    ) -> None:
        """Restore recurrent states to before the drafts; paged ones are overwritten later."""
        self._runner.restore([sequence.slot for _, sequence in live], kept)


def _mask(size: int, rows: list[int], device: torch.device) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool, device=device)
    mask[rows] = True
    return mask


def _blank(number: int, slot: int, context: int) -> SequenceState:
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
        adapter="",
        shares=False,
        rank=(0, number, 0),
        root=b"",
        slot=slot,
    )
