"""Speculative decoding in the engine: drafts are proposed before a step and verified after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.constraints.grammar import ConstraintMatcher
from glassbox.inference.plan import Chunk, SequenceState
from glassbox.inference.requests import SampleState
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import RowSampler, SampledTokens
from glassbox.inference.speculation.proposers import DraftRequest, Proposer, SpeculationStats


class SpeculativeDecoder:
    """Asks a proposer for at most `num_drafts` draft tokens a sequence, and counts how many are accepted."""

    def __init__(self, proposer: Proposer, num_drafts: int) -> None:
        if num_drafts < 1:
            raise UserError(f"num_drafts = {num_drafts}: give at least 1")
        self.proposer, self.num_drafts = proposer, num_drafts
        self.counts = SpeculationStats()

    def propose(self, running: Sequence[tuple[SequenceState, SampleState]]) -> None:
        """Set the drafts of every running sequence whose next step decodes (feeds one token)."""
        active = [
            (sequence, sample)
            for sequence, sample in running
            if sequence.computed > 0
            and len(sequence.tokens) - sequence.computed == 1
            and sample.request.params.guidance_scale == 1  # its logits come one position at a time
        ]
        wanted = [
            DraftRequest(
                sequence.id,
                sequence.tokens,
                sequence.num_generated,
                min(self.num_drafts, room),
                sample.row,
            )
            for sequence, sample in active
            if (room := sequence.max_length - len(sequence.tokens) - 1) > 0
        ]
        found = self.proposer.propose(wanted) if wanted else []
        drafts = {one.number: tokens for one, tokens in zip(wanted, found, strict=True)}
        for sequence, _ in active:
            sequence.drafted = drafts.get(sequence.id, [])

    def count(
        self, with_drafts: Mapping[SequenceState, Chunk], tokens: Mapping[SequenceState, int]
    ) -> list[Chunk]:
        """Count drafts and accepted ones, one fewer than the tokens sampled; returns the chunks with rejected drafts."""
        self.counts.passes += len(with_drafts)
        self.counts.drafted += sum(len(chunk.drafted) for chunk in with_drafts.values())
        self.counts.accepted += sum(tokens[sequence] - 1 for sequence in with_drafts)
        return [chunk for s, chunk in with_drafts.items() if tokens[s] - 1 < len(chunk.drafted)]


@dataclass(frozen=True)
class Verified:
    """The result of a verification pass.

    tokens: per row, the accepted drafts and one more; sound: whether a row's logits were finite;
    sources: per row, where each token was sampled: (index into `picked`, row there).
    """

    tokens: list[list[int]]
    sound: list[bool]
    picked: list[SampledTokens]
    sources: list[list[tuple[int, int]]]

    def scores(self) -> list[tuple[list[float], list[float]] | None]:
        """`log_probs` and `sampling_log_probs` of each of `picked` as lists, where requested."""
        return [
            None
            if picked.log_probs is None or picked.sampling_log_probs is None
            else (picked.log_probs.tolist(), picked.sampling_log_probs.tolist())
            for picked in self.picked
        ]

    def top_log_probs(self) -> list[list[list[tuple[int, float]]] | None]:
        """The most likely tokens of each row of each of `picked`, where requested."""
        return [_top_log_probs(picked) for picked in self.picked]

    def entropies(self) -> list[list[float] | None]:
        """The entropy of each row of each of `picked`, where the most likely tokens were requested."""
        return [None if p.entropies is None else p.entropies.tolist() for p in self.picked]


def _top_log_probs(picked: SampledTokens) -> list[list[tuple[int, float]]] | None:
    if picked.top_ids is None or picked.top_log_probs is None:
        return None
    pairs = zip(picked.top_ids.tolist(), picked.top_log_probs.tolist(), strict=True)
    return [list(zip(ids, values, strict=True)) for ids, values in pairs]


def verify(
    sampler: RowSampler,
    logits: Float[Tensor, "M V"],
    drafts: Sequence[Sequence[int]],
    steps: Int[Tensor, " R"],
    matchers: Sequence[ConstraintMatcher | None],
) -> Verified:
    """Sample each row's tokens and accept the drafts that equal them.

    logits: 1 + k rows for each row of k drafts, in order. The sampler's histories and constraints
    advance past the accepted tokens. A row whose logits are not finite accepts nothing.
    """
    if not any(drafts):
        picked = sampler.pick(logits, steps)
        tokens = picked.tokens.tolist()
        sound = picked.sound.tolist()
        _accept(sampler, picked.tokens, sound)
        sources = [[(0, row)] for row in range(len(tokens))]
        return Verified([[token] for token in tokens], sound, [picked], sources)
    if any(matcher is not None for matcher in matchers) or any(map(_penalises, sampler.params)):
        return _verify_in_turn(sampler, logits, drafts, steps, matchers)
    return _verify_at_once(sampler, logits, drafts, steps)


def _accept(sampler: RowSampler, tokens: Int[Tensor, " R"], wanted: list[bool]) -> None:
    rows = None if all(wanted) else torch.tensor(wanted, device=tokens.device)
    sampler.accept(tokens, rows)


def _verify_at_once(
    sampler: RowSampler,
    logits: Float[Tensor, "M V"],
    drafts: Sequence[Sequence[int]],
    steps: Int[Tensor, " R"],
) -> Verified:
    """All positions are sampled together: none depends on the tokens before it."""
    rows = [row for row, draft in enumerate(drafts) for _ in range(1 + len(draft))]
    ahead = [offset for draft in drafts for offset in range(1 + len(draft))]
    owner = torch.tensor(rows, device=steps.device)
    picked = sampler.select(rows).pick(
        logits, steps[owner] + torch.tensor(ahead, device=steps.device)
    )
    sampled, sound = picked.tokens.tolist(), picked.sound.tolist()
    firsts = [0, *accumulate(1 + len(draft) for draft in drafts)]
    tokens, sources, finite = [], [], []
    for first, draft in zip(firsts, drafts, strict=False):
        accepted = 0
        while (
            accepted < len(draft)
            and sound[first + accepted]
            and sampled[first + accepted] == draft[accepted]
        ):
            accepted += 1
        here = range(first, first + accepted + 1)
        tokens.append([sampled[at] for at in here])
        sources.append([(0, at) for at in here])
        finite.append(sound[first + accepted])
    return Verified(tokens, finite, [picked], sources)


def _verify_in_turn(
    sampler: RowSampler,
    logits: Float[Tensor, "M V"],
    drafts: Sequence[Sequence[int]],
    steps: Int[Tensor, " R"],
    matchers: Sequence[ConstraintMatcher | None],
) -> Verified:
    """Position by position: penalties and constraints depend on the tokens before."""
    firsts = [0, *accumulate(1 + len(draft) for draft in drafts)][:-1]
    number = len(drafts)
    tokens: list[list[int]] = [[] for _ in drafts]
    sources: list[list[tuple[int, int]]] = [[] for _ in drafts]
    picks, sound, active = [], [True] * number, [True] * number
    for offset in range(1 + max(map(len, drafts))):
        rows = [
            first + (offset if on else 0) for first, on in zip(firsts, active, strict=True)
        ]  # rows that have stopped are sampled again; the result is ignored
        picked = sampler.pick(logits[torch.tensor(rows, device=logits.device)], steps + offset)
        sampled, finite = picked.tokens.tolist(), picked.sound.tolist()
        accepting = list(active)
        for row, draft in enumerate(drafts):
            if not active[row]:
                continue
            tokens[row].append(sampled[row])
            sources[row].append((offset, row))
            sound[row] = accepting[row] = finite[row]
            active[row] = finite[row] and offset < len(draft) and sampled[row] == draft[offset]
        picks.append(picked)
        _accept(sampler, picked.tokens, accepting)
        # A finished constraint allows nothing more: later drafts are not verified.
        active = [
            on and (matcher is None or not matcher.finished)
            for on, matcher in zip(active, matchers, strict=True)
        ]
        if not any(active):
            break
    return Verified(tokens, sound, picks, sources)


def _penalises(params: SamplingParams) -> bool:
    neutral = params.frequency_penalty == 0 and params.presence_penalty == 0
    return params.repetition_penalty != 1 or not neutral or params.has_processors
