"""Latent attention: its two forms, its cache, and the indexer that makes it sparse."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from glassbox.layers.attention import Rotary
from glassbox.layers.context import Auxiliary, Context
from glassbox.layers.indexer import Indexer
from glassbox.layers.initialization import Draw, Initializes
from glassbox.layers.latent import INDEXER_LOSS, Latent, LatentAttention
from glassbox.ops import latent as latent_ops
from glassbox.ops.indexer import choose, chosen_mask, highest, index_scores, indexer_divergence
from glassbox.ops.latent import (
    absorb,
    latent_attention_absorbed,
    latent_attention_expanded,
)

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64: the same sums in another order
SIZE = 10
SMALL = {"num_heads": 3, "kv_rank": 8, "nope_dim": 4, "rope_dim": 2, "value_dim": 5}


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def inputs(batch=2, length=7, keys=7):
    """q (B, T, H, N + P), entries (B, S, L + P), up (H, N + Dv, L): N 4, P 2, L 8, Dv 5."""
    return random(batch, length, 3, 6), random(batch, keys, 10), random(3, 9, 8)


def layer(spec: Latent, seed: int = 0) -> LatentAttention:
    module = LatentAttention(spec, SIZE).double()
    draw = Draw(0.5, 0.5, 0.5, torch.Generator().manual_seed(seed))
    for part in module.modules():
        if isinstance(part, Initializes):
            part.initialize(draw)
    return module


def sparse(top_k=4, **changes) -> Latent:
    indexer = Indexer(num_heads=4, head_dim=6, top_k=top_k)
    return Latent(**{**SMALL, "q_rank": 6, "indexer": indexer, **changes})


def by_hand(q, entries, up, sees, scale):
    """The sums of section 2.1 as loops over rows, heads, queries and keys."""
    (batch, length, heads, _), rank = q.shape[:4], up.shape[2]
    result = torch.zeros(batch, length, heads, 5, dtype=q.dtype)
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                weights, values = [], []
                for s in range(entries.shape[1]):
                    if not sees(b, t, s):
                        continue
                    latent, shared = entries[b, s, :rank], entries[b, s, rank:]
                    key = torch.cat((up[h, :4] @ latent, shared))
                    weights.append(torch.exp(scale * (q[b, t, h] @ key)))
                    values.append(up[h, 4:] @ latent)
                total = sum(weights)
                result[b, t, h] = sum(w / total * v for w, v in zip(weights, values, strict=True))
    return result


@pytest.mark.parametrize("form", [latent_attention_expanded, latent_attention_absorbed])
def test_both_forms_are_the_papers_sums(form):
    q, entries, up = inputs()
    expected = by_hand(q, entries, up, lambda b, t, s: s <= t, 0.3)
    torch.testing.assert_close(form(q, entries, up, scale=0.3), expected, **EXACT)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "keys"), [(7, 7), (1, 9), (3, 9)])
def test_absorbed_equals_expanded_with_gradients(length, keys, masked, monkeypatch):
    monkeypatch.setattr(latent_ops, "BLOCK_NUMBERS", 80)  # several blocks of queries
    q, entries, up = (x.requires_grad_() for x in inputs(2, length, keys))
    mask = None
    if masked:
        mask = random(2, 1, length, keys) > 0
        mask[..., 0] = True
    outputs = [
        form(q, entries, up, mask, scale=0.4)
        for form in (latent_attention_expanded, latent_attention_absorbed)
    ]
    torch.testing.assert_close(outputs[0], outputs[1], **EXACT)
    weights = random(*outputs[0].shape)
    first, second = (
        torch.autograd.grad((output * weights).sum(), (q, entries, up)) for output in outputs
    )
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_the_cheaper_form_is_taken(monkeypatch):
    """At DeepSeek-V3's sizes a single token is absorbed and a prompt expanded."""
    taken = []
    for name in ("latent_attention_absorbed", "latent_attention_expanded"):
        monkeypatch.setattr(latent_ops, name, lambda *_, name=name, **__: taken.append(name[17:]))
    for length, keys in ((1, 4096), (4096, 4096), (64, 4096), (512, 4096)):
        q = torch.empty(1, length, 1, 192)
        latent_ops.latent_attention(
            q, torch.empty(1, keys, 576), torch.empty(1, 256, 512), scale=1.0
        )
    assert taken == ["absorbed", "expanded", "absorbed", "expanded"]


