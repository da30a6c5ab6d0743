"""Attention to chosen blocks: the fast versions against the equations, and the equations by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from glassbox.layers.attention import GroupedQuery, GroupedQueryAttention
from glassbox.layers.block_mixture import BlockMixture, BlockMixtureAttention
from glassbox.layers.context import Context
from glassbox.layers.grouped_heads import rotate
from glassbox.layers.native_sparse import NativeSparse, NativeSparseAttention
from glassbox.layers.rotary import Rotary
from glassbox.ops import selected_blocks
from glassbox.ops.attention import attention_plain
from glassbox.ops.block_mixture import block_means, block_mixture, block_mixture_plain
from glassbox.ops.native_sparse import (
    SparseSizes,
    _select,
    _select_plain,
    compressed_attention,
    native_sparse_plain,
    window_attention,
)
from glassbox.ops.selected_blocks import (
    Slots,
    document_slots,
    selected_attention,
    selected_attention_plain,
)
from support.mixers.sparse import MIXERS

# float64: products of other shapes sum in another order
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}
SIZE = 12


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(output, inputs):
    weights = normal(*output.shape, seed=99)
    return torch.autograd.grad((output * weights).sum(), inputs)


def assert_same(found, expected, inputs):
    torch.testing.assert_close(found, expected, **TOLERANCE)
    for a, b in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


# --- attention to given blocks ---------------------------------------------------------------


def some_blocks(batch, heads, rows, chosen, num_blocks, seed):
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.rand(batch, heads, rows, num_blocks, generator=generator).argsort(-1)
    blocks = shuffled[..., :chosen]
    return blocks.masked_fill(torch.rand(blocks.shape, generator=generator) < 0.2, -1)


@pytest.mark.parametrize(("elements", "most_rows"), [(1 << 20, 256), (60, 256), (1, 2)])
@pytest.mark.parametrize(("rows", "width"), [(9, 1), (9, 3), (1, 2)])
@pytest.mark.parametrize("few", [0, 9])
def test_selected_attention_equals_the_loop(monkeypatch, elements, most_rows, rows, width, few):
    """However many steps and pieces it takes; some rows see nothing at all."""
    monkeypatch.setattr(selected_blocks, "FEW_ROWS", few)
    monkeypatch.setattr(selected_blocks, "CPU_ELEMENTS", elements)
    monkeypatch.setattr(selected_blocks, "MOST_ROWS", most_rows)
    q = normal(2, 2, rows, width, 4).requires_grad_()
    k, v = (normal(2, 2, 20, 4, seed=seed).requires_grad_() for seed in (1, 2))
    blocks = some_blocks(2, 2, rows, 3, 5, rows)
    last = torch.arange(2 * rows).view(2, rows) * 3 % 20
    first = last // 8 * 4
    blocks[0, 0, 0] = -1
    arguments = (q, k, v, blocks, first, last)
    found = selected_attention(*arguments, block_size=4)
    assert_same(found, selected_attention_plain(*arguments, block_size=4), (q, k, v))
    assert (found[0, 0, 0] == 0).all()


def test_the_loop_over_blocks_is_attention_under_a_mask():
    q, k, v = (normal(1, 2, 12, 4, seed=seed) for seed in range(3))
    blocks = some_blocks(1, 2, 12, 2, 3, 0)
    blocks[..., 0] = torch.arange(12) // 4  # each sees at least itself
    blocks[..., 1] = torch.where(blocks[..., 1] == blocks[..., 0], -1, blocks[..., 1])
    last = torch.arange(12)[None]
    mask = (torch.arange(12)[:, None] // 4 == blocks.unsqueeze(-2)).any(-1)  # (1, 2, 12, 12)
    mask &= torch.ones(12, 12, dtype=torch.bool).tril()
    found = selected_attention_plain(
        q.unsqueeze(3), k, v, blocks, torch.zeros_like(last), last, block_size=4
    )
    torch.testing.assert_close(found.squeeze(3), attention_plain(q, k, v, mask), **TOLERANCE)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_no_block_holds_two_documents(lengths, block_size):
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    slots = document_slots(positions, block_size)
    own, first = slots.own[0], slots.first[0]
    assert own.unique().numel() == len(own)
    assert torch.equal(own - first, positions[0])
    assert (first % block_size == 0).all()
    holder = {}
    for slot, document in zip(own.tolist(), documents.tolist(), strict=True):
        assert holder.setdefault(slot // block_size, document) == document
    assert slots.size % block_size == 0
    assert int(own.max()) < slots.size <= len(own) + len(lengths) * (block_size - 1)


# --- block mixture ---------------------------------------------------------------------------


def mixed(q, k, v, block_size, top_k):
    length = q.shape[2]
    padding = -length % block_size
    k, v = (torch.nn.functional.pad(x, (0, 0, 0, padding)) for x in (k, v))
    own = torch.arange(length)[None]
    slots = Slots(own, torch.zeros_like(own), length + padding)
    means = block_means(k, block_size)
    return block_mixture(q, k, v, means, slots, block_size=block_size, top_k=top_k)


@pytest.mark.parametrize(("length", "block_size", "top_k"), [(23, 4, 2), (23, 4, 1), (16, 1, 5)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 1), (2, 2)])
def test_block_mixture_equals_the_loop(length, block_size, top_k, heads, kv_heads):
    q = normal(2, heads, length, 4).requires_grad_()
    k, v = (normal(2, kv_heads, length, 4, seed=seed).requires_grad_() for seed in (1, 2))
    expected = block_mixture_plain(q, k, v, block_size=block_size, top_k=top_k)
    assert_same(mixed(q, k, v, block_size, top_k), expected, (q, k, v))


def test_block_mixture_of_all_blocks_is_full_attention():
    q, k, v = (normal(1, 2, 14, 4, seed=seed) for seed in range(3))
    expected = attention_plain(q, k, v)
    found = block_mixture_plain(q, k, v, block_size=4, top_k=4)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    torch.testing.assert_close(mixed(q, k, v, 4, 9), expected, **TOLERANCE)


@pytest.mark.parametrize("function", [block_mixture_plain, None])
def test_block_mixture_by_hand(function):
    """Blocks of two tokens with mean keys 1, 3, 2; a query of 1 likes the second, -1 the first."""
    k = torch.tensor([0.0, 2, 5, 1, 2, 2, 0, 9]).view(1, 1, 8, 1).double()
    v = torch.eye(8).double().view(1, 1, 8, 8)  # a query's output is its weights
    k = k.expand(1, 1, 8, 8) * torch.eye(8).double()[0]  # the first of eight channels alone
    for sign, chosen in ((1.0, [2, 3]), (-1.0, [0, 1])):
        q = torch.zeros(1, 1, 8, 8).double()
        q[..., 0] = sign * math.sqrt(8)
        out = mixed(q, k, v, 2, 2) if function is None else function(q, k, v, block_size=2, top_k=2)
        seen = [*chosen, 6]  # the last query but one: its own block up to itself
        expected = torch.zeros(8).double()
        expected[seen] = (sign * k[0, 0, seen, 0]).softmax(0)
        torch.testing.assert_close(out[0, 0, 6], expected)


# --- native sparse ---------------------------------------------------------------------------


def drawn(layer: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.double().parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return layer


def by_equations(layer: NativeSparseAttention, hidden: torch.Tensor) -> torch.Tensor:
    """The layer's matrices, and the paper's loop between them."""
    spec, heads, size = layer.spec, layer.num_heads, layer.head_dim
    batch, length, _ = hidden.shape
    context = Context(positions=torch.arange(length)[None])
    parts = layer.qkv(hidden).view(batch, length, -1, size)
    q, *branches = parts.split((heads, *[spec.kv_heads] * 6), dim=2)
    for index in (2, 4):
        branches[index] = rotate(branches[index], spec.positions, size, context)
    q = rotate(q, spec.positions, size, context).transpose(1, 2)
    branches = [branch.transpose(1, 2) for branch in branches]

    def keys(block: torch.Tensor, start: int) -> torch.Tensor:
        there = Context(positions=torch.tensor([[start]]))
        summary = layer.key_summary(block).view(1, 1, 1, -1)
        return rotate(summary, spec.positions, size, there).flatten()

    gates = layer.gate(hidden).sigmoid().view(batch, length, heads, 3).transpose(1, 2)
    mixed = native_sparse_plain(
        q,
        (branches[0], branches[1]),
        (branches[2], branches[3]),
        (branches[4], branches[5]),
        gates,
        layer.sizes,
        keys,
        lambda block, start: layer.value_summary(block),
    )
    return layer.output(mixed.transpose(1, 2).flatten(2))


NATIVE = {name: spec for name, spec in MIXERS.items() if isinstance(spec, NativeSparse)}


@pytest.mark.parametrize("name", NATIVE)
def test_native_sparse_equals_the_equations(name):
    layer = drawn(NativeSparseAttention(NATIVE[name], SIZE))
    hidden = normal(2, 37, SIZE).requires_grad_()
    found = layer(hidden, Context(positions=torch.arange(37)[None]))
    assert_same(found, by_equations(layer, hidden), [hidden, *layer.parameters()])


def test_block_mixture_layer_of_all_blocks_is_full_attention():
    spec = {"num_heads": 4, "num_kv_heads": 2, "positions": Rotary()}
    sparse = drawn(BlockMixtureAttention(BlockMixture(**spec, block_size=4, top_k=5), SIZE))
    full = GroupedQueryAttention(GroupedQuery(**spec), SIZE).double()
    full.load_state_dict(sparse.state_dict())
    hidden, context = normal(2, 19, SIZE), Context(positions=torch.arange(19)[None])
    torch.testing.assert_close(sparse(hidden, context), full(hidden, context), **TOLERANCE)


def sizes(**changes: int) -> SparseSizes:
    values = {
        "block_size": 4, "stride": 2, "selection_size": 4, "num_selected": 3, "num_first": 1,
        "num_local": 1, "window": 2,
    }  # fmt: skip
    return SparseSizes(**{**values, **changes})


def branch(q, k, v, gates, options, number):
    """The loop with nothing but one branch let through, and means as summaries."""
    only = torch.zeros(3).double()
    only[number] = 1.0
    summary = lambda block, start: block.mean(0)  # noqa: E731
    pair = (k, v)
    return native_sparse_plain(q, pair, pair, pair, gates * only, options, summary, summary)


def test_selection_of_all_blocks_and_a_wide_window_are_full_attention():
    q, k, v = (normal(1, 2, 11, 4, seed=seed) for seed in range(3))
    gates = torch.ones(1, 2, 11, 3).double()
    expected = attention_plain(q, k, v)
    everything = sizes(num_selected=9, window=11)
    for number in (1, 2):
        found = branch(q, k, v, gates, everything, number)
        torch.testing.assert_close(found, expected, **TOLERANCE)
    narrow = branch(q, k, v, gates, sizes(), 2)
    mask = torch.ones(11, 11, dtype=torch.bool).tril().triu(-1)
    torch.testing.assert_close(narrow, attention_plain(q, k, v, mask), **TOLERANCE)


def test_a_summary_is_seen_when_its_block_is_whole():
    """l = 4, d = 2: blocks end at tokens 3, 5, 7, ...; before the first there is nothing."""
    q, k, v = (normal(1, 1, 9, 4, seed=seed) for seed in range(3))
    found = branch(q, k, v, torch.ones(1, 1, 9, 3).double(), sizes(), 0)
    assert (found[:, :, :3] == 0).all()
    for t, starts in ((3, [0]), (4, [0]), (5, [0, 2]), (8, [0, 2, 4])):
        means = [torch.stack([x[0, 0, s : s + 4].mean(0) for s in starts]) for x in (k, v)]
        weights = (means[0] @ q[0, 0, t] / 2).softmax(0)
        torch.testing.assert_close(found[0, 0, t], weights @ means[1], **TOLERANCE)


def test_selected_blocks_by_hand():
    """l = l' = 4, d = 2, at token 23 (blocks 0 ... 5): 0 is first, 5 is local, one is to choose.

    Summaries begin at 0, 2, 4, ...: one that straddles two blocks counts once for each, one that
    fills a block counts twice.
    """
    importance = [0.0] * 11
    importance[5] = 1.0  # tokens 10 ... 13: blocks 2 and 3 alike, the earlier wins
    assert sorted(_select_plain(importance, 23, sizes())) == [0, 2, 5]
    importance[8] = 0.6  # tokens 16 ... 19 fill block 4: twice 0.6 is more
    assert sorted(_select_plain(importance, 23, sizes())) == [0, 4, 5]
    importance[8] = 0.4
    assert sorted(_select_plain(importance, 23, sizes())) == [0, 2, 5]
    assert sorted(_select_plain(importance, 7, sizes())) == [0, 1]  # there are no more


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 60), st.integers(0, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_many_queries_select_as_one_does(stride, per_summary, t, extra, data):
    """Importance of few values, so that ties abound."""
    per_block = data.draw(st.integers(per_summary, 4))
    first, local = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 2))
    options = SparseSizes(
        block_size=stride * per_summary,
        stride=stride,
        selection_size=stride * per_block,
        num_selected=first + local + extra,
        num_first=first,
        num_local=local,
        window=1,
    )
    count = options.num_compressed(t + 1)
    importance = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    expected = _select_plain([float(x) for x in importance], t, options)
    own = torch.tensor([[t]])
    found = _select(
        torch.tensor(importance).double().view(1, 1, 1, -1),
        own,
        torch.zeros_like(own),
        options,
        t // options.selection_size + 1,
    )
    found = found.flatten().tolist()
    assert [block for block in found if block >= 0] == expected
    assert set(found[len(expected) :]) <= {-1}


def test_a_group_of_heads_chooses_together():
    """Head 0 likes block 1 a little more than block 2, head 1 likes block 2 much more."""
    options = sizes(block_size=4, stride=4, num_first=0, num_selected=2)
    k = torch.zeros(1, 1, 3, 2).double()
    k[0, 0, 1], k[0, 0, 2] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    own = torch.tensor([[15]])
    slots = Slots(own, torch.zeros_like(own), 16)
    one = torch.tensor([1.0, 0.8]).double()
    other = torch.tensor([0.0, 3.0]).double()

    def chosen(*queries):
        q = torch.stack(queries).view(1, 1, -1, 1, 2)
        return sorted(compressed_attention(q, k, k, slots, options)[1].flatten().tolist())

    assert chosen(one) == [1, 3]
    assert chosen(other) == [2, 3]
    assert chosen(one, other) == [2, 3]


def test_selection_reaches_what_the_window_does_not():
    """A far block that the summaries point to is read whole; a copy of the window would miss it."""
    length, far = 40, 9  # token 9, in block 2
    q, k, v = (normal(1, 1, length, 4, seed=seed) for seed in range(3))
    k[0, 0, 8:12] = 6 * q[0, 0, -1]
    gates = torch.ones(1, 1, length, 3).double()
    options = sizes(num_selected=3)
    other = v.clone()
    other[0, 0, far] += 1.0
    for number, reached in ((1, True), (2, False)):
        before, after = (branch(q, k, x, gates, options, number) for x in (v, other))
        assert torch.equal(before[0, 0, -1], after[0, 0, -1]) is not reached


@pytest.mark.parametrize(("length", "window"), [(1, 1), (5, 9), (70, 1), (70, 40), (130, 7)])
def test_window_attention_is_attention_under_a_mask(length, window):
    q = normal(2, 4, length, 4).requires_grad_()
    k, v = (normal(2, 2, length, 4, seed=seed).requires_grad_() for seed in (1, 2))
    past = torch.stack(
        (torch.arange(length), torch.arange(length) % 11)
    )  # the second row: documents
    back = torch.arange(length)[:, None] - torch.arange(length)
    mask = (back >= 0) & (back <= past.clamp(max=window - 1).unsqueeze(-1))
    padded = (torch.nn.functional.pad(x, (0, 0, window - 1, 0)) for x in (k, v))
    found = window_attention(q, *padded, past, window=window)
    assert_same(found, attention_plain(q, k, v, mask.unsqueeze(1)), (q, k, v))


# --- cost ------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """The most numbers that any one result held."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numbers = max(self.numbers, storage)
        return result


