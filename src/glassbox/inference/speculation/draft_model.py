"""A smaller model that guesses for a larger one, with a cache of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.inference.block_manager import BlockManager
from glassbox.inference.evaluating import evaluating
from glassbox.inference.plan import Chunk, Plan, SequenceState
from glassbox.inference.runner import Runner
from glassbox.inference.sampling.sampler import RowSampler
from glassbox.inference.speculation.proposers import Draftable, check_draft, with_own_matcher
from glassbox.models.causal_lm import CausalLM


class DraftModel:
    """Draws guesses from a smaller model of the same vocabulary, by the same numbers.

    All answers are guessed for together: passes of at most `max_tokens` tokens, or one for each
    answer, read what is new of each, then one pass makes a guess for all.
    max_rows: how many answers it follows at a time; for more it has no guesses.
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
        self._followed: dict[int, SequenceState] = {}
        self._free = list(reversed(range(max_rows)))
        self._sampler: RowSampler | None = None  # of the rows below, where it can be used again
        self._sampled: list[int] = []

    @torch.inference_mode()
    def propose(self, answers: Sequence[Draftable]) -> list[list[int]]:
        """Guesses for each answer; none for those beyond the draft model's context."""
        guesses: list[list[int]] = [[] for _ in answers]
        wanted: list[int] = []
        live: list[tuple[int, SequenceState]] = []
        fresh: list[int] = []
        for place, answer in enumerate(answers):
            count = min(answer.count, self._context - len(answer.tokens))
            if count > 0 and (answer.number in self._followed or self._free):
                sequence = self._follow(answer, count, fresh)
                wanted.append(count)
                live.append((place, sequence))
        if not live:
            return guesses
        sampler = self._sampler_of([answers[place] for place, _ in live])
        done = [answers[place].generated for place, _ in live]
        steps = torch.tensor(done, device=self.model.device)
        with evaluating(self.model):
            logits = self._read([sequence for _, sequence in live], fresh)
            kept = self._runner.save([sequence.slot for _, sequence in live])
            behind = list(live)
            while True:
                picked = sampler.pick(logits, steps)
                going = []
                for row, ((place, sequence), token, sound) in enumerate(
                    zip(live, picked.tokens.tolist(), picked.sound.tolist(), strict=True)
                ):
                    if sound:
                        guesses[place].append(token)
                    if sound and len(guesses[place]) < wanted[row]:
                        sequence.tokens.append(token)
                        going.append(row)
                if not going:
                    break
                index = torch.tensor(going, device=steps.device)
                sampler.accept(picked.tokens, _marks(len(live), going, steps.device))
                sampler, steps = sampler.select(going), steps[index] + 1
                live, wanted = [live[row] for row in going], [wanted[row] for row in going]
                chunks = [Chunk(s, len(s.tokens) - 1, 1, True) for _, s in live]
                logits = self._runner.run(Plan(chunks=chunks))
        self._go_back(behind, kept)
        return guesses

    def _sampler_of(self, answers: Sequence[Draftable]) -> RowSampler:
        """How these draw: as in the call before where they are the same and it kept no track of them."""
        numbers = [answer.number for answer in answers]
        if self._sampler is None or self._sampled != numbers:
            rows = [with_own_matcher(answer.row()) for answer in answers]
            sampler = RowSampler.of(rows, self.model.config.vocab_size, self.model.device)
            self._sampler, self._sampled = (None if sampler.keeps_track else sampler), numbers
            return sampler
        return self._sampler

    def _read(self, sequences: list[SequenceState], fresh: list[int]) -> Tensor:
        """Read what is new of each: the logits behind its last token, a row each."""
        found: dict[SequenceState, Tensor] = {}
        plan, going = Plan(slot_clears=fresh, moved=sequences), sequences
        while going:
            share = max(1, self._max_tokens // len(going))
            for one in going:
                left = len(one.tokens) - one.computed
                plan.chunks.append(Chunk(one, one.computed, min(left, share), left <= share))
            logits = self._runner.run(plan)
            for chunk in plan.chunks:
                chunk.sequence.computed += chunk.count
            done = [chunk.sequence for chunk in plan.chunks if chunk.samples]
            if len(done) == len(sequences):
                return logits
            found.update(zip(done, logits, strict=True))
            going = [chunk.sequence for chunk in plan.chunks if not chunk.samples]
            plan = Plan()
        return torch.stack([found[one] for one in sequences])

    def forget(self, number: int) -> None:
        """That answer has ended: what was held for it is free."""
        if number in self._sampled:
            self._sampler, self._sampled = None, []
        sequence = self._followed.pop(number, None)
        if sequence is not None:
            self._blocks.release(sequence.blocks)
            self._free.append(sequence.slot)
            if not self._followed:
                self._runner.release()

    def _follow(self, answer: Draftable, count: int, fresh: list[int]) -> SequenceState:
        """Our side of an answer: the tokens whose state is there still, and room for what comes."""
        sequence = self._followed.get(answer.number)
        if sequence is None:
            slot = self._free.pop()
            fresh.append(slot)
            sequence = self._followed[answer.number] = _blank(answer.number, slot, self._context)
        # Behind what was read as certain stand guesses; those that came true need not be read again.
        known = min(sequence.computed, len(answer.tokens) - 1)
        while known < min(len(sequence.tokens), len(answer.tokens) - 1) and (
            not self._runner.has_rows and sequence.tokens[known] == answer.tokens[known]
        ):
            known += 1
        sequence.tokens, sequence.computed = list(answer.tokens), known
        needed = self._blocks.blocks_for(len(sequence.tokens) + count) - len(sequence.blocks)
        if self._runner.has_pages and needed > 0:
            last = sequence.blocks[-1] if sequence.blocks else -1
            sequence.blocks += self._blocks.allocate(needed, after=last)
        return sequence

    def _go_back(
        self, live: list[tuple[int, SequenceState]], kept: list[dict[str, Tensor]]
    ) -> None:
        """Running states as they were before the guesses; what is paged is overwritten in time."""
        self._runner.restore([sequence.slot for _, sequence in live], kept)


def _marks(size: int, rows: list[int], device: torch.device) -> Tensor:
    marks = torch.zeros(size, dtype=torch.bool, device=device)
    marks[rows] = True
    return marks


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
