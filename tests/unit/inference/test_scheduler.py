"""The scheduler: what it promises, as properties of every history that hypothesis can think of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from glassbox.core.errors import UserError
from glassbox.inference.block_manager import BlockManager
from glassbox.inference.plan import SequenceState
from glassbox.inference.scheduler import Plan, QueueFull, Scheduler
from support.pretend_model import PretendModel, answer, contents, next_token

VOCAB = 11
STOP_TOKENS = frozenset({0})


class History:
    """A scheduler, the pretended model, and everything that has happened."""

    def __init__(
        self,
        *,
        num_blocks: int = 12,
        block_size: int = 4,
        max_running: int = 4,
        token_budget: int = 16,
        max_queue: int | None = None,
        chunked_prefill: bool = True,
        prefix_sharing: bool = True,
        paged: bool = True,
        pooled: bool = False,
    ) -> None:
        blocks = BlockManager(num_blocks, block_size, prefix_sharing=prefix_sharing)
        self.blocks = blocks if paged else None
        self.scheduler = Scheduler(
            max_running=max_running,
            token_budget=token_budget,
            max_queue=max_queue,
            chunked_prefill=chunked_prefill,
            blocks=self.blocks,
        )
        self.model = PretendModel(
            num_blocks, block_size, max_running, paged=paged, pooled=pooled, vocab=VOCAB
        )
        self.sequences: list[SequenceState] = []
        self.cut_short: set[SequenceState] = set()
        self.num_steps = 0

    def add(
        self, prompt: list[int], max_new_tokens: int = 4, **rest: object
    ) -> list[SequenceState]:
        added = self.scheduler.add(prompt, max_new_tokens=max_new_tokens, **rest)  # type: ignore[arg-type]
        self.sequences += added
        return added

    def cancel(self, request_id: int) -> None:
        self.scheduler.cancel(request_id)
        self.cut_short.update(s for s in self.sequences if s.request_id == request_id)

    def finish(self, sequence: SequenceState) -> None:
        self.scheduler.finish(sequence)
        self.cut_short.add(sequence)

    @property
    def unfinished(self) -> list[SequenceState]:
        return [sequence for sequence in self.sequences if sequence.status != "finished"]

    def having(self, status: str) -> list[SequenceState]:
        return [sequence for sequence in self.sequences if sequence.status == status]

    def schedule(self) -> Plan:
        """A plan that keeps its promises."""
        was_running = set(self.having("running"))
        work = self.scheduler.has_work
        plan = self.scheduler.schedule()
        self.check_plan(plan, work)
        self.check_order(plan, was_running)
        return plan

    def check_plan(self, plan: Plan, work: bool) -> None:
        scheduler = self.scheduler
        fed = [chunk.sequence for chunk in plan.chunks]
        assert len(set(fed)) == len(fed)
        assert all(sequence.status == "running" for sequence in fed)
        assert plan.num_tokens == sum(len(chunk.fed) for chunk in plan.chunks)
        if scheduler.chunked_prefill:
            assert plan.num_tokens <= scheduler.token_budget
        else:
            long = [chunk for chunk in plan.chunks if chunk.count > 1]
            assert plan.num_tokens <= scheduler.token_budget or len(long) == 1
            assert all(chunk.samples for chunk in plan.chunks), "a prompt was cut"
        for chunk in plan.chunks:
            sequence = chunk.sequence
            assert chunk.count > 0
            assert chunk.start == sequence.computed
            assert chunk.samples == (chunk.start + chunk.count == len(sequence.tokens))
            assert len(sequence.tokens) + len(chunk.drafted) < sequence.max_length
            assert not (chunk.drafted and chunk.siblings)
        sampling = chain.from_iterable(
            (chunk.sequence, *chunk.siblings) for chunk in plan.chunks if chunk.samples
        )
        assert plan.sampling == list(sampling)
        # the first in order always moves on: nobody can be kept out for ever
        running = sorted(self.having("running"), key=lambda sequence: sequence.rank)
        assert bool(running) == work
        if running:
            assert running[0] in fed

    def check_order(self, plan: Plan, was_running: set[SequenceState]) -> None:
        running, waiting = self.having("running"), self.having("waiting")
        for priority in {sequence.priority for sequence in self.unfinished}:
            ahead = [s.rank for s in running if s.priority == priority]
            behind = [s.rank for s in waiting if s.priority == priority]
            assert not (ahead and behind) or max(ahead) < min(behind), "somebody was overtaken"
        # whoever had a token to add was given it before any prompt was read
        fed = {chunk.sequence for chunk in plan.chunks}
        for sequence in was_running:
            if sequence.status == "running" and sequence.num_generated and sequence.follows is None:
                ready = sequence.computed == len(sequence.tokens) - 1
                assert not ready or sequence in fed
        # prompts are read in order: one that got nothing while a later one did waits for a block
        # that is being read in this very step
        reading = [c.sequence for c in plan.chunks if c.count > 1 or not c.samples]
        last = max((sequence.rank for sequence in reading), default=None)
        for sequence in running:
            if last is not None and sequence.follows is None and sequence not in fed:
                assert sequence.rank > last or sequence.shares
                if sequence not in was_running and not sequence.shares:
                    assert self.scheduler.chunked_prefill, "admitted to do nothing"

    def step(self, in_between: Callable[[], None] | None = None) -> Plan:
        """A step; `in_between`, when it has been computed and not yet committed, something happens."""
        plan = self.schedule()
        tokens = self.model.run(plan)
        if in_between is not None:
            in_between()
        finished = []
        for place, sequence in enumerate(plan.sampling):
            for i, token in enumerate(tokens[place]):
                if token in STOP_TOKENS:
                    tokens[place] = tokens[place][: i + 1]
                    finished.append(sequence)
                    break
        ended = self.scheduler.commit(plan, tokens, finished)
        assert all(sequence.status == "finished" for sequence in ended)
        assert len(set(ended)) == len(ended)
        self.num_steps += 1
        return plan

    def drain(self) -> None:
        """Everything ends, within as many steps as there are tokens."""
        most = sum(s.max_length for s in self.unfinished)
        for _ in range(most):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work
        assert not self.unfinished
        self.check_all()
        stats = self.scheduler.stats()
        assert (stats.waiting, stats.running) == (0, 0)
        if self.blocks is not None:
            assert stats.blocks_free == stats.blocks_total
        for sequence in self.sequences:
            if sequence not in self.cut_short:
                assert sequence.tokens[sequence.prompt_length :] == self.answer(sequence)

    def answer(self, sequence: SequenceState) -> list[int]:
        prompt = sequence.tokens[: sequence.prompt_length]
        most = sequence.max_length - sequence.prompt_length
        return answer(prompt, sequence.sample_index, VOCAB, most, STOP_TOKENS)

    def check_all(self) -> None:
        """What holds between any two calls."""
        running = self.having("running")
        stats = self.scheduler.stats()
        assert stats.running == len(running) <= self.scheduler.max_running
        assert stats.waiting == len(self.having("waiting"))
        slots = [sequence.slot for sequence in running]
        assert len(set(slots)) == len(slots)
        assert all(0 <= slot < self.scheduler.max_running for slot in slots)
        for sequence in self.sequences:
            assert len(sequence.tokens) <= sequence.max_length
            if sequence.status != "running":
                assert (sequence.slot, sequence.blocks) == (-1, [])
            else:
                assert sequence.computed < len(sequence.tokens)
        if self.blocks is not None:
            self.check_blocks(self.blocks, running)

    def check_blocks(self, blocks: BlockManager, running: list[SequenceState]) -> None:
        size = blocks.block_size
        users = [0] * blocks.num_blocks
        means: dict[int, set[int]] = {}
        for sequence in running:
            assert len(set(sequence.blocks)) == len(sequence.blocks)
            assert len(sequence.blocks) * size >= sequence.computed
            assert len(sequence.blocks) <= blocks.blocks_for(sequence.max_length - 1)
            for block in sequence.blocks:
                users[block] += 1
            states = contents(sequence, sequence.tokens[: sequence.computed])
            for place in range(sequence.computed // size):
                means.setdefault(sequence.blocks[place], set()).add(states[(place + 1) * size - 1])
        assert users == [blocks.ref_count(block) for block in range(blocks.num_blocks)]
        assert all(len(meanings) == 1 for meanings in means.values()), "wrongly shared"
        stats = self.scheduler.stats()
        assert stats.blocks_free == sum(count == 0 for count in users)
        assert stats.blocks_cached <= stats.blocks_free


class Scheduling(RuleBasedStateMachine):
    """Requests come, go and are cancelled at any moment; steps are taken, with drafts right and wrong."""

    @initialize(
        num_blocks=st.integers(6, 16),
        max_running=st.integers(1, 5),
        budget=st.sampled_from([0, 3, 12]),
        chunked=st.booleans(),
        sharing=st.booleans(),
        state=st.sampled_from(["paged", "pooled", "both"]),
        max_queue=st.sampled_from([None, None, 0, 2]),
    )
    def begin(
        self,
        num_blocks: int,
        max_running: int,
        budget: int,
        chunked: bool,
        sharing: bool,
        state: str,
        max_queue: int | None,
    ) -> None:
        self.history = History(
            num_blocks=num_blocks,
            max_running=max_running,
            token_budget=max_running + budget,
            chunked_prefill=chunked,
            prefix_sharing=sharing and state == "paged",
            paged=state != "pooled",
            pooled=state != "paged",
            max_queue=max_queue,
        )

    @rule(
        beginning=st.integers(0, 2),
        length=st.integers(1, 18),
        own=st.lists(st.integers(0, VOCAB - 1), max_size=3),
        most=st.integers(1, 9),
        n=st.sampled_from([1, 1, 1, 2, 3, 6]),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        tenant=st.sampled_from(["", "", "other"]),
        shares=st.sampled_from([True, True, True, False]),
    )
    def add(
        self,
        beginning: int,
        length: int,
        own: list[int],
        most: int,
        n: int,
        priority: int,
        tenant: str,
        shares: bool,
    ) -> None:
        """Prompts that often begin alike, or are the same."""
        prompt = [(beginning * 5 + i * i) % VOCAB for i in range(length)] + own
        history = self.history
        before = history.scheduler.stats()
        try:
            history.add(prompt, most, n=n, priority=priority, tenant=tenant, shares=shares)
        except UserError:
            assert history.blocks is not None
            needed = history.blocks.blocks_for(len(prompt) + most - 1)
            assert needed > history.blocks.num_blocks
            assert history.scheduler.stats() == before
        except QueueFull:
            assert history.scheduler.max_queue is not None
            untouched = {s.request_id for s in history.having("waiting")}
            free = history.scheduler.max_running - before.running
            assert len(untouched) >= history.scheduler.max_queue + free
            assert history.scheduler.stats() == before

    @precondition(lambda self: self.history.unfinished)
    @rule(data=st.data())
    def guess(self, data: st.DataObject) -> None:
        """Drafts for some: the first so many right, the others mostly wrong."""
        for sequence in self.history.having("running"):
            wrong = data.draw(st.lists(st.integers(0, VOCAB - 1), max_size=4))
            sequence.drafted = guesses(sequence, data.draw(st.integers(0, 4))) + wrong

    @rule()
    def step(self) -> None:
        self.history.step()

    @precondition(lambda self: self.history.unfinished)
    @rule(data=st.data(), between=st.booleans())
    def cancel(self, data: st.DataObject, between: bool) -> None:
        request = data.draw(st.sampled_from([s.request_id for s in self.history.unfinished]))
        if between:
            self.history.step(lambda: self.history.cancel(request))
        else:
            self.history.cancel(request)
        assert all(s.request_id != request for s in self.history.unfinished)

    @precondition(lambda self: self.history.unfinished)
    @rule(data=st.data(), between=st.booleans())
    def end_one_alone(self, data: st.DataObject, between: bool) -> None:
        sequence = data.draw(st.sampled_from(self.history.unfinished))
        if between:
            self.history.step(lambda: self.history.finish(sequence))
            return
        others = {s for s in self.history.unfinished if s is not sequence}
        self.history.finish(sequence)
        assert set(self.history.unfinished) == others

    @rule()
    def cancel_nobody(self) -> None:
        before = self.history.scheduler.stats()
        self.history.cancel(10**9)
        assert self.history.scheduler.stats() == before

    @invariant()
    def all_is_well(self) -> None:
        if hasattr(self, "history"):
            self.history.check_all()

    def teardown(self) -> None:
        if hasattr(self, "history"):
            self.history.drain()


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def crowded(random: Random) -> History:
    """Far more requests than a small cache can hold, many of which begin alike."""
    state = random.choice(["paged", "paged", "paged", "both", "pooled"])
    max_running = random.randint(2, 7)
    return History(
        num_blocks=random.randint(8, 24),
        block_size=random.choice([1, 2, 4]),
        max_running=max_running,
        token_budget=max_running + random.choice([0, 5, 20]),
        chunked_prefill=random.random() < 0.6,
        prefix_sharing=state == "paged" and random.random() < 0.8,
        paged=state != "pooled",
        pooled=state != "paged",
        max_queue=random.choice([None, None, 3]),
    )


def do_something(history: History, random: Random) -> None:
    chance = random.random()
    unfinished = history.unfinished
    if chance < 0.25 and len(unfinished) < 25:
        prompt = prompt_of(random.randint(1, 12), random.choice([1, 1, 1, 2]))
        prompt += [random.randrange(VOCAB) for _ in range(random.choice([0, 0, 1, 2]))]
        with suppress(QueueFull, UserError):
            history.add(
                prompt,
                random.randint(1, 12),
                n=random.choice([1, 1, 1, 2, 4]),
                priority=random.choice([0, 0, 0, 0, 1, -1]),
                tenant=random.choice(["", "", "", "other"]),
                shares=random.random() < 0.9,
            )
    elif chance < 0.35 and unfinished:
        sequence = random.choice(unfinished)
        ends: list[Callable[[], None]] = [
            lambda: history.cancel(sequence.request_id),
            lambda: history.finish(sequence),
        ]
        end = random.choice(ends)
        history.step(end) if random.random() < 0.5 else end()
    else:
        for sequence in history.having("running"):
            if random.random() < 0.3:
                sequence.drafted = guesses(sequence, random.randint(0, 4))
                sequence.drafted += [random.randrange(VOCAB) for _ in range(random.randint(0, 2))]
        history.step()
    history.check_all()


def guesses(sequence: SequenceState, number: int) -> list[int]:
    """The right ones."""
    known = list(sequence.tokens)
    for _ in range(number):
        known.append(next_token(known, sequence.sample_index, VOCAB))
    return known[len(sequence.tokens) :]


@pytest.mark.parametrize("seed", range(60))
def test_crowds_are_served(seed: int) -> None:
    random = Random(seed)
    history = crowded(random)
    for _ in range(250):
        do_something(history, random)
    history.drain()


def prompt_of(length: int, first: int = 1) -> list[int]:
    return [(first + i * i) % VOCAB for i in range(length)]


def talkative(length: int, most: int, n: int = 1) -> list[list[int]]:
    """Prompts whose answers go on to the last token."""
    prompts = [
        [(1 + k + i * i) % VOCAB for i in range(length - 1)] + [k % VOCAB] for k in range(121)
    ]
    return [
        prompt
        for prompt in prompts
        if all(len(answer(prompt, i, VOCAB, most, STOP_TOKENS)) == most for i in range(n))
    ]


def test_what_could_never_fit_is_refused_at_once() -> None:
    history = History(num_blocks=4, block_size=4)
    history.add(prompt_of(10), 7)  # the last token is never stored
    with pytest.raises(UserError, match="need room for 17 tokens, and the cache has 16"):
        history.add(prompt_of(10), 8)
    history.drain()


def test_a_state_of_fixed_size_needs_no_blocks() -> None:
    history = History(num_blocks=1, paged=False, pooled=True)
    for i in range(6):
        history.add(prompt_of(100, i), 5)
    history.drain()
    assert history.scheduler.stats().blocks_total == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_running": 0, "token_budget": 1}, "max_running = 0"),
        ({"max_running": 1, "token_budget": 1, "max_queue": -1}, "max_queue = -1"),
        ({"max_running": 4, "token_budget": 3}, "token_budget = 3 is below max_running = 4"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scheduler(**wrong)


def test_the_queue_is_bounded_beyond_what_can_start() -> None:
    history = History(max_running=2, max_queue=1)
    for i in range(3):
        history.add(prompt_of(3, i))
    with pytest.raises(QueueFull):
        history.add(prompt_of(3))
    history.step()
    with pytest.raises(QueueFull):
        history.add(prompt_of(3))
    history.cancel(2)
    history.add(prompt_of(3))
    history.drain()


def test_a_prompt_is_read_once_for_all_its_samples() -> None:
    history = History(num_blocks=32, max_running=8)
    samples = history.add(talkative(10, 2, n=6)[0], 2, n=6)
    plan = history.step()
    assert history.model.places_written == 10
    assert plan.sampling == samples
    assert len({tuple(sample.blocks) for sample in samples}) == 1
    plan = history.step()
    # the partly filled block is copied for all but the last to write into it
    assert len(plan.block_copies) == 5
    assert len(plan.slot_copies) == 5
    history.drain()


def test_samples_beyond_the_slots_share_the_prompt_when_their_turn_comes() -> None:
    history = History(num_blocks=32, max_running=2)
    history.add(prompt_of(9), 3, n=5)
    history.drain()
    assert history.model.places_written < 9 + 5 * (3 + 1)
    assert history.scheduler.stats().prefix_hits >= 8


def test_equal_beginnings_are_computed_once_even_when_they_come_together() -> None:
    history = History(num_blocks=64, token_budget=64, max_running=8)
    for i in range(5):
        history.add([*prompt_of(16), i], 2)
    first = history.step()
    assert [chunk.count for chunk in first.chunks] == [17]
    second = history.step()
    assert [chunk.count for chunk in second.chunks] == [1, 1, 1, 1, 1]
    assert history.scheduler.stats().prefix_hits == 4 * 16
    history.drain()


def test_a_prompt_that_is_known_to_the_end_still_computes_a_token() -> None:
    history = History(block_size=4)
    for _ in range(2):
        (sequence,) = history.add(prompt_of(8), 1)
        history.drain()
    assert sequence.reused == 4
    assert history.scheduler.stats().prefix_hits == 4


@pytest.mark.parametrize("own", [{"tenant": "b"}, {"adapter": "b"}, {"shares": False}])
def test_nothing_is_shared_across_tenants_and_adapters_or_unasked(own: dict[str, object]) -> None:
    history = History()
    history.add(prompt_of(12), 1)
    history.drain()
    history.add(prompt_of(12), 1, **own)
    history.drain()
    assert history.scheduler.stats().prefix_hits == 0


def test_new_weights_share_nothing_with_the_old() -> None:
    history = History()
    history.add(prompt_of(12), 1)
    history.drain()
    history.scheduler.forget_prefixes()
    history.add(prompt_of(12), 1)
    history.drain()
    assert history.scheduler.stats().prefix_hits == 0


@pytest.mark.parametrize("chunked", [True, False])
def test_answers_go_on_while_a_long_prompt_is_read(chunked: bool) -> None:
    history = History(num_blocks=40, token_budget=8, chunked_prefill=chunked)
    (talking,) = history.add([1, 2], 30)
    history.step()
    (reading,) = history.add(prompt_of(40), 2)
    lengths = []
    while not reading.num_generated:
        before = len(talking.tokens)
        lengths.append(history.step().num_tokens)
        assert len(talking.tokens) == before + 1 or talking.status == "finished"
    assert max(lengths) == (8 if chunked else 41)
    assert (len(lengths) == 1) != chunked
    history.drain()


def test_two_that_fill_the_cache_do_not_push_each_other_out_for_ever() -> None:
    history = History(num_blocks=4, block_size=4, prefix_sharing=False)
    prompts = talkative(4, 13)[:2]
    first, second = (history.add(prompt, 13)[0] for prompt in prompts)
    while first.status != "finished":
        history.step()
        assert first.status != "waiting"
    history.drain()
    assert second.status == "finished"
    assert history.scheduler.stats().preemptions == 1


def test_the_newest_of_the_lowest_priority_gives_way() -> None:
    history = History(num_blocks=8, block_size=2, prefix_sharing=False)
    prompts = talkative(1, 8)[:3]
    low, lower, high = (
        history.add(prompt, 8, priority=priority)[0]
        for prompt, priority in zip(prompts, (1, 0, 2), strict=True)
    )
    gave_way = []
    while history.scheduler.has_work:
        history.step()
        gave_way += [s for s in (low, lower, high) if s.status == "waiting" and s.num_generated]
    assert gave_way
    assert gave_way[0] is lower
    assert high not in gave_way
    history.drain()


def test_a_higher_priority_starts_at_the_cost_of_a_lower_one() -> None:
    history = History(max_running=2, token_budget=8, max_queue=None)
    prompts = talkative(2, 9)[:2]
    older, newer = (history.add(prompt, 9)[0] for prompt in prompts)
    history.step()
    (urgent,) = history.add([3, 4, 5], 2, priority=1)
    history.step()
    assert urgent.num_generated == 1
    assert (older.status, newer.status) == ("running", "waiting")
    history.drain()


def test_rejected_drafts_give_their_blocks_back() -> None:
    history = History(num_blocks=8, block_size=2, token_budget=16)
    prompts = talkative(2, 12)
    (sequence,) = history.add(prompts[0], 12)
    history.step()
    right = next_token(sequence.tokens, 0, VOCAB)
    sequence.drafted = [right, (next_token([*sequence.tokens, right], 0, VOCAB) + 1) % VOCAB, 1, 1]
    plan = history.step()
    assert plan.num_tokens == 5
    assert sequence.num_generated == 3
    assert sequence.computed == 4
    assert len(sequence.blocks) == 3
    history.drain()


def test_drafts_push_nobody_out() -> None:
    history = History(num_blocks=6, block_size=2, prefix_sharing=False, max_running=2)
    prompts = talkative(2, 9)[:2]
    for prompt in prompts:
        history.add(prompt, 9)
    history.step()
    for sequence in history.having("running"):
        sequence.drafted = [1] * 6
    plan = history.step()
    assert len(plan.chunks) == 2
    assert history.scheduler.stats().preemptions == 0
    history.drain()


def test_one_stream_lies_in_consecutive_blocks() -> None:
    history = History(num_blocks=40, max_running=3, token_budget=64)
    added = [history.add(prompt_of(9, i), 12)[0] for i in range(3)]
    while history.scheduler.has_work:
        history.step()
        for sequence in added:
            steps = [b - a for a, b in zip(sequence.blocks, sequence.blocks[1:], strict=False)]
            assert set(steps) <= {1}
    history.drain()


def test_samples_go_on_when_the_one_that_read_for_them_fails() -> None:
    history = History(token_budget=4, max_running=4)
    first, *rest = history.add(prompt_of(12), 3, n=3)
    history.step()
    history.finish(first)
    history.drain()
    assert all(sequence.num_generated for sequence in rest)


def test_a_prompt_that_must_be_read_whole_is_not_overtaken_by_a_shorter_one() -> None:
    history = History(num_blocks=40, token_budget=22, max_running=5, chunked_prefill=False)
    beginning = prompt_of(4)
    history.add([*beginning, 1], 4)
    first, second = (history.add([*beginning, *prompt_of(13, i)], 4)[0] for i in (2, 3))
    history.step()
    (short,) = history.add([1, 2, 3], 4)
    plan = history.step()
    fed = [chunk.sequence for chunk in plan.chunks]
    assert first in fed
    assert second not in fed
    assert short not in fed
    history.drain()
