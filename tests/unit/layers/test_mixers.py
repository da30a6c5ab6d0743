"""What every mixer must do. A later mixer adds its specs in `support/mixers`."""

from __future__ import annotations

import pytest
import torch

from glassbox.layers.attention import GroupedQueryAttention
from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw, Initializes
from glassbox.models.causal_lm import positions_in_documents
from support.mixers import SIZE, UNREACHED, all_mixers

MIXERS = all_mixers()
# float64: kernels of different shapes sum in another order
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture(params=MIXERS.values(), ids=MIXERS.keys())
def mixer(request):
    layer = request.param.build(SIZE).double()
    draw = Draw(
        std=0.5, residual_std=0.5, embedding_std=0.5, generator=torch.Generator().manual_seed(0)
    )
    for module in layer.modules():
        if isinstance(module, Initializes):
            module.initialize(draw)
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, generator=draw.generator)
    return layer


def hidden_states(batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, SIZE, generator=generator, dtype=torch.float64)


def whole(mixer, hidden):
    return mixer(hidden, Context(positions=torch.arange(hidden.shape[1])[None]))


def new_state(mixer, batch, length):
    return mixer.init_state(batch, length, device=torch.device("cpu"), dtype=torch.float64)


def first_seen(mixer, place):
    """0, but for attention with a window, which by definition sees nothing before it."""
    if isinstance(mixer, GroupedQueryAttention) and mixer.spec.window is not None:
        return max(0, place + 1 - mixer.spec.window)
    return 0


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(1,) * 9, (9,), (4, 1, 1, 3), (1, 8)])
def test_cached_decoding_equals_the_full_forward(mixer, chunks):
    hidden = hidden_states(2, sum(chunks))
    expected = whole(mixer, hidden)
    state = new_state(mixer, 2, 12)  # roomier than needed
    done = 0
    for chunk in chunks:
        positions = torch.arange(done, done + chunk)[None]
        lengths = torch.full((2,), chunk)
        context = Context(positions=positions, key_length=done + chunk, lengths=lengths)
        found = mixer(hidden[:, done : done + chunk], context, state)
        torch.testing.assert_close(found, expected[:, done : done + chunk], **TOLERANCE)
        done += chunk
    assert state.cache_bytes > 0


