"""What every feed-forward that keeps a state must do, alone and within a block."""

from __future__ import annotations

import pytest
import torch

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw, Initializes
from glassbox.layers.rwkv import RwkvChannel, RwkvTime
from glassbox.layers.rwkv7 import Rwkv7Channel, Rwkv7Time
from glassbox.models.block import Block
from glassbox.models.causal_lm import positions_in_documents
from glassbox.models.config import BlockSpec

SIZE = 12
# float64; matrix products of other shapes sum in another order
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}
RANKS = {"decay_rank": 3, "rate_rank": 2, "gate_rank": 4}


def block(mixer: Spec, ffn: Spec) -> Block:
    return Block(BlockSpec.model_validate({"mixer": mixer, "ffn": ffn}), SIZE, 0.0)


LAYERS = {
    "rwkv": lambda: RwkvChannel(size=20).build(SIZE),
    "rwkv7": lambda: Rwkv7Channel(size=20).build(SIZE),
    "rwkv block": lambda: block(RwkvTime(), RwkvChannel(size=20)),
    "rwkv7 block": lambda: block(Rwkv7Time(head_dim=4, **RANKS), Rwkv7Channel(size=20)),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def layer(request):
    made = request.param().double()
    draw = Draw(0.5, 0.5, 0.5, torch.Generator().manual_seed(0))
    for module in made.modules():
        if isinstance(module, Initializes):
            module.initialize(draw)
    return made


def hidden_states(batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, SIZE, generator=generator, dtype=torch.float64)


def whole(layer, hidden):
    return layer(hidden, Context(positions=torch.arange(hidden.shape[1])[None]))


def new_state(layer, batch, length):
    return layer.init_state(batch, length, device=torch.device("cpu"), dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(1,) * 9, (9,), (4, 1, 1, 3), (1, 8)])
def test_cached_decoding_equals_the_full_forward(layer, chunks):
    hidden = hidden_states(2, 9)
    expected = whole(layer, hidden)
    state, done = new_state(layer, 2, 9), 0
    for chunk in chunks:
        positions = torch.arange(done, done + chunk)[None]
        context = Context(positions=positions, key_length=done + chunk)
        found = layer(hidden[:, done : done + chunk], context, state)
        torch.testing.assert_close(found, expected[:, done : done + chunk], **TOLERANCE)
        done += chunk
    assert state.cache_bytes > 0


@torch.no_grad()
def test_padding_leaves_no_trace_and_rows_can_be_reordered(layer):
    """Prompts of 3, 0 and 2 tokens, then one more for each, the rows turned round."""
    lengths, hidden = torch.tensor([3, 0, 2]), hidden_states(3, 4)
    prompt = hidden[:, :3].clone()
    prompt[torch.arange(3) >= lengths[:, None]] = 99.0
    state = new_state(layer, 3, 4)
    context = Context(positions=torch.arange(3).expand(3, 3), key_length=3, lengths=lengths)
    found = layer(prompt, context, state)
    alone = [whole(layer, hidden[row : row + 1, : n + 1]) for row, n in enumerate(lengths)]
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row, :n], alone[row][0, :n], **TOLERANCE)
    rows = torch.tensor([2, 0, 1])
    state.reorder(rows)
    places = lengths[rows][:, None]
    token = hidden[rows].gather(1, places[..., None].expand(3, 1, SIZE))
    one = torch.ones(3, dtype=torch.long)
    found = layer(token, Context(positions=places, key_length=4, lengths=one), state)
    for row, source in enumerate(rows.tolist()):
        torch.testing.assert_close(found[row, 0], alone[source][0, -1], **TOLERANCE)


def test_no_position_sees_the_future_and_each_sees_the_one_before(layer):
    hidden = hidden_states(1, 7)
    before = whole(layer, hidden)
    for changed in range(7):
        other = hidden.clone()
        other[:, changed] += 10.0
        after = whole(layer, other)
        assert torch.equal(after[:, :changed], before[:, :changed])
        for seen in range(changed, min(changed + 2, 7)):
            assert not torch.allclose(after[:, seen], before[:, seen])


def test_packed_documents_equal_separate_documents(layer):
    sizes = (3, 1, 5, 2)
    hidden = hidden_states(1, sum(sizes))
    documents = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[None]
    parameters = list(layer.parameters())
    packed_input, separate_input = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    context = Context(positions=positions_in_documents(documents), documents=documents)
    packed = layer(packed_input, context)
    separate = torch.cat([whole(layer, part) for part in separate_input.split(sizes, 1)], 1)
    torch.testing.assert_close(packed, separate, **TOLERANCE)
    weights = torch.randn(packed.shape, generator=torch.Generator().manual_seed(1)).double()
    ours = torch.autograd.grad((packed * weights).sum(), [packed_input, *parameters])
    theirs = torch.autograd.grad((separate * weights).sum(), [separate_input, *parameters])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_gradients_are_the_derivatives(layer):
    hidden = hidden_states(1, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: whole(layer, x), (hidden,), fast_mode=True)
