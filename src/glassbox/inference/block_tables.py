"""The blocks that each sequence holds: taken, shared, copied before they are written, given back.

Between the `BlockManager`, which knows blocks, and the `Scheduler`, which knows whose turn it is.
Without blocks (a model whose state is of fixed size) everything fits and nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterable

from glassbox.inference.block_manager import BlockManager, block_key
from glassbox.inference.plan import SequenceState


class Paging:
    """What sequences hold of `blocks`.

    copies: (source, destination) of blocks since the last plan; moved: sequences whose blocks have
    changed since then; tokens_shared: tokens that did not have to be computed, since the beginning.
    """

    def __init__(self, blocks: BlockManager | None) -> None:
        self.blocks = blocks
        self.copies: list[tuple[int, int]] = []
        self.moved: dict[SequenceState, None] = {}
        self.tokens_shared = 0

    def num_known(self, sequence: SequenceState) -> int:
        """Tokens of a waiting sequence that it would not have to compute; never its last one."""
        if self.blocks is None:
            return 0
        return len(self._known(sequence)) * self.blocks.block_size

    def fits(
        self, sequence: SequenceState, running: Iterable[SequenceState], *, born: bool
    ) -> bool:
        """Whether all its tokens fit, and each running sequence could still grow by a block.

        One that is to be `born` beside its reader needs no more than a block to go on in.
        """
        blocks = self.blocks
        if blocks is None:
            return True
        free = blocks.num_free
        for other in running:
            free -= len(other.blocks) < blocks.blocks_for(other.max_length - 1)
        if born or free < 1:
            return free >= 1
        known = self._known(sequence)
        wanted = blocks.blocks_for(len(sequence.tokens)) - len(known)
        return free >= wanted + blocks.num_without_user(known)

    def admit(self, sequence: SequenceState) -> None:
        """Blocks for all its tokens; those that hold its beginning already are shared."""
        blocks = self.blocks
        if blocks is None:
            return
        known = self._known(sequence)
        blocks.share(known)
        sequence.blocks = known + blocks.allocate(
            blocks.blocks_for(len(sequence.tokens)) - len(known),
            after=known[-1] if known else -1,
            room=blocks.blocks_for(sequence.max_length - 1) - len(known),
        )
        sequence.computed = sequence.reused = len(known) * blocks.block_size
        sequence.registered = len(known)
        self.tokens_shared += sequence.computed
        self.moved[sequence] = None

    def release(self, sequence: SequenceState) -> None:
        """Give everything back; nothing of it is computed any more."""
        if self.blocks is not None:
            self.blocks.release(sequence.blocks)
            sequence.blocks = []
        sequence.computed = sequence.registered = 0

    def can_write(self, sequence: SequenceState) -> bool:
        """Whether the next token has a place of its own to go to."""
        blocks = self.blocks
        if blocks is None:
            return True
        place, held = sequence.computed // blocks.block_size, sequence.blocks
        return place < len(held) and not blocks.is_shared(held[place])

    def make_room(self, sequence: SequenceState, num_tokens: int = 1) -> bool:
        """Places of its own for the next tokens; False, and nothing done, for want of blocks.

        Blocks that somebody else counts on too are copied first.
        """
        blocks = self.blocks
        if blocks is None:
            return True
        first = sequence.computed // blocks.block_size
        behind = (sequence.computed + num_tokens - 1) // blocks.block_size + 1
        held = sequence.blocks
        places = [
            place
            for place in range(first, behind)
            if place >= len(held) or blocks.is_shared(held[place])
        ]
        if len(places) > blocks.num_free:
            return False
        for place in places:
            (fresh,) = blocks.allocate(1, after=held[place - 1] if place else -1)
            if place == len(held):
                held.append(fresh)
            else:
                self.copies.append((held[place], fresh))
                blocks.release([held[place]])
                held[place] = fresh
            self.moved[sequence] = None
        return True

    def trim(self, sequence: SequenceState) -> None:
        """Give back the blocks that drafts were written to in vain."""
        if self.blocks is not None:
            keep = self.blocks.blocks_for(sequence.computed + 1)
            if keep < len(sequence.blocks):
                self.blocks.release(sequence.blocks[keep:])
                del sequence.blocks[keep:]
                self.moved[sequence] = None

    def fork(self, source: SequenceState, sequence: SequenceState) -> None:
        """`sequence` begins with the same tokens and counts on the same blocks."""
        if self.blocks is not None:
            sequence.blocks = source.blocks[: self.blocks.blocks_for(source.computed)]
            self.blocks.share(sequence.blocks)
            sequence.keys = source.keys.copy()
            sequence.registered = source.registered
            self.moved[sequence] = None
        sequence.computed = source.computed

    def take_over(self, sequence: SequenceState, coming: set[bytes]) -> bool:
        """Swap blocks yet to be read for those that others have read meanwhile.

        True where the next block is one of those `coming`: then it is cheaper to wait for it.
        """
        blocks = self.blocks
        if blocks is None or not sequence.shares:
            return False
        size = blocks.block_size
        keys = self._keys(sequence, len(sequence.tokens) - 1)
        while sequence.computed % size == 0 and sequence.computed // size < len(keys):
            place = sequence.computed // size
            found = blocks.find(keys[place])
            if found is None:
                return keys[place] in coming
            blocks.share([found])
            blocks.release([sequence.blocks[place]])
            sequence.blocks[place] = found
            sequence.computed += size
            sequence.reused += size
            sequence.registered += 1
            self.tokens_shared += size
            self.moved[sequence] = None
        return False

    def announce(self, sequence: SequenceState, count: int, coming: set[bytes]) -> None:
        """Add the keys of the blocks that its next `count` tokens fill to those `coming`."""
        if self.blocks is not None and sequence.shares:
            done = sequence.computed // self.blocks.block_size
            coming.update(self._keys(sequence, sequence.computed + count)[done:])

    def whole_blocks(self, sequence: SequenceState, count: int) -> int:
        """The most of the next `count` tokens that end where a block ends; all if none do.

        Whole blocks can be shared by those who come after.
        """
        if self.blocks is None:
            return count
        whole = count - (sequence.computed + count) % self.blocks.block_size
        return whole if whole > 0 else count

    def register(self, sequence: SequenceState) -> None:
        """Full blocks of tokens that are known and computed can be shared from now on."""
        blocks = self.blocks
        if blocks is None or not sequence.shares:
            return
        full = sequence.computed // blocks.block_size
        if full > sequence.registered:
            keys = self._keys(sequence, sequence.computed)
            for place in range(sequence.registered, full):
                blocks.register(sequence.blocks[place], keys[place])
            sequence.registered = full

    def _known(self, sequence: SequenceState) -> list[int]:
        """Blocks that hold its beginning, not reaching its last token: one is always computed."""
        if self.blocks is None or not sequence.shares:
            return []
        return self.blocks.match(self._keys(sequence, len(sequence.tokens) - 1))

    def _keys(self, sequence: SequenceState, length: int) -> list[bytes]:
        """Keys of the full blocks among the first `length` tokens."""
        assert self.blocks is not None
        size, keys = self.blocks.block_size, sequence.keys
        number = length // size
        for i in range(len(keys), number):
            before = keys[-1] if keys else sequence.root
            keys.append(block_key(before, sequence.tokens[i * size : (i + 1) * size]))
        return keys[:number]