@torch.no_grad()
def test_rows_of_unequal_length_decode_as_if_alone(mixer):
    """Prompts of 5, 2 and 4 tokens padded on the right; then three tokens more for each."""
    lengths = torch.tensor([5, 2, 4])
    hidden = hidden_states(3, 8)
    alone = [
        whole(mixer, hidden[row : row + 1, : n + 3])[0] for row, n in enumerate(lengths.tolist())
    ]
    state = new_state(mixer, 3, 8)
    positions = torch.arange(5).expand(3, 5)
    prompt = hidden[:, :5].clone()
    prompt[torch.arange(5) >= lengths[:, None]] = 99.0  # padding must never be seen
    context = Context(positions=positions, key_length=5, lengths=lengths)
    found = mixer(prompt, context, state)
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row, :n], alone[row][:n], **TOLERANCE)
    for step in range(3):
        places = (lengths + step)[:, None]
        token = hidden.gather(1, places[..., None].expand(3, 1, SIZE))
        context = Context(
            positions=places,
            key_length=int(places.max()) + 1,
            lengths=torch.ones(3, dtype=torch.long),
        )
        found = mixer(token, context, state)
        for row, place in enumerate(places[:, 0].tolist()):
            torch.testing.assert_close(found[row, 0], alone[row][place], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("rows", [[2, 0], [1, 1, 0, 2], [0]])
def test_reordered_rows_go_on_from_their_own_past(mixer, rows):
    hidden = hidden_states(3, 6)
    expected = whole(mixer, hidden)[rows]
    state = new_state(mixer, 3, 6)
    three = torch.full((3,), 4)
    mixer(
        hidden[:, :4], Context(positions=torch.arange(4)[None], key_length=4, lengths=three), state
    )
    state.reorder(torch.tensor(rows))
    for place in (4, 5):
        context = Context(
            positions=torch.full((len(rows), 1), place),
            key_length=place + 1,
            lengths=torch.ones(len(rows), dtype=torch.long),
        )
        found = mixer(hidden[rows, place : place + 1], context, state)
        torch.testing.assert_close(found[:, 0], expected[:, place], **TOLERANCE)


@pytest.mark.parametrize("length", [7, 140])
def test_no_position_sees_the_future(mixer, length):
    hidden = hidden_states(1, length)
    before = whole(mixer, hidden)
    for changed in {0, 1, length // 2, length - 1}:
        other = hidden.clone()
        other[:, changed] += 10.0
        after = whole(mixer, other)
        assert torch.equal(after[:, :changed], before[:, :changed])
        assert not torch.allclose(after[:, changed], before[:, changed])


def test_no_gradient_reaches_the_future(mixer):
    hidden = hidden_states(1, 6).requires_grad_()
    output = whole(mixer, hidden)
    for place in range(6):
        (grad,) = torch.autograd.grad(output[:, place].pow(2).sum(), hidden, retain_graph=True)
        first = first_seen(mixer, place)
        assert float(grad[:, place + 1 :].abs().sum()) == 0
        assert float(grad[:, :first].abs().sum()) == 0
        assert (grad[0, first : place + 1].abs().sum(-1) > 0).all()


def test_packed_documents_equal_separate_documents(mixer):
    """Outputs, and the gradients of inputs and weights, whatever lies beside a document."""
    sizes = (3, 1, 90, 50)
    hidden = hidden_states(1, sum(sizes))
    documents = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[None]
    named = mixer.named_parameters()
    parameters = [parameter for name, parameter in named if not name.startswith(UNREACHED)]

    packed_input = hidden.clone().requires_grad_()
    context = Context(positions=positions_in_documents(documents), documents=documents)
    packed = mixer(packed_input, context)
    weights = torch.randn(packed.shape, generator=torch.Generator().manual_seed(1)).double()
    packed_grads = torch.autograd.grad((packed * weights).sum(), [packed_input, *parameters])

    separate_input = hidden.clone().requires_grad_()
    separate = torch.cat([whole(mixer, part) for part in separate_input.split(sizes, 1)], 1)
    separate_grads = torch.autograd.grad((separate * weights).sum(), [separate_input, *parameters])
    torch.testing.assert_close(packed, separate, **TOLERANCE)
    for a, b in zip(packed_grads, separate_grads, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_gradients_are_the_derivatives(mixer):
    hidden = hidden_states(1, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: whole(mixer, x), (hidden,))
    names = [name for name, _ in mixer.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in mixer.parameters()]

    def function(*given):
        context = Context(positions=torch.arange(4)[None])
        return torch.func.functional_call(
            mixer, dict(zip(names, given, strict=True)), (hidden.detach(), context)
        )

    assert torch.autograd.gradcheck(function, values, fast_mode=True)


def test_a_batch_equals_its_rows(mixer):
    hidden = hidden_states(3, 5)
    rows = torch.cat([whole(mixer, hidden[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(whole(mixer, hidden), rows, **TOLERANCE)


@pytest.mark.parametrize("sizes", [(50, 78), (3, 61)])
def test_in_float32_no_rounding_of_a_document_reaches_the_next(mixer, sizes):
    """What follows is the same to the last bit whatever came before, and sends no gradient there."""
    mixer = mixer.float()
    first, second = sizes
    documents = torch.repeat_interleave(torch.arange(2), torch.tensor(sizes))[None]
    context = {"positions": positions_in_documents(documents), "documents": documents}
    hidden = hidden_states(1, first + second).float()
    other = hidden.clone()
    other[:, :first] = 20 * other[:, :first].flip(1)  # strong decays among them
    found = []
    for given in (hidden, other):
        given.requires_grad_()
        output = mixer(given, Context(**context))[:, first:]
        (gradient,) = torch.autograd.grad(output.pow(2).sum(), given)
        assert float(gradient[:, :first].abs().max()) == 0.0
        found.append((output, gradient[:, first:]))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
