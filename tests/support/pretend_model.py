"""A model whose state is what it has read: it notices every wrong block, stale slot and missed copy.

The content of a place is a hash of all tokens up to it, and of tenant and adapter; a slot holds the
same for all tokens so far. A step reads both back as an engine would, and compares. The next token is
a hash of the tokens before it, so an answer is known without any scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glassbox.inference.plan import Chunk, Plan, SequenceState

MODULUS = (1 << 61) - 1


def content(before: int, token: int) -> int:
    """What a place holds: the token and, through the place before, all that went before it."""
    return (before * 1_000_003 + token * 7919 + 12_345) % MODULUS


def contents(sequence: SequenceState, tokens: Iterable[int]) -> list[int]:
    """Of every place, from the beginning of the sequence."""
    state, found = hash_text(sequence.tenant + "/" + sequence.adapter), []
    for token in tokens:
        state = content(state, token)
        found.append(state)
    return found


def hash_text(text: str) -> int:
    """The same in every process."""
    return int.from_bytes(text.encode(), "little") % MODULUS


def next_token(tokens: Sequence[int], sample: int, vocab: int) -> int:
    """Depends on every token before, and on which sample it is."""
    state = sample + 1
    for token in tokens:
        state = content(state, token)
    return state // 31 % vocab


def answer(
    prompt: Sequence[int], sample: int, vocab: int, most: int, stop_tokens: frozenset[int]
) -> list[int]:
    """What a request gets when it is alone and nothing is stored."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + most:
        tokens.append(next_token(tokens, sample, vocab))
        if tokens[-1] in stop_tokens:
            break
    return tokens[len(prompt) :]


class PretendModel:
    """Carries out plans. `paged` and `pooled` say which of the two kinds of state it keeps."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_slots: int,
        *,
        paged: bool,
        pooled: bool,
        vocab: int,
    ) -> None:
        self.block_size, self.paged, self.pooled, self.vocab = block_size, paged, pooled, vocab
        self.places: list[int | None] = [None] * (num_blocks * block_size)
        self.slots: list[int | None] = [None] * num_slots
        self.tables: dict[SequenceState, list[int]] = {}
        self.places_written = 0

    def run(self, plan: Plan) -> list[list[int]]:
        """Copy, clear, read back, write; the tokens that commit wants."""
        self._copy(plan)
        for sequence in plan.moved:
            self.tables[sequence] = list(sequence.blocks)
        reads = [self._expected(chunk) for chunk in plan.chunks]  # all of a step reads before
        del reads  # it writes, or after: either must do, so both are looked at
        tokens: list[list[int]] = []
        for chunk in plan.chunks:
            kept = self._kept(chunk)
            self._write(chunk, kept)
            if chunk.samples:
                tokens.append(kept)
                known = chunk.sequence.tokens
                tokens += [
                    [next_token(known, sibling.sample_index, self.vocab)]
                    for sibling in chunk.siblings
                ]
        for chunk in plan.chunks:
            self._expected(chunk)
        return tokens

    def _copy(self, plan: Plan) -> None:
        size = self.block_size
        targets = [target for _, target in plan.block_copies]
        assert len(set(targets)) == len(targets)
        before = self.places.copy()
        for source, target in plan.block_copies:
            old = before[source * size : (source + 1) * size]
            assert old == self.places[source * size : (source + 1) * size], "order matters"
            self.places[target * size : (target + 1) * size] = old
        targets = [target for _, target in plan.slot_copies]
        assert len(set(targets)) == len(targets)
        assert not set(targets) & {source for source, _ in plan.slot_copies}
        for source, target in plan.slot_copies:
            self.slots[target] = self.slots[source]
        for slot in plan.slot_clears:
            self.slots[slot] = None

    def _place(self, sequence: SequenceState, position: int) -> int:
        block = self.tables[sequence][position // self.block_size]
        return block * self.block_size + position % self.block_size

    def _expected(self, chunk: Chunk) -> None:
        """What lies before the chunk is the state of exactly the tokens before it."""
        sequence = chunk.sequence
        if self.paged:
            assert self.tables[sequence] == sequence.blocks, "moved, and nobody said so"
            for position, wanted in enumerate(contents(sequence, sequence.tokens[: chunk.start])):
                found = self.places[self._place(sequence, position)]
                assert found == wanted, (sequence, position)

    def _kept(self, chunk: Chunk) -> list[int]:
        """The drafted tokens that the model itself would have chosen, and one more."""
        if not chunk.samples:
            return []
        sequence = chunk.sequence
        assert chunk.start + chunk.count == len(sequence.tokens)
        known, kept = list(sequence.tokens), []
        for drafted in [*chunk.drafted, None]:
            token = next_token(known, sequence.sample_index, self.vocab)
            known.append(token)
            kept.append(token)
            if drafted != token:
                break
        return kept

    def _write(self, chunk: Chunk, kept: list[int]) -> None:
        sequence, fed = chunk.sequence, chunk.fed
        assert len(fed) == chunk.count + len(chunk.drafted)
        states = contents(sequence, sequence.tokens[: chunk.start] + fed)
        if self.paged:
            for position in range(chunk.start, chunk.start + len(fed)):
                self.places[self._place(sequence, position)] = states[position]
                self.places_written += 1
        if self.pooled:
            before = states[chunk.start - 1] if chunk.start else None
            assert self.slots[sequence.slot] == before, (sequence, "another's running state")
            rejected = len(chunk.drafted) - (len(kept) - 1) if chunk.samples else 0
            self.slots[sequence.slot] = states[chunk.start + len(fed) - rejected - 1]
