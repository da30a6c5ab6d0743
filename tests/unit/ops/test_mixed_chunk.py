"""FLASH's mixed chunk attention: two sums over tokens, and the blocks that compute them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.models.causal_lm import positions_in_documents
from glassbox.ops.mixed_chunk import mixed_chunk, mixed_chunk_plain

EXACT = {"rtol": 1e-10, "atol": 1e-11}  # float64: the same sums in another order


def drawn(batch, length, chunk, *, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, 3)] * 4 + [(batch, length, 4), (chunk,)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def weights_like(x):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)


def test_one_chunk_is_quadratic_and_chunks_of_one_are_linear_but_for_the_token_itself():
    quad_q, quad_k, lin_q, lin_k, v, bias = drawn(1, 6, 6, seed=0)
    positions = torch.arange(6)[None]
    i, j = positions.view(-1, 1), positions
    quadratic = (quad_q[0] @ quad_k[0].T / 6 + bias[(i - j).clamp(min=0)]).relu() ** 2
    expected = quadratic.tril() @ v[0]
    found = mixed_chunk_plain(quad_q, quad_k, lin_q, lin_k, v, bias, positions)
    torch.testing.assert_close(found[0], expected, **EXACT)
    linear = (lin_q[0] @ lin_k[0].T).tril(-1)
    itself = ((quad_q * quad_k).sum(-1)[0] + bias[0]).relu() ** 2
    expected = linear @ v[0] + itself[:, None] * v[0]
    found = mixed_chunk_plain(quad_q, quad_k, lin_q, lin_k, v, bias[:1], positions)
    torch.testing.assert_close(found[0], expected, **EXACT)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 20),
    chunk=st.integers(1, 7),
    packed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_blocks_equal_the_sums(length, chunk, packed, seed):
    inputs = [x.requires_grad_() for x in drawn(2, length, chunk, seed=seed)]
    documents, positions = None, torch.arange(length)[None]
    if packed:
        starts = torch.rand(2, length, generator=torch.Generator().manual_seed(seed)) < 0.3
        documents = starts.long().cumsum(1)
        positions = positions_in_documents(documents)
    plain = mixed_chunk_plain(*inputs, positions, documents=documents)
    fast, _, _ = mixed_chunk(*inputs, positions, documents=documents)
    torch.testing.assert_close(fast, plain, **EXACT)
    expected = torch.autograd.grad((plain * weights_like(plain)).sum(), inputs)
    found = torch.autograd.grad((fast * weights_like(fast)).sum(), inputs)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, **EXACT)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), chunk=st.integers(1, 6), seed=st.integers(0, 1000))
def test_calls_of_any_lengths_go_on_where_the_last_ended(data, chunk, seed):
    """Rows that grow by different numbers of tokens, padded on the right in every call."""
    calls = data.draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4)
    )
    totals = torch.tensor(calls).sum(0)
    longest = int(totals.max())
    *streams, bias = drawn(2, max(longest, 1), chunk, seed=seed)
    whole = mixed_chunk_plain(*streams, bias, torch.arange(max(longest, 1))[None])
    done = torch.zeros(2, dtype=torch.long)
    recent = torch.zeros(2, chunk, 10, dtype=torch.float64)
    memory = torch.zeros(2, 3, 4, dtype=torch.float64)
    for call in calls:
        lengths = torch.tensor(call)
        width = max(int(lengths.max()), 1)
        positions = done[:, None] + torch.arange(width)
        real = torch.arange(width) < lengths[:, None]
        places = torch.where(real, positions, 0)
        pieces = [
            torch.where(
                real[..., None], x.gather(1, places[..., None].expand(-1, -1, x.shape[2])), 99.0
            )
            for x in streams
        ]
        out, recent, memory = mixed_chunk(*pieces, bias, positions, recent, memory, lengths=lengths)
        for row in range(2):
            start, count = int(done[row]), int(lengths[row])
            torch.testing.assert_close(out[row, :count], whole[row, start : start + count], **EXACT)
        done = done + lengths
