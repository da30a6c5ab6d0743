"""The blocks of a paged KV cache: allocation, reference counts, prefix caching, block tables.

Only block numbers are kept here; the tensors that they index belong to the runner.

A block is *in use* (its reference count is positive), *cached* (no references, but it is full and its
tokens are cached, so that it can be reused as a prefix) or *vacant*. A block in use may be shared: by
forked sequences, or by requests with a common prefix. A full block is identified by its key, the hash
of its tokens chained to the key of the block before, so equal keys mean equal prefixes.

Source: Kwon et al., PagedAttention, arXiv:2309.06180.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from glassbox.inference.plan import SequenceState

_IN_USE, _VACANT, _RESERVED, _CACHED = range(4)
_KEY_BYTES = 16
_FIRST_BLOCKS = 1024
_LONGEST_ROOM = 1 << 16  # blocks that are reserved for a sequence to grow into


def root_key(tenant: str = "", adapter: str = "") -> bytes:
    """The key before the first block: tenants and adapters never share blocks.

    >>> root_key("a", "b") == root_key("ab", "")
    False
    """
    return blake2b(repr((tenant, adapter)).encode(), digest_size=_KEY_BYTES).digest()


def block_key(previous: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block that follows the block of key `previous`: 128 bits of BLAKE2b.

    Two different prefixes collide with probability 2^-128, also when chosen by an adversary.
    """
    return blake2b(previous + array("q", tokens).tobytes(), digest_size=_KEY_BYTES).digest()


