"""The block manager against a model of it that is too simple to be wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from glassbox.inference.block_manager import BlockManager, block_key, root_key

NUM_BLOCKS, BLOCK_SIZE = 12, 4


def test_keys_depend_on_all_that_came_before() -> None:
    root = root_key()
    first, other = block_key(root, [1, 2, 3, 4]), block_key(root, [1, 2, 3, 5])
    assert len(first) == 16
    assert first == block_key(root_key("", ""), (1, 2, 3, 4))
    assert first != other
    assert block_key(first, [7, 7, 7, 7]) != block_key(other, [7, 7, 7, 7])
    assert block_key(root, [1, 0, 0, 0]) != block_key(root, [256, 0, 0, 0])


def test_tenants_and_adapters_have_keys_of_their_own() -> None:
    roots = [root_key(*names) for names in (("", ""), ("a", ""), ("", "a"), ("a", "b"), ("ab", ""))]
    assert len(set(roots)) == 5
    assert root_key("a', '", "") != root_key("a", "', '")


def test_keys_are_the_same_in_every_process() -> None:
    assert root_key("tenant").hex() == "0fb60cca0c474ac5ea66f8c0e4fb119a"
    assert block_key(root_key("tenant"), [1, 2, 3]).hex() == "151029eb3343e1629522f47a93bf5066"


def test_one_sequence_gets_consecutive_blocks_and_room_to_grow() -> None:
    blocks = BlockManager(16, BLOCK_SIZE)
    first = blocks.allocate(2, room=6)
    second = blocks.allocate(3, room=6)
    for _ in range(4):
        first += blocks.allocate(1, after=first[-1])
    for _ in range(3):
        second += blocks.allocate(1, after=second[-1])
    assert first == [0, 1, 2, 3, 4, 5]
    assert second == [6, 7, 8, 9, 10, 11]


def test_promised_room_is_given_to_others_before_anyone_goes_without() -> None:
    blocks = BlockManager(8, BLOCK_SIZE)
    first = blocks.allocate(1, room=8)
    second = blocks.allocate(5)
    assert len(set(first + second)) == 6
    assert second == list(range(second[0], second[0] + 5))
    first += blocks.allocate(2, after=first[-1])
    assert blocks.num_free == 0


def test_room_is_free_again_when_its_owner_leaves() -> None:
    blocks = BlockManager(8, BLOCK_SIZE)
    first = blocks.allocate(2, room=8)
    blocks.release(first)
    assert blocks.allocate(8) == list(range(8))


def test_a_run_is_found_among_holes() -> None:
    blocks = BlockManager(10, BLOCK_SIZE)
    everything = blocks.allocate(10)
    blocks.release([everything[i] for i in (1, 4, 5, 6, 9)])
    assert blocks.allocate(3) == [4, 5, 6]
    assert sorted(blocks.allocate(2)) == [1, 9]


def test_the_beginning_of_a_chain_is_forgotten_last() -> None:
    blocks = BlockManager(4, BLOCK_SIZE)
    held = blocks.allocate(3)
    keys = [bytes([i]) for i in range(3)]
    for block, key in zip(held, keys, strict=True):
        blocks.register(block, key)
    blocks.release(held)
    assert blocks.num_cached == 3
    blocks.allocate(2)
    assert blocks.match(keys) == held[:2]


def test_without_sharing_nothing_is_found_again() -> None:
    blocks = BlockManager(4, BLOCK_SIZE, prefix_sharing=False)
    held = blocks.allocate(1)
    blocks.register(held[0], b"key")
    blocks.release(held)
    assert blocks.find(b"key") is None
    assert blocks.num_cached == 0


def test_what_is_forgotten_is_found_no_more_and_its_users_keep_it() -> None:
    blocks = BlockManager(4, BLOCK_SIZE)
    held = blocks.allocate(2)
    blocks.register(held[0], b"a")
    blocks.register(held[1], b"b")
    blocks.release(held[1:])
    blocks.forget_cached()
    assert blocks.match([b"a"]) == blocks.match([b"b"]) == []
    assert (blocks.num_free, blocks.num_cached, blocks.ref_count(held[0])) == (3, 0, 1)
    blocks.release(held[:1])
    assert (blocks.num_free, blocks.num_cached) == (4, 0)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda blocks: blocks.allocate(3),
        lambda blocks: blocks.release([0]),
        lambda blocks: blocks.share([0]),
        lambda blocks: blocks.register(0, b"key"),
    ],
    ids=["too many", "released twice", "nothing to share", "nobody's"],
)
def test_our_own_mistakes_are_loud(mistake: Callable[[BlockManager], object]) -> None:
    with pytest.raises(AssertionError):
        mistake(BlockManager(2, BLOCK_SIZE))


class Blocks(RuleBasedStateMachine):
    """Users as lists of blocks; the cached ones as a list, least recently used first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(NUM_BLOCKS, BLOCK_SIZE)
        self.held: list[list[int]] = []
        self.key_of: dict[int, bytes] = {}
        self.cached: list[int] = []
        self.next_key = 0

    def users(self, block: int) -> int:
        return sum(holder.count(block) for holder in self.held)

    def taken(self, fresh: list[int], num_vacant: int) -> None:
        forgotten = self.cached[: max(len(fresh) - num_vacant, 0)]
        del self.cached[: len(forgotten)]
        for block in forgotten:
            del self.key_of[block]
        assert len(set(fresh)) == len(fresh)
        for block in fresh:
            assert self.users(block) == 0
            assert block not in self.cached

    @rule(count=st.integers(1, 5), room=st.integers(0, 8))
    def begin(self, count: int, room: int) -> None:
        if count <= self.blocks.num_free:
            vacant = self.blocks.num_free - self.blocks.num_cached
            fresh = self.blocks.allocate(count, room=room)
            self.taken(fresh, vacant)
            self.held.append(fresh)

    @precondition(lambda self: self.held and self.blocks.num_free)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.held))
        vacant = self.blocks.num_free - self.blocks.num_cached
        fresh = self.blocks.allocate(1, after=holder[-1])
        self.taken(fresh, vacant)
        holder += fresh

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        holder = list(data.draw(st.sampled_from(self.held)))
        self.blocks.share(holder)
        self.held.append(holder)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(data.draw(st.sampled_from(self.held))))
        if block not in self.key_of:
            key = self.next_key.to_bytes(16, "little")
            self.next_key += 1
            self.blocks.register(block, key)
            self.key_of[block] = key

    @precondition(lambda self: self.key_of)
    @rule(data=st.data())
    def reuse(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.key_of.values())))
        (block,) = self.blocks.match([key, b"unknown"])
        self.blocks.share([block])
        assert self.key_of[block] == key
        if block in self.cached:
            self.cached.remove(block)
        self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.held) - 1))
        holder = self.held.pop(place)
        self.blocks.release(holder)
        for block in reversed(holder):
            if not self.users(block) and block in self.key_of:
                self.cached.append(block)

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        used = {block for holder in self.held for block in holder}
        for block in range(NUM_BLOCKS):
            assert self.blocks.ref_count(block) == self.users(block)
        assert self.blocks.num_free == NUM_BLOCKS - len(used)
        assert self.blocks.num_cached == len(self.cached)
        for block, key in self.key_of.items():
            assert self.blocks.find(key) == block
        for number in range(self.next_key):
            key = number.to_bytes(16, "little")
            assert key in self.key_of.values() or self.blocks.find(key) is None

    def teardown(self) -> None:
        for holder in self.held:
            self.blocks.release(holder)
        assert self.blocks.num_free == NUM_BLOCKS
        assert sorted(self.blocks.allocate(NUM_BLOCKS)) == list(range(NUM_BLOCKS))


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
