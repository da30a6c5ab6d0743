"""Drafts from a smaller model with a KV cache of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.inference.evaluating import evaluating
from glassbox.inference.plan import SequenceState
from glassbox.inference.sampling.sampler import RowSampler
from glassbox.inference.side_cache import SideCache
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
        self.model = draft
        self._cache = SideCache(
            draft, max_rows=max_rows, block_size=block_size, max_tokens=max_tokens, dtype=dtype
        )
        self._sampler: RowSampler | None = None  # of the rows below, where it can be used again
        self._sampled: list[int] = []

    @torch.inference_mode()
    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        """Drafts for each sequence; none beyond the draft model's context."""
        cache = self._cache
        drafts: list[list[int]] = [[] for _ in requests]
        wanted: list[int] = []
        live: list[tuple[int, SequenceState]] = []
        for which, request in enumerate(requests):
            count = min(request.count, cache.context_length - len(request.tokens))
            if count > 0 and cache.has_room(request.number):
                sequence = cache.track(request.number, request.tokens, count)
                wanted.append(count)
                live.append((which, sequence))
        if not live:
            return drafts
        sampler = self._sampler_of([requests[which] for which, _ in live])
        done = [requests[which].generated for which, _ in live]
        steps = torch.tensor(done, device=self.model.device)
        with evaluating(self.model):
            logits = cache.prefill([sequence for _, sequence in live])
            slots = [sequence.slot for _, sequence in live]
            verified = cache.runner.save(slots)
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
                logits = cache.decode([sequence for _, sequence in live])
        # recurrent states go back to before the drafts; paged ones are overwritten later
        cache.runner.restore(slots, verified)
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

    def forget(self, number: int) -> None:
        """That sequence has ended: free what it held."""
        if number in self._sampled:
            self._sampler, self._sampled = None, []
        self._cache.forget(number)


def _mask(size: int, rows: list[int], device: torch.device) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool, device=device)
    mask[rows] = True
    return mask
