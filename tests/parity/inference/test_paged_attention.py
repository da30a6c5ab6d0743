"""Attention over pages against the plain formula over the tokens themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.layers.context import Context
from glassbox.layers.paged_state import PagedKeyValue
from glassbox.layers.pages import GatheredRows, Pages
from glassbox.ops.attention import alibi_slopes, attention_plain
from glassbox.ops.single_query import single_query_attention


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    longest=st.integers(1, 9),
    scale=st.sampled_from([None, 0.4]),
    softcap=st.sampled_from([None, 2.0]),
    with_sinks=st.booleans(),
    with_slopes=st.booleans(),
    seed=st.integers(0, 99),
)
def test_one_query_a_row_is_the_plain_formula(
    batch, kv_heads, groups, longest, scale, softcap, with_sinks, with_slopes, seed
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    heads = kv_heads * groups
    q, k, v = normal(batch, heads, 5), *(normal(kv_heads, batch, longest, 5) for _ in "kv")
    positions = torch.randint(longest, (batch,), generator=generator)
    order = torch.arange(longest).unsqueeze(0)
    hidden = order > positions.unsqueeze(1)
    sinks = normal(heads) if with_sinks else None
    slopes = alibi_slopes(heads).double() if with_slopes else None
    found = single_query_attention(
        q, k, v, hidden, scale=scale, softcap=softcap, sinks=sinks, slopes=slopes,
        positions=positions,
    )  # fmt: skip
    expected = attention_plain(
        q.unsqueeze(2), k.transpose(0, 1), v.transpose(0, 1), ~hidden[:, None, None],
        scale=scale, softcap=softcap, sinks=sinks, slopes=slopes,
        positions=(positions.unsqueeze(1), order),
    )  # fmt: skip
    # float64: only the order of sums differs
    torch.testing.assert_close(found, expected.squeeze(2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("groups", [1, 3])
def test_one_query_that_may_look_everywhere(groups):
    generator = torch.Generator().manual_seed(groups)
    q = torch.randn(2, 2 * groups, 5, generator=generator, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 2, 7, 5, generator=generator, dtype=torch.float64)
    seen = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    for scale in (None, 0.3):
        found = single_query_attention(q, keys, values, scale=scale)
        pair = (keys.transpose(0, 1), values.transpose(0, 1))
        expected = attention_plain(q.unsqueeze(2), *pair, seen, scale=scale)
        # float64: only the order of sums differs
        torch.testing.assert_close(found, expected.squeeze(2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("windowed", [False, True])
def test_pages_hold_what_was_written_wherever_their_blocks_lie(windowed):
    """Rows of unequal length in scattered blocks, token by token, what is left of others NaN."""
    generator = torch.Generator().manual_seed(3)
    size, heads, width, steps = 4, 2, 5, 14
    lengths = torch.tensor([1, 6, 9])
    tables = torch.randperm(18, generator=generator).view(3, 6)
    state = PagedKeyValue(19, size, heads, width, device=torch.device("cpu"), dtype=torch.float64)
    state.pools["keys"].fill_(float("nan"))
    total = int(lengths.max()) + steps
    keys, values = (
        torch.randn((3, heads, total, width), generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    for row, length in enumerate(lengths.tolist()):
        order = torch.arange(length)
        slots = tables[row, order // size] * size + order % size
        pages = Pages(slots, tables[row : row + 1], order.unsqueeze(0), length)
        context = Context(order.unsqueeze(0), key_length=length, pages=pages)
        state.attended(keys[row : row + 1, :, :length], values[row : row + 1, :, :length], context)
    window = GatheredRows(24) if windowed else None
    for _ in range(steps):
        positions = lengths.unsqueeze(1).clone()
        slots = tables.gather(1, positions // size)[:, 0] * size + lengths % size
        num_pages = int(lengths.max()) // size + 1
        pages = Pages(slots, tables[:, :num_pages], positions, num_pages * size, None, window)
        rows = torch.arange(3)
        q = torch.randn((3, 4, 1, width), generator=generator, dtype=torch.float64)
        new_keys, new_values = (x[rows, :, lengths].unsqueeze(2) for x in (keys, values))
        found = state.decode(
            q, new_keys, new_values, pages, scale=None, softcap=None, sinks=None, slopes=None
        )
        for row, length in enumerate(lengths.tolist()):
            own = [x[row : row + 1, :, : length + 1] for x in (keys, values)]
            expected = attention_plain(q[row : row + 1], *own)
            # float64: only the order of sums differs
            torch.testing.assert_close(found[row : row + 1], expected, atol=1e-12, rtol=0)
        lengths += 1
    assert windowed == bool(window is not None and window.held)
