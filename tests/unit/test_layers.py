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
    assert Context(positions=torch.arange(3)[None]).mask() is None


def test_packed_documents_with_a_state_are_refused():
    with pytest.raises(ValueError, match="documents"):
        Context(positions=torch.zeros(1, 1), documents=torch.zeros(1, 1), key_length=1)


def test_attention_spec_refuses_heads_that_do_not_fit():
    with pytest.raises(ValueError, match="num_kv_heads = 2"):
        GroupedQuery(num_heads=3, num_kv_heads=2)
    with pytest.raises(ValueError, match="give head_dim"):
        GroupedQuery(num_heads=3).resolved_head_dim(8)
    assert GroupedQuery(num_heads=3, head_dim=5).resolved_head_dim(8) == 5


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
