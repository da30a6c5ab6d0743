"""Attention: plain against torch, fast against plain, masks."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
import torch.nn.functional as F

from glassbox.ops import attention as module
from glassbox.ops.attention import (
    alibi_slopes,
    attention,
    attention_plain,
    causal_mask,
    document_mask,
)
from glassbox.ops.block_attention import band

# float64; the kernels sum in another order and exponentiate with another polynomial
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}


def inputs(heads: int, kv_heads: int, length: int, keys: int, size: int = 4, batch: int = 2):
    generator = torch.Generator().manual_seed(heads * 100 + length)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw(batch, heads, length, size), draw(batch, kv_heads, keys, size), draw(
        batch, kv_heads, keys, size
    )  # fmt: skip


def results(function, tensors, *arguments, **options):
    """Output, then the gradients of q, k and v."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(*leaves, *arguments, **options)
    weights = torch.randn(
        output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype
    )
    (output * weights).sum().backward()
    return [output, *(leaf.grad for leaf in leaves)]


def same(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or TOLERANCE))


def by_hand(q, k, v, mask):
    """Query by query, head by head, with no matrix product: the paper's sentence."""
    output = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            group = h * k.shape[1] // q.shape[1]
            for i in range(q.shape[2]):
                seen = [j for j in range(k.shape[2]) if mask[b, i, j]]
                scores = [float(q[b, h, i] @ k[b, group, j]) / math.sqrt(q.shape[3]) for j in seen]
                total = sum(math.exp(s) for s in scores)
                for s, j in zip(scores, seen, strict=True):
                    output[b, h, i] += math.exp(s) / total * v[b, group, j]
    return output


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (3, 3), (6, 2)])
def test_plain_against_the_definition(heads, kv_heads):
    q, k, v = inputs(heads, kv_heads, 5, 5)
    causal = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 5, 5)
    expected = by_hand(q, k, v, causal)
    torch.testing.assert_close(attention_plain(q, k, v), expected, **TOLERANCE)
    random_mask = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    torch.testing.assert_close(
        attention_plain(q, k, v, random_mask[:, None]), by_hand(q, k, v, random_mask), **TOLERANCE
    )


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 7), (5, 5), (3, 8), (64, 64), (130, 130), (200, 200), (70, 200)])  # fmt: skip
def test_fast_against_plain_and_torch_causal(heads, kv_heads, length, keys):
    tensors = inputs(heads, kv_heads, length, keys)
    plain = results(attention_plain, tensors)
    same(results(attention, tensors), plain)
    offset = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)
    torch_own = results(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=offset, enable_gqa=True),
        tensors,
    )
    same(torch_own, plain)


@pytest.mark.parametrize("length", [9, 128, 150, 256])
@pytest.mark.parametrize("shared", [True, False], ids=["one mask", "a mask a row"])
def test_fast_against_plain_with_packed_documents(length, shared):
    tensors = inputs(4, 2, length, length, batch=3)
    generator = torch.Generator().manual_seed(length)
    starts = torch.rand(1 if shared else 3, length, generator=generator) < 0.05
    documents = starts.cumsum(1)
    order = torch.arange(length)[None]
    mask = (causal_mask(order, order) & document_mask(documents, documents))[:, None]
    plain = results(attention_plain, tensors, mask)
    same(results(attention, tensors, mask), plain)
    same(results(attention, tensors, mask, hides_future=True), plain)


def test_the_promise_of_a_causal_mask_skips_work(monkeypatch):
    """With `hides_future` no block reaches beyond its own end; without it all keys are multiplied."""
    touched = []
    kernel = F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        touched.append((q.shape[-2], k.shape[-2]))
        return kernel(q, k, v, **options)

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", spy)
    q, k, v = inputs(2, 2, 150, 150)
    mask = torch.ones(1, 1, 150, 150, dtype=torch.bool).tril()
    attention(q, k, v, mask, hides_future=True)
    assert touched == [(64, 64), (64, 128), (22, 150)]
    touched.clear()
    attention(q, k, v, mask)
    assert touched == [(150, 150)]


@pytest.mark.parametrize("length", [6, 160])
def test_a_query_that_sees_nothing_gets_zeros_and_no_nan(length):
    """A large negative number in place of -inf would make it look at everything alike."""
    tensors = inputs(2, 2, length, length)
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    mask[..., 3, :] = False
    plain = results(attention_plain, tensors, mask)
    assert torch.equal(plain[0][:, :, 3], torch.zeros_like(plain[0][:, :, 3]))
    assert all(torch.isfinite(tensor).all() for tensor in plain)
    same(results(attention, tensors, mask), plain)
    same(results(attention, tensors, mask, hides_future=True), plain)