class BlockManager:
    """Allocates and frees `num_blocks` blocks of `block_size` tokens.

    Cached blocks are evicted when none is vacant, least recently used first. A sequence gets
    consecutive blocks where possible, so that its cache can be read as a view: `room` blocks after a
    new sequence's first are reserved for it until others need them.

    Invariants (held by a stateful test): every block is in exactly one of the three states; its
    reference count is the number of its users; `num_vacant + num_cached + used == num_blocks`.
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix_sharing: bool = True) -> None:
        assert num_blocks > 0, num_blocks
        assert block_size > 0, block_size
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_sharing = prefix_sharing
        # of the blocks below len(self._marks); those beyond have never been used, and memory goes
        # to what is used: num_blocks may come from a context length that a file merely names
        self._ref_counts: list[int] = []
        self._marks = bytearray()
        self._grow(_FIRST_BLOCKS)
        self._num_vacant = num_blocks
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can return: vacant and cached ones."""
        return self._num_vacant + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Blocks without references whose contents can still be reused."""
        return len(self._cached)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks so many tokens fill.

        >>> BlockManager(8, 4).blocks_for(9)
        3
        """
        return -(-num_tokens // self.block_size)

    def ref_count(self, block: int) -> int:
        """How many sequences use this block."""
        return self._ref_counts[block]

    def is_shared(self, block: int) -> bool:
        """Whether another sequence uses this block too, so that it must be copied before a write."""
        return self._ref_counts[block] > 1

    def states(self) -> str:
        """A letter for each block looked at so far: u in use, s in use by several sequences, c cached
        for reuse, r reserved for its neighbour's sequence, f free."""
        letters = {_IN_USE: "u", _VACANT: "f", _RESERVED: "r", _CACHED: "c"}
        return "".join(
            "s" if self._ref_counts[block] > 1 else letters[mark]
            for block, mark in enumerate(bytes(self._marks))
        )

    def find(self, key: bytes) -> int | None:
        """The block that holds these tokens, if one does."""
        return self._block_of.get(key)

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks of the longest cached prefix of this chain of keys; `share` them before use."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def num_unreferenced(self, blocks: Iterable[int]) -> int:
        """How many of these have no references, and so count among the free ones."""
        return sum(not self._ref_counts[block] for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Increment the reference count of each of these."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                assert self._marks[block] == _CACHED, f"block {block} holds nothing to share"
                del self._cached[block]
                self._marks[block] = _IN_USE
            self._ref_counts[block] += 1

    def allocate(self, count: int, *, after: int = -1, room: int = 0) -> list[int]:
        """`count` blocks with one user each, consecutive where that can be.

        after: the block they follow in their sequence; -1 for the first ones of a sequence, for
            which a run of `room` blocks is looked for, to grow into.
        """
        assert count <= self.num_free, f"{count} blocks wanted, {self.num_free} free"
        while self._num_vacant < count:
            self._forget(self._cached.popitem(last=False)[0])
        taken: list[int] = []
        while len(taken) < count:
            start, length = self._run(after, count - len(taken), room - len(taken))
            for block in range(start, start + length):
                self._marks[block] = _IN_USE
                self._ref_counts[block] = 1
            self._num_vacant -= length
            taken.extend(range(start, start + length))
            after = taken[-1]
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Decrement the reference count of each of these, given in their sequence's order.

        The last blocks are evicted first: without those before them they cannot be reused.
        """
        for block in reversed(blocks):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                self._set_free(block)
            assert self._ref_counts[block] >= 0, f"block {block} was released twice"

    def register(self, block: int, key: bytes) -> None:
        """Publish a full, computed block for reuse. The first block registered under a key keeps it."""
        assert self._ref_counts[block], f"block {block} has no user"
        if self.prefix_sharing and key not in self._block_of:
            assert block not in self._key_of, f"block {block} holds other tokens"
            self._block_of[key] = block
            self._key_of[block] = key

    def forget_cached(self) -> None:
        """Invalidate the prefix cache: the weights have changed, say, so that its contents are stale.

        Blocks in use stay with their sequences but can no longer be found by new ones.
        """
        while self._cached:
            self._forget(self._cached.popitem(last=False)[0])
        self._block_of.clear()
        self._key_of.clear()

    def _set_free(self, block: int) -> None:
        if block in self._key_of:
            self._marks[block] = _CACHED
            self._cached[block] = None
        else:
            self._marks[block] = _VACANT
            self._num_vacant += 1
        following = block + 1
        while following < len(self._marks) and self._marks[following] == _RESERVED:
            self._marks[following] = _VACANT
            following += 1

    def _forget(self, block: int) -> None:
        """A cached block, already removed from the LRU list, becomes vacant."""
        del self._block_of[self._key_of.pop(block)]
        self._marks[block] = _VACANT
        self._num_vacant += 1

    def _grow(self, count: int) -> bool:
        """Keep books on `count` more blocks at least, where there are any."""
        known = len(self._marks)
        more = min(max(count, known), self.num_blocks - known)
        self._marks += bytes([_VACANT]) * more
        self._ref_counts += [0] * more
        return more > 0

    def _first_run(self, length: int) -> int:
        """Where the first run of `length` vacant blocks starts; -1 where there is none."""
        while (start := self._marks.find(bytes([_VACANT]) * length)) < 0 and self._grow(length):
            pass
        return start

    def _run(self, after: int, want: int, room: int) -> tuple[int, int]:
        """Start and length of a run of vacant blocks, at most `want` and as long as possible."""
        start, length = after + 1, 0
        if after >= 0:
            while (
                length < want
                and (start + length < len(self._marks) or self._grow(want))
                and self._marks[start + length] in (_VACANT, _RESERVED)
            ):
                length += 1
            if length:
                return start, length
        room = min(room, _LONGEST_ROOM)
        if room > want:
            start = self._first_run(room)
            if start >= 0:
                self._marks[start + want : start + room] = bytes([_RESERVED]) * (room - want)
                return start, want
        length = want
        while length:
            start = self._first_run(length)
            if start >= 0:
                return start, length
            length //= 2
        self._marks = self._marks.replace(
            bytes([_RESERVED]), bytes([_VACANT])
        )  # reservations yield to need
        return self._run(after, want, 0)


class BlockTables:
    """The block table of each sequence: allocated, shared, copied on write, released.

    Sits between `BlockManager` (blocks) and `Scheduler` (order). Without blocks (a model whose state
    is of fixed size) everything fits and nothing is done.

    copies: (source, destination) of blocks since the last plan; moved: sequences whose block tables
    changed since then; tokens_shared: prompt tokens found in the prefix cache, since the start.
    """

    def __init__(self, blocks: BlockManager | None) -> None:
        self.blocks = blocks
        self.copies: list[tuple[int, int]] = []
        self.moved: dict[SequenceState, None] = {}
        self.tokens_shared = 0

    def num_cached_tokens(self, sequence: SequenceState) -> int:
        """Tokens of a waiting sequence that the prefix cache holds; never its last one."""
        if self.blocks is None:
            return 0
        return len(self._cached_prefix(sequence)) * self.blocks.block_size

    def fits(
        self, sequence: SequenceState, running: Iterable[SequenceState], *, forked: bool
    ) -> bool:
        """Whether all its tokens fit, and each running sequence could still grow by a block.

        A sequence that will be `forked` from another needs only one more block to write to.
        """
        blocks = self.blocks
        if blocks is None:
            return True
        free = blocks.num_free
        for other in running:
            free -= len(other.blocks) < blocks.blocks_for(other.max_length - 1)
        if forked or free < 1:
            return free >= 1
        cached = self._cached_prefix(sequence)
        wanted = blocks.blocks_for(len(sequence.tokens)) - len(cached)
        return free >= wanted + blocks.num_unreferenced(cached)

    def admit(self, sequence: SequenceState) -> None:
        """Allocate blocks for all its tokens; those of its cached prefix are shared."""
        blocks = self.blocks
        if blocks is None:
            return
        cached = self._cached_prefix(sequence)
        blocks.share(cached)
        sequence.blocks = cached + blocks.allocate(
            blocks.blocks_for(len(sequence.tokens)) - len(cached),
            after=cached[-1] if cached else -1,
            room=blocks.blocks_for(sequence.max_length - 1) - len(cached),
        )
        sequence.computed = sequence.reused = len(cached) * blocks.block_size
        sequence.registered = len(cached)
        self.tokens_shared += sequence.computed
        self.moved[sequence] = None

    def release(self, sequence: SequenceState) -> None:
        """Free all its blocks; none of its tokens counts as computed any more."""
        if self.blocks is not None:
            self.blocks.release(sequence.blocks)
            sequence.blocks = []
        sequence.computed = sequence.registered = 0

    def can_append(self, sequence: SequenceState) -> bool:
        """Whether the next token can be written without allocating or copying a block."""
        blocks = self.blocks
        if blocks is None:
            return True
        place, held = sequence.computed // blocks.block_size, sequence.blocks
        return place < len(held) and not blocks.is_shared(held[place])

    def append_slots(self, sequence: SequenceState, num_tokens: int = 1) -> bool:
        """Allocate slots for the next tokens; False, and nothing done, when blocks run out.

        Shared blocks are copied first (copy on write).
        """
        blocks = self.blocks
        if blocks is None:
            return True
        first = sequence.computed // blocks.block_size
        behind = (sequence.computed + num_tokens - 1) // blocks.block_size + 1
        held = sequence.blocks
        positions = [
            place
            for place in range(first, behind)
            if place >= len(held) or blocks.is_shared(held[place])
        ]
        if len(positions) > blocks.num_free:
            return False
        for place in positions:
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
        """Free the blocks that only rejected drafts were written to."""
        if self.blocks is not None:
            keep = self.blocks.blocks_for(sequence.computed + 1)
            if keep < len(sequence.blocks):
                self.blocks.release(sequence.blocks[keep:])
                del sequence.blocks[keep:]
                self.moved[sequence] = None

    def fork(self, source: SequenceState, sequence: SequenceState) -> None:
        """`sequence` shares the computed blocks of `source`, whose tokens it begins with."""
        if self.blocks is not None:
            sequence.blocks = source.blocks[: self.blocks.blocks_for(source.computed)]
            self.blocks.share(sequence.blocks)
            sequence.keys = source.keys.copy()
            sequence.registered = source.registered
            self.moved[sequence] = None
        sequence.computed = source.computed

    def adopt_computed(self, sequence: SequenceState, pending: set[bytes]) -> bool:
        """Replace blocks not yet computed by equal ones that others have computed meanwhile.

        True where the next block is among those `pending` in this step: waiting for it is cheaper.
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
                return keys[place] in pending
            blocks.share([found])
            blocks.release([sequence.blocks[place]])
            sequence.blocks[place] = found
            sequence.computed += size
            sequence.reused += size
            sequence.registered += 1
            self.tokens_shared += size
            self.moved[sequence] = None
        return False

    def add_pending(self, sequence: SequenceState, count: int, pending: set[bytes]) -> None:
        """Add the keys of the blocks that its next `count` tokens fill to `pending`."""
        if self.blocks is not None and sequence.shares:
            done = sequence.computed // self.blocks.block_size
            pending.update(self._keys(sequence, sequence.computed + count)[done:])

    def whole_blocks(self, sequence: SequenceState, count: int) -> int:
        """The most of the next `count` tokens that end where a block ends; all if none do.

        Whole blocks can be shared by later requests.
        """
        if self.blocks is None:
            return count
        whole = count - (sequence.computed + count) % self.blocks.block_size
        return whole if whole > 0 else count

    def register(self, sequence: SequenceState) -> None:
        """Publish its newly filled blocks in the prefix cache."""
        blocks = self.blocks
        if blocks is None or not sequence.shares:
            return
        full = sequence.computed // blocks.block_size
        if full > sequence.registered:
            keys = self._keys(sequence, sequence.computed)
            for place in range(sequence.registered, full):
                blocks.register(sequence.blocks[place], keys[place])
            sequence.registered = full

    def _cached_prefix(self, sequence: SequenceState) -> list[int]:
        """Blocks of its cached prefix, excluding its last token: at least one token is always computed."""
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
