"""Speculative decoding: draft several tokens cheaply and verify all of them in one pass of the model.

Verification is by coupled sampling. Each position of an output has a uniform random number of its own,
a function of (seed, sample, step), and its token is what the model's distribution gives for that number.
A draft is accepted where it equals that token, and the first that does not ends the pass; so the output
is the same, token for token, with and without speculation, and its distribution is exactly the model's.
A draft model samples with the same numbers, so that where its distribution is close to the model's, its
drafts are accepted.

Leviathan et al. (arXiv:2211.17192) accept by rejection sampling instead, which preserves the distribution
but not the text. Prompt lookup: Saxena, 2023. Tested against: generation without speculation, exact
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
class DraftRequest:
    """A sequence to draft for.

    number: its id, the same from step to step; tokens: prompt and output so far.
    generated: how many of them are the output's; count: the most drafts; row: how its next token
    will be sampled.
    """

    number: int
    tokens: Sequence[int]
    generated: int
    count: int
    row: Callable[[], SamplingRow]


class Proposer(Protocol):
    """A source of drafts."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        """Drafts for each sequence, at most `count`, perhaps none."""

    def forget(self, number: int) -> None:
        """That sequence has ended; unknown numbers are ignored."""


class NgramIndex:
    """Continuations of the n-grams of a growing text.

    Every n-gram of `shortest` to `longest` tokens is stored with the position after its latest
    occurrence, so that a token costs a few look-ups however long the text.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._lengths = range(shortest, longest + 1)
        self._behind: dict[tuple[int, ...], int] = {}
        self._done = 0  # runs that end before this position are in the index

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that followed the longest suffix of the text that occurs earlier in it.

        `tokens` must extend those of the last call. Where the continuation reaches the end of the
        text it goes on with the drafts themselves: a repeating text is drafted to repeat.

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
                position = self._behind.get(tuple(tokens[-length:]))
                if position is not None:
                    drafts: list[int] = []
                    for at in range(position, position + count):
                        drafts.append(tokens[at] if at < len(tokens) else drafts[at - len(tokens)])
                    return drafts
        return []


class NgramProposer:
    """Drafts from n-gram look-up in the text itself (prompt lookup): free, and effective where an
    output quotes its prompt or itself.

    Raises UserError for lengths that are none.
    """

    def __init__(self, *, shortest: int = 2, longest: int = 6) -> None:
        if not 1 <= shortest <= longest:
            raise UserError(f"shortest = {shortest}, longest = {longest}: give 1 <= both in order")
        self.shortest, self.longest = shortest, longest
        self._indexes: dict[int, NgramIndex] = {}

    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        """Drafts for each sequence; none where its suffix is new to the text."""
        found = []
        for request in requests:
            index = self._indexes.get(request.number)
            if index is None:
                index = self._indexes[request.number] = NgramIndex(self.shortest, self.longest)
            found.append(index.propose(request.tokens, request.count))
        return found

    def forget(self, number: int) -> None:
        """That sequence has ended."""
        self._indexes.pop(number, None)


@dataclass
class SpeculationStats:
    """Verification passes, drafts proposed, drafts accepted."""

    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def accepted_per_pass(self) -> float:
        """Mean accepted drafts a pass; each pass yields one token more."""
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
) -> tuple[list[int], SpeculationStats]:
    """`generate_plain` with drafts: no cache, no batch. The oracle of the engine's verification."""
    ids, counts = list(prompt), SpeculationStats()
    most = min(len(prompt) + params.max_tokens, model.config.context_length)

    def row() -> SamplingRow:
        return SamplingRow(params, params.seed or 0, sample, prompt, ids[len(prompt) :])

    while len(ids) < most:
        room = min(num_drafts, most - len(ids) - 1)
        (drafts,) = proposer.propose([DraftRequest(0, ids, len(ids) - len(prompt), room, row)])
        sequence = torch.tensor([ids + drafts], device=model.device)
        logits = model(sequence)[0, len(ids) - 1 :]  # (1 + k, V)
        counts.passes += 1
        counts.drafted += len(drafts)
        for position, draft in enumerate([*drafts, None]):
            generated = ids[len(prompt) :]
            ids.append(choose_plain(logits[position], params, prompt, generated, sample=sample))
            if ids[-1] in params.stop_token_ids:
                return ids[len(prompt) :], counts
            if ids[-1] != draft:
                break
            counts.accepted += 1
    return ids[len(prompt) :], counts


def check_draft(model: CausalLM, draft: CausalLM) -> None:
    """Raise UserError where a draft model has another vocabulary than the model."""
    ours, theirs = model.config.vocab_size, draft.config.vocab_size
    if ours != theirs:
        raise UserError(
            f"the draft model's vocabulary has {theirs} entries, the model's {ours}; a draft model "
            "must have been trained with the same tokenizer"
        )


def with_own_matcher(row: SamplingRow) -> SamplingRow:
    """The same row with its own copy of the constraint's state, if any."""
    return replace(row, matcher=None if row.matcher is None else row.matcher.copy())
