"""Speculative decoding: guess several tokens cheaply, let the model check all of them in one pass.

Verification is by coupled draws. Each place of an answer has a number of its own, a function of (seed,
sample, step), and the token there is what the model's own distribution gives for that number. A guess
is kept where it is that very token, and the first that is not ends the pass; so a text is the same, to
the token, with guesses and without, and its distribution is the model's exactly. A draft model draws
by the same numbers, so that where its distribution is near the model's, its guesses are the tokens.

Leviathan et al. (arXiv:2211.17192) keep a guess by chance instead, which keeps the distribution but
not the text. Prompt lookup: Saxena, 2023. Tested against: generation without guesses, exact
probabilities by chi-square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from glassbox.core.errors import UserError
from glassbox.inference.plain import choose_plain
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inference.sampling.sampler import SamplingRow
from glassbox.models.causal_lm import CausalLM


@dataclass(frozen=True)
class Draftable:
    """An answer that guesses are wanted for.

    number: whose it is, the same from step to step; tokens: prompt and answer so far.
    generated: how many of them are the answer's; count: how many guesses at most; row: how its next
    token will be drawn.
    """

    number: int
    tokens: Sequence[int]
    generated: int
    count: int
    row: Callable[[], SamplingRow]


class Proposer(Protocol):
    """Where guesses come from."""

    def propose(self, answers: Sequence[Draftable]) -> list[list[int]]:
        """Guesses for each answer, at most `count`, perhaps none."""

    def forget(self, number: int) -> None:
        """That answer has ended; numbers never seen are ignored."""


class NgramIndex:
    """What came after the same few tokens earlier in a text; it grows with the text.

    Every run of `shortest` to `longest` tokens is remembered with the place behind its latest
    occurrence, so that a token costs a few look-ups however long the text.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._lengths = range(shortest, longest + 1)
        self._behind: dict[tuple[int, ...], int] = {}
        self._done = 0  # runs that end before this place are in the index

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that followed the longest end of the text that stands earlier in it.

        `tokens` must go on from those of the call before. Where what followed runs into the end,
        the guesses themselves go on: a text that repeats itself is guessed to repeat.

        >>> NgramIndex(1, 4).propose([5, 6, 7, 5, 6], 4)
        [7, 5, 6, 7]
        """
        for end in range(max(self._done, 1), len(tokens)):
            for length in self._lengths:
                if length <= end:
                    self._behind[tuple(tokens[end - length : end])] = end
        self._done = len(tokens)
        for length in reversed(self._lengths):
            if length < len(tokens):
                place = self._behind.get(tuple(tokens[-length:]))
                if place is not None:
                    guesses: list[int] = []
                    for at in range(place, place + count):
                        guesses.append(
                            tokens[at] if at < len(tokens) else guesses[at - len(tokens)]
                        )
                    return guesses
        return []


class NgramProposer:
    """Guesses by looking up the end of the text earlier in it (prompt lookup): free, and good where
    an answer quotes its prompt or itself.

    Raises UserError for lengths that are none.
    """

    def __init__(self, *, shortest: int = 2, longest: int = 6) -> None:
        if not 1 <= shortest <= longest:
            raise UserError(f"shortest = {shortest}, longest = {longest}: give 1 <= both in order")
        self.shortest, self.longest = shortest, longest
        self._indexes: dict[int, NgramIndex] = {}

    def propose(self, answers: Sequence[Draftable]) -> list[list[int]]:
        """Guesses for each answer; none where its end is new to the text."""
        found = []
        for answer in answers:
            index = self._indexes.get(answer.number)
            if index is None:
                index = self._indexes[answer.number] = NgramIndex(self.shortest, self.longest)
            found.append(index.propose(answer.tokens, answer.count))
        return found

    def forget(self, number: int) -> None:
        """That answer has ended."""
        self._indexes.pop(number, None)


@dataclass
class Speculation:
    """How guessing went: passes of the model, guesses made, guesses kept."""

    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def accepted_per_pass(self) -> float:
        """Guesses kept a pass; each pass gives one token more than that."""
        return self.accepted / self.passes if self.passes else 0.0


@torch.no_grad()
def speculate_plain(
    model: CausalLM,
    prompt: Sequence[int],
    params: SamplingParams,
    proposer: Proposer,
    num_drafts: int,
    *,
    sample: int = 0,
) -> tuple[list[int], Speculation]:
    """`generate_plain` with guesses: no cache, no batch. The oracle of the engine's verification."""
    ids, counts = list(prompt), Speculation()
    most = min(len(prompt) + params.max_tokens, model.config.context_length)

    def row() -> SamplingRow:
        return SamplingRow(params, params.seed or 0, sample, prompt, ids[len(prompt) :])

    while len(ids) < most:
        room = min(num_drafts, most - len(ids) - 1)
        (drafts,) = proposer.propose([Draftable(0, ids, len(ids) - len(prompt), room, row)])
        sequence = torch.tensor([ids + drafts], device=model.device)
        logits = model(sequence)[0, len(ids) - 1 :]  # (1 + k, V)
        counts.passes += 1
        counts.drafted += len(drafts)
        for place, guess in enumerate([*drafts, None]):
            generated = ids[len(prompt) :]
            ids.append(choose_plain(logits[place], params, prompt, generated, sample=sample))
            if ids[-1] in params.stop_token_ids:
                return ids[len(prompt) :], counts
            if ids[-1] != guess:
                break
            counts.accepted += 1
    return ids[len(prompt) :], counts


def check_draft(model: CausalLM, draft: CausalLM) -> None:
    """Raise UserError where a draft model cannot guess for a model: another vocabulary."""
    ours, theirs = model.config.vocab_size, draft.config.vocab_size
    if ours != theirs:
        raise UserError(
            f"the draft model's vocabulary has {theirs} entries, the model's {ours}; a draft model "
            "must have been trained with the same tokenizer"
        )


def with_own_matcher(row: SamplingRow) -> SamplingRow:
    """The same row with a constraint of its own to move along, or none."""
    return replace(row, matcher=None if row.matcher is None else row.matcher.copy())
