"""The blocks of a paged cache: who uses which, what they hold, and which may be used again.

Only numbers are kept here; the tensors that the numbers point into belong to the engine.

A block is *in use* (somebody counts on it), *cached* (nobody does, but it is full of known tokens
and may be wanted again) or *vacant*. In use, it may have several users: a fork, or requests whose
prompts begin alike. A full block is known by its key, the hash of its tokens chained to the key of
the block before, so that equal keys mean equal tokens from the very beginning.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

_IN_USE, _VACANT, _PROMISED, _CACHED = range(4)
_KEY_BYTES = 16


def root_key(tenant: str = "", adapter: str = "") -> bytes:
    """The key before the first block: tenants, and adapters of the model, never share blocks.

    >>> root_key("a", "b") == root_key("ab", "")
    False
    """
    return blake2b(repr((tenant, adapter)).encode(), digest_size=_KEY_BYTES).digest()


def block_key(previous: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block behind the block of key `previous`: 128 bits of BLAKE2b.

    Two different beginnings get equal keys with a chance of 2^-128, whoever chooses them.
    """
    return blake2b(previous + array("q", tokens).tobytes(), digest_size=_KEY_BYTES).digest()


class BlockManager:
    """Hands out `num_blocks` blocks of `block_size` tokens and takes them back.

    Cached blocks are reused when nothing is vacant, those least recently used first. One sequence
    gets consecutive numbers where it can, so that its cache can be looked at without a copy: `room`
    blocks behind a new one are promised to it for as long as others can do without them.

    Invariants (held by a stateful test): every block is in exactly one of the three states; its
    count is the number of its users; `num_vacant + num_cached + used == num_blocks`.
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix_sharing: bool = True) -> None:
        assert num_blocks > 0, num_blocks
        assert block_size > 0, block_size
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_sharing = prefix_sharing
        self._users = [0] * num_blocks
        self._marks = bytearray([_VACANT]) * num_blocks
        self._num_vacant = num_blocks
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can hand out: vacant and cached ones."""
        return self._num_vacant + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Blocks without a user whose tokens are still known."""
        return len(self._cached)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks so many tokens fill.

        >>> BlockManager(8, 4).blocks_for(9)
        3
        """
        return -(-num_tokens // self.block_size)

    def num_users(self, block: int) -> int:
        """How many sequences count on this block."""
        return self._users[block]

    def is_shared(self, block: int) -> bool:
        """Whether writing into this block would spoil it for somebody else."""
        return self._users[block] > 1

    def find(self, key: bytes) -> int | None:
        """The block that holds these tokens, if one does."""
        return self._block_of.get(key)

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks that hold the longest beginning of this chain; `share` them before using them."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def num_without_user(self, blocks: Iterable[int]) -> int:
        """How many of these count among the free ones now."""
        return sum(not self._users[block] for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """One more user for each of these."""
        for block in blocks:
            if self._users[block] == 0:
                assert self._marks[block] == _CACHED, f"block {block} holds nothing to share"
                del self._cached[block]
                self._marks[block] = _IN_USE
            self._users[block] += 1

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
                self._users[block] = 1
            self._num_vacant -= length
            taken.extend(range(start, start + length))
            after = taken[-1]
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each of these, given in their sequence's order.

        The last ones are the first to be forgotten: without those before them they are of no use.
        """
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._set_free(block)
            assert self._users[block] >= 0, f"block {block} was released twice"

    def register(self, block: int, key: bytes) -> None:
        """This block is full and computed: others may share it. The first block of a key stays it."""
        assert self._users[block], f"block {block} has no user"
        if self.prefix_sharing and key not in self._block_of:
            assert block not in self._key_of, f"block {block} holds other tokens"
            self._block_of[key] = block
            self._key_of[block] = key

    def forget_cached(self) -> None:
        """Make every cached block vacant: the weights have changed, say, and what they hold is stale.

        Blocks in use are forgotten too: they go on serving their users and nobody new.
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
        while following < self.num_blocks and self._marks[following] == _PROMISED:
            self._marks[following] = _VACANT
            following += 1

    def _forget(self, block: int) -> None:
        """A cached block, already off the list, becomes vacant."""
        del self._block_of[self._key_of.pop(block)]
        self._marks[block] = _VACANT
        self._num_vacant += 1

    def _run(self, after: int, want: int, room: int) -> tuple[int, int]:
        """Start and length of a run of vacant blocks: at most `want`, and as near to it as can be."""
        start, length = after + 1, 0
        if after >= 0:
            while (
                length < want
                and start + length < self.num_blocks
                and self._marks[start + length] in (_VACANT, _PROMISED)
            ):
                length += 1
            if length:
                return start, length
        if room > want:
            start = self._marks.find(bytes([_VACANT]) * room)
            if start >= 0:
                self._marks[start + want : start + room] = bytes([_PROMISED]) * (room - want)
                return start, want
        length = want
        while length:
            start = self._marks.find(bytes([_VACANT]) * length)
            if start >= 0:
                return start, length
            length //= 2
        self._marks = self._marks.replace(bytes([_PROMISED]), bytes([_VACANT]))  # need comes first
        return self._run(after, want, 0)