LONG = {
    "block mixture": BlockMixture(num_heads=2, num_kv_heads=1, block_size=32, top_k=2),
    "native sparse": NativeSparse(
        num_heads=2, num_kv_heads=1, block_size=16, stride=16, selection_size=32, num_selected=4,
        window=32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_cost_grows_as_the_papers_say(name, monkeypatch):
    """Products grow with T but for one a query and block; no tensor holds T x T, or near it."""
    monkeypatch.setattr(selected_blocks, "CPU_ELEMENTS", 1 << 14)
    spec = LONG[name]
    layer = {BlockMixture: BlockMixtureAttention, NativeSparse: NativeSparseAttention}[type(spec)]
    module = layer(spec, 8)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    flops, largest = {}, {}
    for length in (512, 2048):
        hidden = torch.randn(1, length, 8, generator=generator, requires_grad=True)
        counter, watch = FlopCounterMode(display=False), LargestTensor()
        with watch, counter:
            module(hidden, Context(positions=torch.arange(length)[None])).sum().backward()
        flops[length], largest[length] = counter.get_total_flops(), watch.numbers
    # one product of head_dim 4 a head, query and block: once for gates, seven times for summaries
    # (twice forward with values, five backward)
    num_blocks = 2048 // (32 if name == "block mixture" else 16)
    quadratic = (1 if name == "block mixture" else 7) * 2 * 4 * 2 * 2048 * num_blocks
    assert flops[2048] - quadratic < 1.25 * 4 * flops[512]
    assert largest[2048] <= 4 * max(largest[512], 1 << 14)
    assert largest[2048] < 2048 * 2048 / 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 30}, "block_size = 30 is no multiple of stride = 16"),
        ({"selection_size": 40}, "selection_size = 40 is no multiple"),
        ({"block_size": 128}, "more than selection_size = 64"),
        ({"num_selected": 2}, "num_first \\+ num_local = 3"),
        ({"summary": "linear", "summary_size": 8}, "needs summary = mlp"),
        ({"num_kv_heads": 3}, "no multiple of num_kv_heads = 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        NativeSparse(**{"num_heads": 4, **changes})
