"""The tensors of a step: state pools of all running sequences, and the forward passes of a plan.

Layers with paged state share a pool of blocks, addressed by one block table per row. All others keep
a state of fixed size per row: a slot of a pool. A step takes the rows it needs from that pool, as a
view where they are adjacent, and writes them back.

A plan's chunks run in up to three kinds of passes: decoding, one token a row; prefill from position 0,
chunks of similar length padded on the right; and chunks that continue after cached tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import is_

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.adapters.base import adapters_of
from glassbox.compression import pack
from glassbox.core.errors import UserError
from glassbox.inference.cache_size import cache_bits, in_bits
from glassbox.inference.compiled_step import CompiledStep
from glassbox.inference.evaluating import autocast_below
from glassbox.inference.plan import Chunk, Plan, SequenceState
from glassbox.inference.prepacking import Prepacking
from glassbox.layers.paged_state import PagedState
from glassbox.layers.pages import GatheredRows, Pages
from glassbox.layers.state import Rows
from glassbox.models.block import BlockState
from glassbox.models.causal_lm import CausalLM

_WINDOW_BLOCKS = 4  # a window is rebuilt when its rows have grown by so many
_ALIKE = 0.6  # the shortest chunk of a pass is at least this much of the longest
_ALIKE_WIDE = 0.75  # where padding costs a CPU more than another pass does: from this size on
_WIDE = 512


class Runner:
    """Holds a model's state pools and runs plans.

    max_rows, max_blocks: how many slots and blocks plans may name. The pools grow towards them as
    needed; `release` frees them. prepacked: as for `Prepacking`; copies made on its own initiative
    are freed too. compiled: decoding a single sequence goes through a `CompiledStep`. kv_cache: as for
    `cache_bits`.
    """

    def __init__(
        self,
        model: CausalLM,
        *,
        max_rows: int,
        max_blocks: int,
        block_size: int,
        dtype: torch.dtype | None = None,
        prepacked: bool | None = None,
        compiled: bool = False,
        kv_cache: str | None = None,
    ) -> None:
        self.cache_bits = cache_bits(kv_cache)
        own = model.dtype
        if dtype is not None and dtype != own and dtype.itemsize == own.itemsize:
            raise UserError(
                f"dtype = {dtype}: the weights are {own}, which do not mix; leave it out, or convert "
                "the model"
            )
        pack(model)
        self.model = model
        self.max_rows = max_rows
        self.max_blocks = max_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.context_length = model.config.context_length
        narrowed = dtype is not None and dtype.itemsize < own.itemsize
        self.prepacking = Prepacking(model, False if narrowed else prepacked)
        self.release()
        self.has_pages = any(isinstance(state.mixer, PagedState) for state in self.states)
        self.has_rows = any(state.held() for state in self.states)
        self.compiled: CompiledStep | None = None
        if compiled:
            if narrowed:
                raise UserError(f"compiled = True: compiled steps are in float32; dtype = {dtype}")
            self.compiled = CompiledStep(model, block_size, self.states)

    def release(self) -> None:
        """Free the pools."""
        self.num_blocks, self.num_rows, self.length = 0, 0, 1
        self.states = self._new_states(0, 1)
        self._before: tuple[list[int], list[dict[str, Tensor]]] = ([], [])
        self._blank: list[BlockState] = []
        self._scratch: dict[str, Tensor] = {}
        self._decoding: list[SequenceState] = []  # the sequences of the last decoding pass
        self._next: list[int] = []  # and their next positions
        self._window: GatheredRows | None = None
        if self.prepacking.wanted is None:
            self.prepacking.release()

    @property
    def cache_bytes(self) -> int:
        """Memory of the pools."""
        return sum(state.cache_bytes for state in self.states)

    @torch.inference_mode()
    def run(self, plan: Plan) -> Float[Tensor, "R V"]:
        """Run a plan: the logits that its `sampling` samples from, in that order.

        A chunk with k drafts has 1 + k consecutive rows.
        """
        self._grow_pools(plan)
        self._copy_states(plan)
        if self.compiled is not None:
            logits = self.compiled.logits(plan, self.states)
            if logits is not None:
                return logits
        with self.prepacking.lent(plan.num_tokens):
            return self._run(plan)

    def _run(self, plan: Plan) -> Float[Tensor, "R V"]:
        with_drafts = [chunk.sequence.slot for chunk in plan.chunks if chunk.drafted]
        self._before = (
            (with_drafts, self.save(with_drafts)) if with_drafts and self.has_rows else ([], [])
        )
        hidden: list[Tensor] = []
        sampled: list[Chunk] = []  # the chunks whose rows `hidden` holds, in order
        for group, fresh in self._groups(plan.chunks):
            with autocast_below(self.model, self.dtype):
                found = self._pass(group, fresh)
            wanted = [(place, chunk) for place, chunk in enumerate(group) if chunk.samples]
            if wanted:
                hidden.append(_last(found, wanted, len(group)))
                sampled += (chunk for _, chunk in wanted)
        if not hidden:
            return torch.empty(0, self.model.config.vocab_size, device=self.model.device)
        with autocast_below(self.model, self.dtype):
            logits = self.model.logits(hidden[0] if len(hidden) == 1 else torch.cat(hidden))
        order = _order(plan, sampled)
        return logits if order is None else logits[torch.tensor(order, device=logits.device)]

    def save(self, slots: Sequence[int]) -> list[dict[str, Tensor]]:
        """A copy of the fixed-size states in these slots."""
        if not self.has_rows:
            return []
        rows = torch.tensor(slots, device=self.model.device)
        return [{name: x[rows] for name, x in state.held().items()} for state in self.states]

    def restore(self, slots: Sequence[int], saved: list[dict[str, Tensor]]) -> None:
        """Write back what `save` returned, into these slots in the same order."""
        rows = torch.tensor(slots, device=self.model.device)
        for state, kept in zip(self.states, saved, strict=False):
            held = state.held()
            for name, tensor in kept.items():
                held[name][rows] = tensor

    @torch.inference_mode()
    def roll_back(self, chunks: Sequence[Chunk], kept: Sequence[int]) -> None:
        """Undo the rejected drafts of these chunks of the last plan; `kept` counts the accepted ones.

        Paged states are overwritten later. Recurrent states cannot be rewound: they are restored to
        before the step and fed the accepted tokens again.
        """
        slots, saved = self._before
        if not saved or not chunks:
            return
        place = {slot: row for row, slot in enumerate(slots)}
        wrong = [chunk.sequence.slot for chunk in chunks]
        rows = torch.tensor([place[slot] for slot in wrong], device=self.model.device)
        self.restore(wrong, [{n: x[rows] for n, x in state.items()} for state in saved])
        again = [
            Chunk(chunk.sequence, chunk.start, chunk.count, False, chunk.drafted[:number])
            for chunk, number in zip(chunks, kept, strict=True)
        ]
        self.run(Plan(chunks=again))

    # ---- pools --------------------------------------------------------------------------------

    def _new_states(self, rows: int, length: int) -> list[BlockState]:
        """New states of so many rows; paged ones with only a spare block."""
        dtype = self.model.dtype if self.dtype is None else self.dtype
        where = {"device": self.model.device, "dtype": dtype}
        states = []
        for block in self.model.blocks:
            paged = block.init_paged(1, self.block_size, self.context_length, **where)  # type: ignore[operator]
            state: BlockState = block.init_state(rows, 1 if paged else length, **where)  # type: ignore[operator]
            if paged is not None:
                state.mixer = in_bits(paged, self.cache_bits)
            states.append(state)
        return states

    def _grow_pools(self, plan: Plan) -> None:
        if self.has_pages and plan.moved:
            needed = 1 + max(max(sequence.blocks, default=-1) for sequence in plan.moved)
            if needed > self.num_blocks:
                blocks = min(max(needed, 2 * self.num_blocks), self.max_blocks)
                for state in self.states:
                    if isinstance(state.mixer, PagedState):
                        state.mixer.grow(blocks + 1)
                self.num_blocks = (
                    blocks  # last: after an out-of-memory error half way, growing is retried
                )
        if self.has_rows and plan.chunks:
            everyone = [s for c in plan.chunks for s in (c.sequence, *c.siblings)]
            rows = 1 + max(sequence.slot for sequence in everyone)
            length = max(sequence.max_length for sequence in everyone)
            if rows > self.num_rows or length > self.length:
                self._grow_rows(rows, length)

    def _grow_rows(self, rows: int, length: int) -> None:
        """Grow the row pools by doubling; stored states keep their slots."""
        num_rows, most = self.num_rows, self.length
        if rows > num_rows:
            num_rows = min(max(rows, 2 * num_rows), self.max_rows)
        if length > most:
            most = min(max(length, 2 * most), self.context_length)
        grown = self._new_states(num_rows, most)
        blank = self._new_states(1, most)
        for new, old in zip(grown, self.states, strict=True):
            if isinstance(old.mixer, PagedState):
                new.mixer = old.mixer
            kept = new.held()
            for name, tensor in old.held().items():
                kept[name][tuple(map(slice, tensor.shape))] = tensor
        self.states, self._blank, self.num_rows, self.length = grown, blank, num_rows, most

    def _copy_states(self, plan: Plan) -> None:
        """Copy blocks and slots, then clear the slots of new sequences."""
        device = self.model.device
        if self.has_pages and plan.block_copies:
            sources, destinations = torch.tensor(plan.block_copies, device=device).unbind(1)
            for state in self.states:
                if isinstance(state.mixer, PagedState):
                    state.mixer.copy_blocks(sources, destinations)
        if self.has_pages and plan.moved:
            self._zero_new_blocks(plan)
        if not self.has_rows:
            return
        if plan.slot_copies:
            sources, destinations = torch.tensor(plan.slot_copies, device=device).unbind(1)
            for state in self.states:
                for tensor in state.held().values():
                    tensor[destinations] = tensor[sources]
        if plan.slot_clears:
            rows = torch.tensor(plan.slot_clears, device=device)
            for state, blank in zip(self.states, self._blank, strict=True):
                fresh = blank.held()
                for name, tensor in state.held().items():
                    tensor[rows] = fresh[name]

    def _zero_new_blocks(self, plan: Plan) -> None:
        """Zero stale contents of new blocks, after what this step writes into them.

        A masked key has weight 0, and 0 times a stale NaN would be NaN.
        """
        size, moved = self.block_size, set(plan.moved)
        rows = [
            block
            for chunk in plan.chunks
            if chunk.sequence in moved
            for block in chunk.sequence.blocks[
                max(-(-chunk.start // size), (chunk.start + _width(chunk)) // size) :
            ]
        ]
        if rows:
            index = torch.tensor(rows, device=self.model.device)
            for state in self.states:
                if isinstance(state.mixer, PagedState):
                    state.mixer.clear_blocks(index)

    # ---- passes -------------------------------------------------------------------------------

    def _groups(self, chunks: Sequence[Chunk]) -> Iterator[tuple[list[Chunk], bool]]:
        """The batches of chunks that run in one forward pass each, and whether they start at position 0."""
        single, fresh, continued = [], [], []
        for chunk in chunks:
            if chunk.start == 0:
                fresh.append(chunk)
            elif chunk.count == 1 and not chunk.drafted:
                single.append(chunk)
            else:
                continued.append(chunk)
        if single:
            yield single, False
        costly = self.model.config.hidden_size >= _WIDE and self.model.device.type == "cpu"
        alike = _ALIKE_WIDE if costly else _ALIKE
        for kind in (fresh, continued):
            kind.sort(key=_width, reverse=True)
            first = 0
            for place, chunk in enumerate(kind):
                if _width(chunk) < alike * _width(kind[first]):
                    yield kind[first:place], kind is fresh
                    first = place
            if kind:
                yield kind[first:], kind is fresh

    def _pass(self, group: list[Chunk], fresh: bool) -> Float[Tensor, "B T D"]:
        """Run one forward pass over these chunks; returns the final hidden states."""
        device = self.model.device
        if self.has_rows:
            group.sort(key=lambda chunk: chunk.sequence.slot)
        widths = [_width(chunk) for chunk in group]
        width = max(widths)
        if width == 1:
            ids = torch.tensor([[c.sequence.tokens[c.start]] for c in group], device=device)
        else:
            fed = [chunk.fed + [0] * (width - n) for chunk, n in zip(group, widths, strict=True)]
            ids = torch.tensor(fed, device=device)
        lengths = None
        if min(widths) < width:
            lengths = torch.tensor(widths, device=device)
        positions = torch.arange(width, device=device).unsqueeze(0)
        if fresh:
            key_length = width
        else:
            starts = torch.tensor([chunk.start for chunk in group], device=device)
            positions = starts.unsqueeze(1) + positions
            key_length = max(c.start + n for c, n in zip(group, widths, strict=True))
            if lengths is not None:  # padding goes to a position that no row uses
                last = self.length if self.has_rows else self.context_length
                positions = positions.clamp(max=last - 1)
        pages = self._pages(group, positions, lengths, key_length) if self.has_pages else None
        states, rows = self.states, None
        if self.has_rows:
            rows = self._rows(group)
            if rows is not None:
                states = [state.take(rows) for state in states]
        with self._adapted(group):
            hidden = self.model.hidden_states(
                ids,
                positions=positions,
                lengths=lengths,
                state=states,
                key_length=key_length,
                pages=pages,
            )
        if rows is not None:
            for mine, part in zip(self.states, states, strict=True):
                mine.put(rows, part)
        return hidden

    def _adapted(self, group: Sequence[Chunk]) -> AbstractContextManager[object]:
        """Each row with its request's adapter; rows without one use the base model."""
        names = [chunk.sequence.adapter for chunk in group]
        if not any(names):
            return nullcontext()
        adapters = adapters_of(self.model)
        assert adapters is not None, "an adapter was removed while its requests ran"
        return adapters.rows([name or adapters.selection.active for name in names])

    def _rows(self, group: Sequence[Chunk]) -> Rows | None:
        """The slots of these chunks; None where they are all slots in order."""
        slots = [chunk.sequence.slot for chunk in group]
        if slots[-1] - slots[0] == len(slots) - 1:
            if len(slots) == self.num_rows:
                return None
            return slice(slots[0], slots[-1] + 1)
        return torch.tensor(slots, device=self.model.device)

    def _pages(
        self,
        group: Sequence[Chunk],
        positions: Int[Tensor, "#B T"],
        lengths: Int[Tensor, " B"] | None,
        key_length: int,
    ) -> Pages:
        """Where this pass writes and reads keys and values."""
        size, device = self.block_size, positions.device
        num_pages = -(-key_length // size)
        lists = [chunk.sequence.blocks[:num_pages] for chunk in group]
        if len(lists) == 1:
            blocks = lists[0]
            if blocks == list(range(blocks[0], blocks[0] + len(blocks))):
                start = blocks[0] * size
                table = positions.new_empty(0, 0)
                slots = positions[0] + start
                return Pages(slots, table, positions, key_length, start)
        table = torch.tensor(
            [blocks + blocks[-1:] * (num_pages - len(blocks)) for blocks in lists], device=device
        )
        positions = positions.expand(len(group), -1)
        page = positions // size
        if lengths is not None:
            page = page.clamp(max=num_pages - 1)
        slots = table.gather(1, page) * size + positions % size
        if lengths is not None:
            order = torch.arange(positions.shape[1], device=device)
            slots = slots.where(order < lengths.unsqueeze(1), self.num_blocks * size)
        length = num_pages * size
        window = self._window_for(group, length) if positions.shape[1] == 1 else None
        level = False
        if window is not None:
            length, level = key_length, min(c.start for c in group) == key_length - 1
        return Pages(
            slots.flatten(), table, positions, length, None, window, self._scratch, level=level
        )

    def _window_for(self, group: Sequence[Chunk], length: int) -> GatheredRows | None:
        """The gathered window of these rows, if the last step decoded the same rows; else None."""
        rows, starts = [c.sequence for c in group], [c.start for c in group]
        again = rows == self._decoding and starts == self._next
        self._decoding, self._next = rows, [start + 1 for start in starts]
        if not again:
            self._window = None
        elif self._window is None or self._window.capacity < length:
            self._window = GatheredRows(length + _WINDOW_BLOCKS * self.block_size)
        return self._window


def _width(chunk: Chunk) -> int:
    """Tokens that a chunk feeds."""
    return chunk.count + len(chunk.drafted)


def _order(plan: Plan, sampled: Sequence[Chunk]) -> list[int] | None:
    """For each row of the plan's sampling, its row of the logits of the chunks `sampled`; None: the same order."""
    wanted = [chunk for chunk in plan.chunks if chunk.samples]
    alone = not any(chunk.siblings for chunk in wanted)
    if alone and all(map(is_, wanted, sampled)):
        return None
    first, row = {}, 0
    for chunk in sampled:
        first[id(chunk)] = row
        row += 1 + len(chunk.drafted)
    order: list[int] = []
    for chunk in wanted:
        start = first[id(chunk)]
        order += range(start, start + 1 + len(chunk.drafted))
        order += [start] * len(chunk.siblings)
    return order


def _last(
    hidden: Float[Tensor, "B T D"], wanted: Sequence[tuple[int, Chunk]], num_chunks: int
) -> Float[Tensor, "R D"]:
    """Of each wanted chunk the positions after which a token is sampled."""
    if hidden.shape[1] == 1 and len(wanted) == num_chunks:
        return hidden[:, 0]
    pairs = [
        (place, at)
        for place, chunk in wanted
        for at in range(chunk.count - 1, chunk.count + len(chunk.drafted))
    ]
    rows, positions = torch.tensor(pairs, device=hidden.device).unbind(1)
    return hidden[rows, positions]