@torch.no_grad()
def test_the_cache_holds_a_latent_and_a_rotated_key_a_token():
    """The same bits whether a token came in the prompt or alone, and turned to its own position."""
    spec = Latent(**SMALL)
    module, hidden = layer(spec), random(2, 6, SIZE)
    states = []
    for chunks in ((6,), (1,) * 6, (4, 2)):
        state = module.init_state(2, 9, device=torch.device("cpu"), dtype=torch.float64)
        done = 0
        for chunk in chunks:
            context = Context(torch.arange(done, done + chunk)[None], key_length=done + chunk)
            module(hidden[:, done : done + chunk], context, state)
            done += chunk
        states.append(state)
    assert states[0].cache_bytes == (8 + 2) * 2 * 9 * 8  # (kv_rank + rope_dim) tokens float64
    for other in states[1:]:
        torch.testing.assert_close(other.entries, states[0].entries, **EXACT)
    raw = module.kv_down(hidden)
    angle = torch.arange(6)  # two channels: one pair, of frequency 1
    a, b = raw[..., 8], raw[..., 9]
    turned = torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)
    # float32 tables of the angles
    torch.testing.assert_close(states[0].entries[:, :6, 8:], turned, rtol=1e-6, atol=1e-6)
    latents = raw[..., :8] * torch.rsqrt(raw[..., :8].pow(2).mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(states[0].entries[:, :6, :8], latents, **EXACT)


@torch.no_grad()
def test_the_indexers_cache_is_counted():
    state = layer(sparse()).init_state(2, 9, device=torch.device("cpu"), dtype=torch.float64)
    assert state.cache_bytes == (8 + 2 + 6) * 2 * 9 * 8


def test_index_scores_are_equation_1():
    q, weights, keys = random(2, 5, 3, 4), random(2, 5, 3), random(2, 6, 4)
    expected = torch.zeros(2, 5, 6, dtype=torch.float64)
    for b in range(2):
        for t in range(5):
            for s in range(6):
                for j in range(3):
                    expected[b, t, s] += weights[b, t, j] * max(0.0, float(q[b, t, j] @ keys[b, s]))
    torch.testing.assert_close(index_scores(q, weights, keys), expected, **EXACT)
    own = keys.unsqueeze(1).expand(2, 5, 6, 4)
    torch.testing.assert_close(index_scores(q, weights, own), expected, **EXACT)


def test_highest_takes_exactly_k_and_the_earlier_of_equals():
    scores = torch.tensor([[[0.0, 2.0, 0.0, -1.0, 0.0, 3.0]]])
    for top_k, expected in ((1, [5]), (2, [1, 5]), (3, [0, 1, 5]), (4, [0, 1, 2, 5])):
        assert highest(scores, top_k)[0, 0].nonzero().flatten().tolist() == expected
    many = torch.randint(-2, 3, (3, 50, 20), generator=torch.Generator().manual_seed(0)).float()
    assert (highest(many, 6).sum(-1) == 6).all()


@pytest.mark.parametrize("documents", [False, True])
def test_chosen_are_the_best_of_the_past(documents, monkeypatch):
    monkeypatch.setattr(latent_ops, "BLOCK_NUMBERS", 150)
    q, weights, keys = random(2, 9, 3, 4), random(2, 9, 3), random(2, 9, 4)
    mask = None
    begin = torch.zeros(9, dtype=torch.long)
    if documents:
        begin = torch.tensor([0, 0, 0, 0, 4, 4, 4, 4, 4])
        order = torch.arange(9)
        mask = ((order <= order[:, None]) & (order >= begin[:, None]))[None, None]
    found = chosen_mask(choose(q, weights, keys, mask, 3), 9)
    scores = index_scores(q, weights, keys)
    for b in range(2):
        for t in range(9):
            past = range(int(begin[t]), t + 1)
            best = sorted(past, key=lambda s, b=b, t=t: (-float(scores[b, t, s]), s))[:3]
            assert found[b, 0, t].nonzero().flatten().tolist() == sorted(best)


def test_sparse_attention_is_equation_2():
    """Attention over the chosen alone, gathered or masked."""
    q, entries, up = inputs()
    chosen = choose(random(2, 7, 3, 4), random(2, 7, 3), random(2, 7, 4), None, 3)
    mask = chosen_mask(chosen, 7)
    expected = by_hand(q, entries, up, lambda b, t, s: bool(mask[b, 0, t, s]), 0.3)
    for found in (
        latent_attention_absorbed(q, entries, up, scale=0.3, chosen=chosen),
        latent_attention_absorbed(q, entries, up, mask, scale=0.3),
        latent_attention_expanded(q, entries, up, mask, scale=0.3),
    ):
        torch.testing.assert_close(found, expected, **EXACT)


def test_gathered_gradients_are_the_masked_ones(monkeypatch):
    monkeypatch.setattr(latent_ops, "BLOCK_NUMBERS", 200)
    q, entries, up = (x.requires_grad_() for x in inputs())
    chosen = choose(random(2, 7, 3, 4), random(2, 7, 3), random(2, 7, 4), None, 3)
    outputs = (
        latent_attention_absorbed(q, entries, up, scale=0.3, chosen=chosen),
        latent_attention_expanded(q, entries, up, chosen_mask(chosen, 7), scale=0.3),
    )
    weights = random(*outputs[0].shape)
    first, second = (torch.autograd.grad((o * weights).sum(), (q, entries, up)) for o in outputs)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("top_k", [3, None])
def test_divergence_is_equations_3_and_4(top_k, monkeypatch):
    """Dense warm-up (all that is seen) and sparse training (the chosen), as loops."""
    monkeypatch.setattr(latent_ops, "BLOCK_NUMBERS", 100)
    q, weights, keys = random(2, 7, 3, 4), random(2, 7, 3), random(2, 7, 4)
    main, entries, up = inputs()
    queries = absorb(main, entries, up)
    chosen = None if top_k is None else choose(q, weights, keys, None, top_k)
    found = indexer_divergence(q, weights, keys, queries, entries, scale=0.3, chosen=chosen)
    sees = torch.ones(2, 7, 7, dtype=torch.bool).tril()
    if chosen is not None:
        sees = chosen_mask(chosen, 7)[:, 0]
    index = index_scores(q, weights, keys)
    for b in range(2):
        for t in range(7):
            places = sees[b, t].nonzero().flatten()
            scores = 0.3 * torch.stack([queries[b, t, h] @ entries[b, places].T for h in range(3)])
            summed = torch.softmax(scores, -1).sum(0)
            p = summed / summed.sum()
            guess = torch.softmax(index[b, t, places], -1)
            expected = (p * (p / guess).log()).sum()
            torch.testing.assert_close(found[b, t], expected, **EXACT)


def losses(module, hidden, **context):
    context = Context(torch.arange(hidden.shape[1])[None], auxiliary=Auxiliary(), **context)
    output = module(hidden, context)
    (loss,) = context.auxiliary.losses[INDEXER_LOSS]
    return output, loss


@pytest.mark.parametrize("top_k", [4, 50])
def test_the_indexer_learns_from_its_loss_alone_and_nothing_else_does(top_k):
    module, hidden = layer(sparse(top_k)), random(2, 9, SIZE).requires_grad_()
    output, loss = losses(module, hidden)
    named = dict(module.named_parameters())
    of_output = torch.autograd.grad(
        output.pow(2).sum(), list(named.values()), allow_unused=True, retain_graph=True
    )
    of_loss = torch.autograd.grad(
        loss, [hidden, *named.values()], allow_unused=True, materialize_grads=False
    )
    assert of_loss[0] is None
    for name, from_output, from_loss in zip(named, of_output, of_loss[1:], strict=True):
        if name.startswith("indexer."):
            assert from_output is None, name
            assert from_loss is not None, name
            assert float(from_loss.abs().max()) > 0, name
        else:
            assert from_loss is None, name
            assert float(from_output.abs().max()) > 0, name


def test_the_loss_is_the_derivatives_and_counts_real_tokens_alone():
    module, hidden = layer(sparse()), random(2, 9, SIZE)
    parameters = {n: p for n, p in module.named_parameters() if n.startswith("indexer.")}

    def loss(*values):
        named = dict(zip(parameters, values, strict=True))
        context = Context(torch.arange(9)[None], auxiliary=Auxiliary())
        torch.func.functional_call(module, named, (hidden, context))
        return context.auxiliary.total_loss()

    values = [p.detach().clone().requires_grad_() for p in parameters.values()]
    assert torch.autograd.gradcheck(loss, values)
    lengths = torch.tensor([9, 4])
    _, padded = losses(module, hidden, lengths=lengths)
    _, first = losses(module, hidden[:1])
    _, second = losses(module, hidden[1:, :4])
    torch.testing.assert_close(padded, (9 * first + 4 * second) / 13, **EXACT)


def test_nobody_asked_no_loss_is_computed(monkeypatch):
    module = layer(sparse())
    monkeypatch.setattr("glassbox.layers.latent.indexer_divergence", lambda *_: 1 / 0)
    module(random(1, 9, SIZE), Context(torch.arange(9)[None]))


def test_a_learned_indexer_finds_what_attention_looks_at():
    """Warm-up: a hundred steps on the divergence halve it."""
    module, hidden = layer(sparse(top_k=50)), random(4, 24, SIZE)
    taught = [p for n, p in module.named_parameters() if n.startswith("indexer.")]
    optimizer = torch.optim.Adam(taught, lr=0.02)
    history = []
    for _ in range(100):
        _, loss = losses(module, hidden)
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.5 * history[0]


@torch.no_grad()
def test_dense_while_the_past_is_no_longer_than_top_k():
    """Equal bits to the same layer without an indexer, and other ones from the next token on."""
    module = layer(sparse(top_k=6))
    dense = LatentAttention(sparse().model_copy(update={"indexer": None}), SIZE).double()
    dense.load_state_dict(
        {n: p for n, p in module.state_dict().items() if not n.startswith("indexer.")}
    )
    hidden = random(1, 8, SIZE)
    outputs = [m(hidden, Context(torch.arange(8)[None])) for m in (module, dense)]
    torch.testing.assert_close(outputs[0][:, :6], outputs[1][:, :6], **EXACT)
    assert not torch.allclose(outputs[0][:, 6:], outputs[1][:, 6:])
    outputs = [m(hidden[:, :6], Context(torch.arange(6)[None])) for m in (module, dense)]
    assert torch.equal(*outputs)


@torch.no_grad()
def test_bfloat16_stays_near_float32():
    module, hidden = layer(sparse()).float(), random(2, 9, SIZE).float()
    context = Context(torch.arange(9)[None])
    expected = module(hidden, context)
    found = module.bfloat16()(hidden.bfloat16(), context)
    assert found.dtype == torch.bfloat16
    # 8 bits of mantissa; a token near the threshold may be exchanged, so the mean is compared
    assert (
        float((found.float() - expected).abs().mean()) < 0.05 * float(expected.abs().mean()) + 0.05
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_dim": 3}, "rope_dim = 3 is odd"),
        ({"positions": Rotary(fraction=0.5)}, "positions.fraction = 0.5"),
        ({"indexer": Indexer(num_heads=1, head_dim=1, top_k=1)}, "head_dim = 1 is less"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Latent(**{**SMALL, **changes})