EXTRAS = {
    "softcap": {"softcap": 1.3},
    "slopes": {"slopes": True},
    "sinks": {"sinks": True},
    "all": {"softcap": 2.0, "slopes": True, "sinks": True, "scale": 0.3},
}


def results_of(function, tensors, mask=None, *, sinks=False, slopes=False, **options):
    """As `results`, with the gradient of the sinks where there are some."""
    heads = tensors[0].shape[1]
    if slopes:
        options["slopes"] = alibi_slopes(heads).double()
    if not sinks:
        return results(function, tensors, mask, **options)
    learned = torch.linspace(-1, 2, heads, dtype=torch.float64)
    return results(
        lambda q, k, v, s: function(q, k, v, mask, sinks=s, **options), [*tensors, learned]
    )


@pytest.mark.parametrize("window", [None, 1, 5, 64, 90, 500])
@pytest.mark.parametrize(("length", "keys"), [(1, 9), (9, 9), (150, 150), (140, 220), (5, 150)])
def test_windows_fast_against_plain_and_torch(window, length, keys):
    tensors = inputs(4, 2, length, keys)
    plain = results(attention_plain, tensors, window=window)
    same(results(attention, tensors, window=window), plain)
    offset = keys - length
    seen = torch.tensor([
        [j <= i + offset and (window is None or j > i + offset - window) for j in range(keys)]
        for i in range(length)
    ])  # fmt: skip
    assert torch.equal(band(length, keys, window), seen)
    torch_own = results(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True),
        tensors,
    )
    same(torch_own, plain)


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS.keys())
@pytest.mark.parametrize("window", [None, 3, 70])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "length", "keys"),
    [(4, 2, 1, 7), (3, 1, 6, 6), (3, 3, 70, 70), (4, 2, 130, 180)],
)
def test_bent_scores_fast_against_plain(extras, window, heads, kv_heads, length, keys):
    tensors = inputs(heads, kv_heads, length, keys)
    plain = results_of(attention_plain, tensors, window=window, **extras)
    same(results_of(attention, tensors, window=window, **extras), plain)


@pytest.mark.parametrize("extras", [{}, *EXTRAS.values()], ids=["window alone", *EXTRAS.keys()])
@pytest.mark.parametrize("shared", [True, False], ids=["one mask", "a mask a row"])
def test_windows_caps_sinks_and_slopes_with_packed_documents(extras, shared):
    """And a query that sees nothing, which gets zeros and finite gradients."""
    tensors = inputs(4, 2, 150, 150, batch=3)
    starts = torch.rand(1 if shared else 3, 150, generator=torch.Generator().manual_seed(1)) < 0.05
    documents, order = starts.cumsum(1), torch.arange(150)[None]
    mask = (causal_mask(order, order) & document_mask(documents, documents))[:, None].clone()
    mask[..., 77, :] = False
    for window in (None, 20):
        plain = results_of(attention_plain, tensors, mask, window=window, **extras)
        assert not plain[0][:, :, 77].any()
        assert all(torch.isfinite(tensor).all() for tensor in plain)
        for promise in (False, True):
            fast = results_of(
                attention, tensors, mask, window=window, hides_future=promise, **extras
            )
            same(fast, plain)


def test_a_mask_a_head():
    tensors = inputs(4, 2, 9, 11)
    mask = torch.rand(2, 4, 9, 11, generator=torch.Generator().manual_seed(0)) < 0.7
    for extras in ({}, EXTRAS["all"]):
        same(
            results_of(attention, tensors, mask, **extras),
            results_of(attention_plain, tensors, mask, **extras),
        )


def test_slopes_take_off_the_distance_of_places():
    """Rows that stand elsewhere: by the definition, score by score."""
    q, k, v = inputs(2, 2, 2, 4)
    places = (torch.tensor([[2, 3], [7, 8]]), torch.tensor([[0, 1, 2, 3], [8, 5, 6, 7]]))
    mask = (places[1].unsqueeze(1) <= places[0].unsqueeze(2))[:, None]
    slopes = torch.tensor([0.5, 0.25]).double()
    scores = q @ k.transpose(-1, -2) / 2
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, (2, 2, 2, 4))).tolist():
        scores[b, h, i, j] -= slopes[h] * (places[0][b, i] - places[1][b, j])
    expected = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
    for function in (attention_plain, attention):
        found = function(q, k, v, mask, slopes=slopes, positions=places)
        torch.testing.assert_close(found, expected, **TOLERANCE)


