"""Guesses in the engine: asked for before a step, drawn against after it. See `speculation`."""

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
from glassbox.inference.requests import Answer
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import Picked, RowSampler
from glassbox.inference.speculation.proposers import Draftable, Proposer, Speculation


class Guessing:
    """Asks a proposer for at most `num_drafts` guesses an answer, and counts how they went."""

    def __init__(self, proposer: Proposer, num_drafts: int) -> None:
        if num_drafts < 1:
            raise UserError(f"num_drafts = {num_drafts}: give at least 1")
        self.proposer, self.num_drafts = proposer, num_drafts
        self.counts = Speculation()

    def propose(self, running: Sequence[tuple[SequenceState, Answer]]) -> None:
        """Give every sequence that runs guesses whose next step feeds it one token of its answer."""
        going = [
            (sequence, answer)
            for sequence, answer in running
            if sequence.computed > 0 and len(sequence.tokens) - sequence.computed == 1
        ]
        wanted = [
            Draftable(
                sequence.id,
                sequence.tokens,
                sequence.num_generated,
                min(self.num_drafts, room),
                answer.row,
            )
            for sequence, answer in going
            if (room := sequence.max_length - len(sequence.tokens) - 1) > 0
        ]
        found = self.proposer.propose(wanted) if wanted else []
        drafts = {one.number: guesses for one, guesses in zip(wanted, found, strict=True)}
        for sequence, _ in going:
            sequence.drafted = drafts.get(sequence.id, [])

    def count(
        self, guessed: Mapping[SequenceState, Chunk], tokens: Mapping[SequenceState, int]
    ) -> list[Chunk]:
        """Count guesses and those kept, one fewer than the tokens drawn; the chunks that hold wrong ones."""
        self.counts.passes += len(guessed)
        self.counts.drafted += sum(len(chunk.drafted) for chunk in guessed.values())
        self.counts.accepted += sum(tokens[sequence] - 1 for sequence in guessed)
        return [chunk for s, chunk in guessed.items() if tokens[s] - 1 < len(chunk.drafted)]


@dataclass(frozen=True)
class Verified:
    """What a pass with guesses gave.

    tokens: of each row the guesses kept and one more; sound: whether a row's logits were;
    places: of each row where its tokens stand: (which of `picked`, its row).
    """

    tokens: list[list[int]]
    sound: list[bool]
    picked: list[Picked]
    places: list[list[tuple[int, int]]]

    def scores(self) -> list[tuple[list[float], list[float]] | None]:
        """Of each of `picked`, `log_probs` and `sampling_log_probs` as lists, where asked for."""
        return [
            None
            if picked.log_probs is None or picked.sampling_log_probs is None
            else (picked.log_probs.tolist(), picked.sampling_log_probs.tolist())
            for picked in self.picked
        ]

    def tops(self) -> list[list[list[tuple[int, float]]] | None]:
        """Of each of `picked` the likeliest words of each row, where asked for."""
        return [_tops(picked) for picked in self.picked]


def _tops(picked: Picked) -> list[list[tuple[int, float]]] | None:
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
    """Draw each row's tokens and keep the guesses that they equal.

    logits: 1 + k rows for each row of k guesses, one row behind the other. The sampler's histories
    and constraints move on past what is kept. A row that is not sound keeps nothing.
    """
    if not any(drafts):
        picked = sampler.pick(logits, steps)
        tokens = picked.tokens.tolist()
        sound = picked.sound.tolist()
        _accept(sampler, picked.tokens, sound)
        places = [[(0, row)] for row in range(len(tokens))]
        return Verified([[token] for token in tokens], sound, [picked], places)
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
    """All places are drawn together: no draw depends on the ones before it."""
    rows = [row for row, guesses in enumerate(drafts) for _ in range(1 + len(guesses))]
    ahead = [place for guesses in drafts for place in range(1 + len(guesses))]
    owner = torch.tensor(rows, device=steps.device)
    picked = sampler.select(rows).pick(
        logits, steps[owner] + torch.tensor(ahead, device=steps.device)
    )
    drawn, sound = picked.tokens.tolist(), picked.sound.tolist()
    firsts = [0, *accumulate(1 + len(guesses) for guesses in drafts)]
    tokens, places, well = [], [], []
    for first, guesses in zip(firsts, drafts, strict=False):
        kept = 0
        while kept < len(guesses) and sound[first + kept] and drawn[first + kept] == guesses[kept]:
            kept += 1
        here = range(first, first + kept + 1)
        tokens.append([drawn[place] for place in here])
        places.append([(0, place) for place in here])
        well.append(sound[first + kept])
    return Verified(tokens, well, [picked], places)


def _verify_in_turn(
    sampler: RowSampler,
    logits: Float[Tensor, "M V"],
    drafts: Sequence[Sequence[int]],
    steps: Int[Tensor, " R"],
    matchers: Sequence[ConstraintMatcher | None],
) -> Verified:
    """Place by place: penalties and constraints depend on the tokens before."""
    firsts = [0, *accumulate(1 + len(guesses) for guesses in drafts)][:-1]
    number = len(drafts)
    tokens: list[list[int]] = [[] for _ in drafts]
    places: list[list[tuple[int, int]]] = [[] for _ in drafts]
    picks, sound, going = [], [True] * number, [True] * number
    for place in range(1 + max(map(len, drafts))):
        rows = [
            first + (place if on else 0) for first, on in zip(firsts, going, strict=True)
        ]  # rows that have stopped draw again, in vain
        picked = sampler.pick(logits[torch.tensor(rows, device=logits.device)], steps + place)
        drawn, well = picked.tokens.tolist(), picked.sound.tolist()
        taken = list(going)
        for row, guesses in enumerate(drafts):
            if not going[row]:
                continue
            tokens[row].append(drawn[row])
            places[row].append((place, row))
            sound[row] = taken[row] = well[row]
            going[row] = well[row] and place < len(guesses) and drawn[row] == guesses[place]
        picks.append(picked)
        _accept(sampler, picked.tokens, taken)
        # A constraint that is at its end has nothing more to allow: what follows is not looked at.
        going = [
            on and (matcher is None or not matcher.finished)
            for on, matcher in zip(going, matchers, strict=True)
        ]
        if not any(going):
            break
    return Verified(tokens, sound, picks, places)


def _penalises(params: SamplingParams) -> bool:
    neutral = params.frequency_penalty == 0 and params.presence_penalty == 0
    return params.repetition_penalty != 1 or not neutral
