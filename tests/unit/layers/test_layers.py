"""Linear, embedding, feed-forward, context, cache."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from glassbox.layers.attention import GroupedQuery, GroupedQueryAttention, KeyValueState, Rotary
from glassbox.layers.context import Context
from glassbox.layers.feedforward import (
    GeGlu,
    GeGluLayer,
    Gelu,
    GeluLayer,
    Relu2,
    Relu2Layer,
    SwiGlu,
    SwiGluLayer,
)
from glassbox.layers.linear import Embedding, Linear
from glassbox.layers.rotary import Alibi, LinearScaling, Llama3Scaling, LongRope


def copy_weights(ours, theirs):
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(b)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs(bias):
    ours, theirs = Linear(3, 5, bias=bias), nn.Linear(3, 5, bias=bias)
    copy_weights(ours, theirs)
    x = torch.randn(2, 4, 3, requires_grad=True)
    assert torch.equal(ours(x), theirs(x))
    ours(x).sum().backward()
    theirs(x).sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert repr(ours) == f"Linear(3, 5, bias={bias})"


def test_embedding_is_torchs_also_where_ids_repeat():
    ours, theirs = Embedding(6, 3), nn.Embedding(6, 3)
    copy_weights(ours, theirs)
    ids = torch.tensor([[1, 1, 5], [0, 1, 5]])
    assert torch.equal(ours(ids), theirs(ids))
    ours(ids).pow(2).sum().backward()
    theirs(ids).pow(2).sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    assert repr(ours) == "Embedding(6, 3)"


@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_layers_are_their_formulas(bias):
    gelu = GeluLayer(Gelu(size=7, tanh=False, bias=bias), 4)
    swiglu = SwiGluLayer(SwiGlu(size=7, bias=bias), 4)
    geglu = GeGluLayer(GeGlu(size=7, tanh=False, bias=bias), 4)
    relu2 = Relu2Layer(Relu2(size=7, bias=bias), 4)
    for layer in (gelu, swiglu, geglu, relu2):
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(gelu(x), gelu.down(nn.GELU()(gelu.up(x))))
    gate, up = swiglu.gate_up(x)[..., :7], swiglu.gate_up(x)[..., 7:]
    torch.testing.assert_close(swiglu(x), swiglu.down(nn.SiLU()(gate) * up))
    gate, up = geglu.gate_up(x)[..., :7], geglu.gate_up(x)[..., 7:]
    torch.testing.assert_close(geglu(x), geglu.down(nn.GELU()(gate) * up))
    torch.testing.assert_close(relu2(x), relu2.down(nn.ReLU()(relu2.up(x)) ** 2))


def test_masks_and_tables_are_made_once_a_pass_not_once_a_layer():
    documents = torch.tensor([[0, 0, 1]])
    context = Context(positions=torch.tensor([[0, 1, 0]]), documents=documents)
    assert context.mask() is context.mask()
    assert context.rotary(4, 10.0)[0] is context.rotary(4, 10.0)[0]
    assert context.rotary(4, 10.0)[0] is not context.rotary(4, 20.0)[0]
    scaling = LinearScaling(factor=2)
    assert (
        context.rotary(4, 10.0, scaling)[0] is context.rotary(4, 10.0, LinearScaling(factor=2))[0]
    )
    assert context.rotary(4, 10.0)[0] is not context.rotary(4, 10.0, scaling)[0]
    assert context.slopes(3) is context.slopes(3)
    assert Context(positions=torch.arange(3)[None]).mask() is None


def test_a_first_fill_of_a_state_needs_no_mask_and_a_later_one_does():
    first = Context(positions=torch.arange(3)[None], key_length=3)
    assert first.in_order
    assert first.mask() is None
    for positions in (torch.tensor([[2]]), torch.tensor([[1], [2]])):
        later = Context(positions=positions, key_length=3)
        assert not later.in_order
        mask = later.mask()
        assert mask is not None
        assert mask[:, 0].sum(-1).flatten().tolist() == (positions + 1).flatten().tolist()


def decode(layer, hidden, chunks):
    """Outputs of a layer that is given the tokens piece by piece, and its state."""
    state = layer.init_state(len(hidden), hidden.shape[1], device=hidden.device, dtype=hidden.dtype)
    found, done = [], 0
    for chunk in chunks:
        context = Context(positions=torch.arange(done, done + chunk)[None], key_length=done + chunk)
        found.append(layer(hidden[:, done : done + chunk], context, state))
        done += chunk
    return torch.cat(found, 1), state


@torch.no_grad()
@pytest.mark.parametrize("positions", [Rotary(), Alibi(), None])
def test_a_window_keeps_its_size_however_long_the_sequence(positions):
    spec = GroupedQuery(num_heads=4, num_kv_heads=2, window=10, positions=positions)
    layer = GroupedQueryAttention(spec, 12).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    hidden = torch.randn(2, 300, 12, dtype=torch.float64)
    whole = layer(hidden, Context(positions=torch.arange(300)[None]))
    for chunks in ((300,), (1,) * 300, (7, 93, 1, 199), (1, 1, 250, *(1,) * 48)):
        found, state = decode(layer, hidden, chunks)
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-10)
        assert state.cache_bytes == 2 * 2 * 2 * 10 * 3 * 8
    short = layer.init_state(2, 7, device=hidden.device, dtype=hidden.dtype)
    assert short.cache_bytes == 2 * 2 * 2 * 7 * 3 * 8  # no more slots than there will be tokens


@torch.no_grad()
def test_rows_that_end_in_the_middle_of_a_chunked_prompt_leave_no_trace_in_a_window():
    """Prompts of 9, 4 and 11 tokens read in pieces of 5; then each goes on by itself."""
    layer = GroupedQueryAttention(GroupedQuery(num_heads=2, window=4, positions=Rotary()), 8)
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    lengths = torch.tensor([9, 4, 11])
    hidden = torch.randn(3, 15, 8, dtype=torch.float64)
    whole = layer(hidden, Context(positions=torch.arange(15)[None]))
    state = layer.init_state(3, 15, device=hidden.device, dtype=hidden.dtype)
    for start in (0, 5, 10):
        real = (lengths - start).clamp(0, 5)
        piece = hidden[:, start : start + 5].clone()
        piece[torch.arange(5) >= real[:, None]] = 99.0
        context = Context(
            positions=torch.arange(start, start + 5)[None], key_length=start + 5, lengths=real
        )
        found = layer(piece, context, state)
        for row, n in enumerate(real.tolist()):
            torch.testing.assert_close(found[row, :n], whole[row, start : start + n])
    for step in range(3):
        places = (lengths + step)[:, None]
        token = hidden.gather(1, places[..., None].expand(3, 1, 8))
        context = Context(positions=places, key_length=int(places.max()) + 1)
        # first with a row that rests, which must not disturb its ring
        resting = Context(
            positions=places, key_length=int(places.max()) + 1, lengths=torch.tensor([1, 0, 1])
        )
        layer(
            torch.full_like(token, 99.0).where(resting.lengths[:, None, None] == 0, token),
            resting,
            state,
        )
        found = layer(token, context, state)
        for row, place in enumerate(places[:, 0].tolist()):
            torch.testing.assert_close(found[row, 0], whole[row, place])


def test_packed_documents_with_a_state_are_refused():
    with pytest.raises(ValueError, match="documents"):
        Context(positions=torch.zeros(1, 1), documents=torch.zeros(1, 1), key_length=1)


def test_attention_spec_refuses_heads_that_do_not_fit():
    with pytest.raises(ValueError, match="num_kv_heads = 2"):
        GroupedQuery(num_heads=3, num_kv_heads=2)
    with pytest.raises(ValueError, match="give head_dim"):
        GroupedQuery(num_heads=3).resolved_head_dim(8)
    assert GroupedQuery(num_heads=3, head_dim=5).resolved_head_dim(8) == 5


def test_stretched_positions_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"high_freq_factor = 1.0 must be above low_freq_factor"):
        Llama3Scaling(factor=2, original_length=8, high_freq_factor=1)
    with pytest.raises(ValueError, match="short_factor has 1 numbers and long_factor 2"):
        LongRope(factor=2, original_length=8, short_factor=(1,), long_factor=(1, 2))
    scaling = LongRope(factor=2, original_length=8, short_factor=(1, 1), long_factor=(1, 2))
    spec = GroupedQuery(num_heads=2, positions=Rotary(scaling=scaling))
    assert spec.resolve(8).head_dim == 4
    with pytest.raises(ValueError, match=r"2 numbers, but head_dim = 6 has 3 pairs"):
        spec.resolve(12)


def test_a_state_shorter_than_the_sequence_is_a_fault():
    state = KeyValueState(1, 1, 2, 4, device=torch.device("cpu"), dtype=torch.float32)
    new = torch.zeros(1, 1, 1, 4)
    with pytest.raises(AssertionError, match="shorter"):
        state.update(new, new, Context(positions=torch.tensor([[2]]), key_length=3))


def test_a_cache_of_less_precision_than_the_model():
    layer = GroupedQueryAttention(GroupedQuery(num_heads=2, positions=Rotary()), 8)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    hidden = torch.randn(1, 5, 8)
    state = layer.init_state(1, 5, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert state.cache_bytes == 2 * 5 * 8 * 2
    positions = torch.arange(5)[None]
    with torch.no_grad():
        rough = layer(hidden, Context(positions=positions, key_length=5), state)
        exact = layer(hidden, Context(positions=positions))
    assert rough.dtype == torch.float32
    assert float((rough - exact).norm() / exact.norm()) < 0.02  # keys and values rounded to 2^-9


def test_the_last_layer_does_not_advance_the_cache():
    """The state holds no position of its own: the same call again writes the same slot."""
    layer = GroupedQueryAttention(GroupedQuery(num_heads=2), 8)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    state = layer.init_state(1, 4, device=torch.device("cpu"), dtype=torch.float32)
    hidden, context = torch.randn(1, 1, 8), Context(positions=torch.tensor([[1]]), key_length=2)
    with torch.no_grad():
        first = layer(hidden, context, state)
        keys = state.keys.clone()
        assert torch.equal(layer(hidden, context, state), first)
    assert torch.equal(state.keys, keys)
    assert (keys[:, :, [0, 2, 3]] == 0).all()