def test_a_window_skips_the_work_before_it(monkeypatch):
    touched = []
    kernel = F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        touched.append((q.shape[-2], k.shape[-2]))
        return kernel(q, k, v, **options)

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", spy)
    attention(*inputs(1, 1, 640, 640), window=100)
    # 100 keys and those of the block's other queries
    assert touched == [(64, 64), (64, 128), *[(64, 163)] * 8]


@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize(("length", "keys"), [(64, 64), (150, 150), (130, 200)])
@pytest.mark.parametrize("width", [3, 7])
def test_values_may_be_narrower_or_wider_than_keys(width, length, keys, window):
    """As in latent attention; torch's kernel knows one width alone."""
    q, k, _ = inputs(4, 2, length, keys)
    v = torch.randn(2, 2, keys, width, generator=torch.Generator().manual_seed(2)).double()
    ours = results(attention, (q, k, v), window=window)
    assert ours[0].shape[-1] == width
    same(ours, results(attention_plain, (q, k, v), window=window))


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("width", [4, 3])
def test_what_is_kept_for_the_gradient_grows_with_the_length_alone(width, window):
    def kept(length: int) -> int:
        storages: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        q, k, _ = (x.requires_grad_() for x in inputs(2, 1, length, length))
        v = torch.randn(2, 1, length, width, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = attention(q, k, v, window=window)
        del output
        return sum(storages.values())

    assert kept(1024) < 2.1 * kept(512)


def test_gradients_of_blocks_do_not_wait_for_each_other(monkeypatch):
    """Each is added to the others and gone before the next is made, or they would fill the memory."""
    gradients: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    kernel = F.scaled_dot_product_attention

    def note(gradient: torch.Tensor) -> None:
        gradients.append(weakref.ref(gradient))
        alive.append(sum(ref() is not None for ref in gradients))

    def spy(q, k, v, **options):
        k.register_hook(note)
        return kernel(q, k, v, **options)

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", spy)
    tensors = [tensor.requires_grad_() for tensor in inputs(2, 2, 640, 640)]
    attention(*tensors).sum().backward()
    assert len(alive) == 10
    assert max(alive) <= 2


@pytest.mark.parametrize(("heads", "first"), [(1, 2**-8), (2, 2**-4), (8, 0.5), (3, 2**-4)])
def test_alibi_slopes(heads, first):
    slopes = alibi_slopes(heads)
    assert slopes.shape == (heads,)
    assert float(slopes[0]) == first
    if heads == 3:
        assert slopes.tolist() == [2**-4, 2**-8, 2**-2]


def test_scale():
    tensors = inputs(2, 1, 6, 6)
    plain = results(attention_plain, tensors, scale=0.7)
    same(results(attention, tensors, scale=0.7), plain)
    same(
        results(
            lambda q, k, v: F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=0.7, enable_gqa=True
            ),
            tensors,
        ),
        plain,
    )


def test_bfloat16_outside_and_inside_autocast():
    q, k, v = (tensor.bfloat16() for tensor in inputs(4, 2, 150, 150))
    exact = attention_plain(q.double(), k.double(), v.double())
    plain_result = attention(q, k, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast_result = attention(q, k, v)
    for result in (plain_result, autocast_result):
        assert result.dtype == torch.bfloat16
        # float32 inside, so one rounding to bfloat16 (2^-9) at the end
        torch.testing.assert_close(result.double(), exact, rtol=2**-8, atol=1e-6)
    capped = attention_plain(q.double(), k.double(), v.double(), softcap=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = attention(q, k, v, softcap=1.0)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), capped, rtol=2**-8, atol=1e-6)


def test_masks():
    positions = torch.tensor([[0, 1], [4, 5]])
    slots = torch.arange(6)[None]
    assert causal_mask(positions, slots).long().sum(-1).tolist() == [[1, 2], [5, 6]]
    documents = torch.tensor([[0, 0, 1]])
    assert document_mask(documents, documents)[0].long().tolist() == [
        [1, 1, 0], [1, 1, 0], [0, 0, 1],
    ]  # fmt: skip
