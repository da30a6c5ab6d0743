"""Lenses, attributions, interventions, probes and examples, against what they are by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.inference.engine import Engine
from glassbox.inference.sampling.params import SamplingParams
from glassbox.inspection import (
    TunedLens,
    ablate,
    ablation_effects,
    activation_patching,
    attention_patterns,
    copying_scores,
    direct_logit_attribution,
    expert_routing,
    head_scores,
    inspect,
    integrated_gradients,
    linear_probe,
    logit_lens,
    neuron_examples,
    probe_layers,
    receptive_field,
    residual_stream,
    steering_vector,
    tuned_lens,
)
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import Gelu, SwiGlu
from glassbox.layers.lightning import Lightning
from glassbox.layers.norms import LayerNorm, RmsNorm
from glassbox.layers.python_layer import PythonMixer
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

VOCAB, SIZE, LENGTH = 23, 12, 10
HEADS = GroupedQuery(num_heads=3, positions=Rotary())


def model_of(*mixers: Spec, seed: int = 2, std: float = 0.5, **around: object) -> CausalLM:
    ffn = around.pop("ffn", Gelu(size=16))
    block = {key: around.pop(key) for key in ("residual", "residual_scale") if key in around}
    repeats = tuple(Repeat(block=BlockSpec(mixer=mixer, ffn=ffn, **block)) for mixer in mixers)
    config = ModelConfig(
        vocab_size=VOCAB, hidden_size=SIZE, context_length=64, blocks=repeats, **around
    )
    model = CausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std, generator=generator)
    return model


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def next_token(ids: Tensor):
    return lambda logits: (
        logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1).sum(-1)
    )


def test_the_logit_lens_ends_with_the_models_logits(ids: Tensor) -> None:
    model = model_of(HEADS, Lightning(num_heads=3), logit_scale=0.7, logit_softcap=5.0)
    lens = logit_lens(model, ids)
    assert lens.shape == (3, 2, LENGTH, VOCAB)
    torch.testing.assert_close(lens[-1], model(ids))
    torch.testing.assert_close(logit_lens(model, ids, at=(0, -1)), lens[:, 0, -1])
    only_embedded = model.logits(model.finish(model.embedding.weight[ids]))
    torch.testing.assert_close(lens[0], only_embedded)


def test_a_tuned_lens_learns_what_later_layers_do(ids: Tensor) -> None:
    """Untrained it is the logit lens; trained, each layer's divergence is a fraction of that."""
    model = model_of(HEADS, HEADS, std=0.3)
    before = model.state_dict()
    torch.testing.assert_close(TunedLens(model)(model, ids), logit_lens(model, ids))
    batches = [
        torch.randint(VOCAB, (16, 12), generator=torch.Generator().manual_seed(n)) for n in range(8)
    ]
    lens, losses = tuned_lens(model, batches, learning_rate=1e-2, steps=150)
    stream = residual_stream(model, ids)
    first, last = TunedLens(model).loss(model, stream), lens.loss(model, stream)
    assert torch.all(last < 0.5 * first)
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(lens(model, ids)[-1], model(ids))
    # the loss is the divergence, written out
    final, lensed = (x[0, 3].log_softmax(-1) for x in (model(ids), lens(model, ids)[1]))
    whole = lens.loss(model, stream[:, :1, 3:4])[1]
    torch.testing.assert_close((final.exp() * (final - lensed)).sum(), whole)
    with pytest.raises(UserError, match="batches is empty"):
        tuned_lens(model, [])


@pytest.mark.parametrize("by", ["layer", "head"])
@pytest.mark.parametrize(
    "around",
    [
        {"final_norm": RmsNorm(offset=True), "logit_scale": 0.3},
        {"final_norm": LayerNorm(), "residual": "parallel", "residual_scale": 0.6},
        {"tie_embeddings": False, "head_bias": True},
    ],
)
def test_attributions_sum_to_the_logit(by: str, around: dict, ids: Tensor) -> None:
    model = model_of(HEADS, Lightning(num_heads=3), **around)
    targets = ids.roll(-1, 1)
    found = direct_logit_attribution(model, ids, targets, by=by)
    logits = model(ids).gather(-1, targets[..., None]).squeeze(-1)
    torch.testing.assert_close(found.total, logits)
    torch.testing.assert_close(found.values.sum(0), logits)
    if "head_bias" in around:
        torch.testing.assert_close(found.values[-1], model.head.bias[targets])


@pytest.mark.parametrize("residual", ["post", "sandwich"])
def test_attribution_by_layer_where_branches_are_normed(residual: str, ids: Tensor) -> None:
    model = model_of(HEADS, residual=residual)
    found = direct_logit_attribution(model, ids, ids)
    torch.testing.assert_close(
        found.values.sum(0), model(ids).gather(-1, ids[..., None]).squeeze(-1)
    )
    with pytest.raises(UserError, match="by = layer"):
        direct_logit_attribution(model, ids, ids, by="head")


def test_attribution_refuses_what_is_no_sum(ids: Tensor) -> None:
    with pytest.raises(UserError, match="without a cap"):
        direct_logit_attribution(model_of(HEADS, logit_softcap=3.0), ids, ids)


def test_integrated_gradients_are_complete(ids: Tensor) -> None:
    model, metric = model_of(HEADS, Lightning(num_heads=3)), next_token(ids)
    mean = model.embedding.weight.detach().mean(0).expand(2, LENGTH, SIZE)
    with inspect(model, patch={"embedding": mean}):
        there = metric(model(ids))
    few, many = (integrated_gradients(model, ids, metric, steps=n) for n in (4, 96))
    moved = metric(model(ids)) - there
    torch.testing.assert_close(many.sum(-1), moved, rtol=1e-3, atol=1e-3)
    assert (few.sum(-1) - moved).abs().max() > (many.sum(-1) - moved).abs().max()
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_ablating_a_head_is_zeroing_its_columns(ids: Tensor) -> None:
    model = model_of(HEADS, HEADS)
    with ablate(model, [(1, 2), "blocks.0.ffn"]):
        found = model(ids)
    with torch.no_grad():
        model.blocks[1].mixer.output.weight[:, 8:] = 0
        model.blocks[0].ffn.down.weight.zero_()
        model.blocks[0].ffn.down.bias.zero_()
    torch.testing.assert_close(found, model(ids))


def test_ablating_by_the_mean(ids: Tensor) -> None:
    model = model_of(HEADS)
    with inspect(model, "*") as run:
        model(ids)
    heads = run["blocks.0.mixer.heads"]
    with ablate(model, [(0, 1)], by="mean", reference=ids) as ablated:
        ablated._recorded["blocks.0.mixer.output"] = None
        ablated._attach()
        model(ids)
    heads = heads.clone()
    heads[:, :, 1] = heads[:, :, 1].mean((0, 1))
    expected = model.blocks[0].mixer.output(heads.flatten(2))
    torch.testing.assert_close(ablated["blocks.0.mixer.output"], expected)


@pytest.mark.parametrize("what", ["heads", "mixers", "ffns", "blocks"])
def test_effects_of_every_ablation(what: str, ids: Tensor) -> None:
    model, metric = model_of(HEADS, PythonMixer(path="support.mixers.python:RunningMean")), None
    metric = next_token(ids)
    effects = ablation_effects(model, ids, metric, what=what)
    assert effects.shape == (2, 3 if what == "heads" else 1)
    part = (
        (0, 0)
        if what == "heads"
        else "blocks.0" + {"mixers": ".mixer", "ffns": ".ffn"}.get(what, "")
    )
    with ablate(model, [part]):
        expected = (metric(model(ids)) - 0).mean()
    torch.testing.assert_close(
        effects[0, 0].double(), expected - metric(model(ids)).mean(), rtol=1e-4, atol=1e-5
    )
    assert torch.isnan(effects[1, 0]) == (what == "heads")  # a user's own mixer shows no heads
    with pytest.raises(UserError, match=r"part \(1, 0\)"):
        ablate(model, [(1, 0)])
    with pytest.raises(UserError, match="reference"):
        ablate(model, ["blocks.0"], by="mean")


def test_patching_everything_is_the_clean_run(ids: Tensor) -> None:
    """The last token's last stream decides its logits, and the first layer's all of them."""
    model = model_of(HEADS, HEADS)
    corrupted = ids.clone()
    corrupted[:, 3] = (corrupted[:, 3] + 1) % VOCAB
    metric = next_token(ids)
    effects = activation_patching(model, ids, corrupted, metric, at="residual_pre")
    assert effects.shape == (2, LENGTH)
    torch.testing.assert_close(effects[0, 3], metric(model(ids)).mean())
    same = metric(model(corrupted)).mean()
    torch.testing.assert_close(effects[0, [0, 1, 2, 5]], same.expand(4))
    torch.testing.assert_close(effects[1, :3], same.expand(3))
    with pytest.raises(UserError, match="one length"):
        activation_patching(model, ids, ids[:, 1:], metric)


def induction_model() -> CausalLM:
    """Two layers by hand: the first copies the token before, the second looks for who followed it."""
    width = 2 * VOCAB
    mixer = GroupedQuery(num_heads=1, head_dim=width + 64)
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=width + 64,
        context_length=64,
        learned_positions=True,
        tie_embeddings=False,
        final_norm=RmsNorm(),
        blocks=(Repeat(block=BlockSpec(mixer=mixer, ffn=None, norm=RmsNorm()), times=2),),
    )
    model = CausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if hasattr(module, "gain"):
                module.weight.fill_(1.0)
        token, before, place = slice(0, VOCAB), slice(VOCAB, width), slice(width, width + 64)
        model.embedding.weight[:, token] = torch.eye(VOCAB)
        model.position_embedding.weight[:, place] = torch.eye(64)
        model.head.weight[:, token] = torch.eye(VOCAB)
        size, sharp = width + 64, 40.0
        first, second = (block.mixer for block in model.blocks)
        shift = torch.zeros(64, 64)
        shift[torch.arange(1, 64), torch.arange(63)] = 1.0
        first.qkv.weight[:size][place, place] = sharp * shift.T
        first.qkv.weight[size : 2 * size][place, place] = torch.eye(64)
        first.qkv.weight[2 * size :][before, token] = torch.eye(VOCAB)
        first.output.weight[before, before] = torch.eye(VOCAB)
        second.qkv.weight[:size][token, token] = sharp * torch.eye(VOCAB)
        second.qkv.weight[size : 2 * size][token, before] = torch.eye(VOCAB)
        second.qkv.weight[2 * size :][token, token] = torch.eye(VOCAB)
        second.output.weight[token, token] = torch.eye(VOCAB)
    return model


def test_scores_of_a_model_that_was_built_to_be_an_induction_circuit() -> None:
    """Random tokens of a small vocabulary come more than twice, so induction is divided among them."""
    model = induction_model()
    scores = head_scores(model, length=8, batch=64)
    assert scores.previous[0, 0] > 0.95
    assert scores.induction[0, 0] < 0.05
    assert scores.induction[1, 0] > 0.5
    assert scores.previous[1, 0] < 0.3
    # the second head copies every token, the first moves it to where no logit reads it
    copying = copying_scores(model)
    assert copying[1, 0] > 0.99
    with pytest.raises(UserError, match="at most 32"):
        head_scores(model, length=40)


def test_copying_scores_are_those_of_the_whole_matrix() -> None:
    model = model_of(GroupedQuery(num_heads=4, num_kv_heads=2, head_dim=3), tie_embeddings=False)
    scores = copying_scores(model)
    mixer, block = model.blocks[0].mixer, model.blocks[0]
    for head in range(4):
        value = mixer.qkv.weight[18:].unflatten(0, (2, 3))[head // 2] * block.mixer_norm.weight
        output = mixer.output.weight.unflatten(1, (4, 3))[:, head]
        whole = (model.head.weight * model.final_norm.weight) @ output @ value
        eigenvalues = torch.linalg.eigvals(whole @ model.embedding.weight.T)
        expected = eigenvalues.real.sum() / eigenvalues.abs().sum()
        torch.testing.assert_close(scores[0, head], expected, rtol=1e-5, atol=1e-6)


def test_the_reach_of_a_fixed_decay(ids: Tensor) -> None:
    """Lightning with queries and keys of one: weights are exp(-r d), whatever the text."""
    model = model_of(Lightning(num_heads=3))
    ones = {f"*.mixer.{part}": torch.ones_like for part in ("query", "key")}
    with inspect(model, edit=ones):
        field = receptive_field(model, ids, 0, share=0.5)
    assert field.by_distance.shape == (3, LENGTH)
    for head in range(3):
        decay = math.exp(-(2.0 ** (-8 * (head + 1) / 3)))
        expected = np.array([decay**d for d in range(LENGTH)])
        expected /= expected.sum()
        np.testing.assert_allclose(field.by_distance[head], expected, rtol=1e-6)
        assert abs(field.mean_distance[head] - expected @ np.arange(LENGTH)) < 1e-6
        assert field.reach[head] == int((expected.cumsum() < 0.5).sum())
    with pytest.raises(UserError, match="share"):
        receptive_field(model, ids, 0, share=0)
    with pytest.raises(UserError, match="attention patterns"):
        attention_patterns(model_of(PythonMixer(path="support.mixers.python:RunningMean")), ids)


def test_probes_are_the_optimum_of_logistic_regression() -> None:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(300, 6, generator=generator, dtype=torch.float64) * 3 + 1
    labels = (features @ torch.randn(6, 4, generator=generator, dtype=torch.float64)).argmax(-1)
    probe = linear_probe(features, labels, l2=1.0)
    scaled = ((features - features.mean(0)) / features.std(0, unbiased=False)).numpy()
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(scaled, labels.numpy())
    np.testing.assert_allclose(probe.weight, theirs.coef_, atol=2e-4)
    share = probe.logits(features).softmax(-1)
    np.testing.assert_allclose(share, theirs.predict_proba(scaled), atol=1e-4)
    assert probe.accuracy(features, labels) == theirs.score(scaled, labels.numpy())
    with pytest.raises(UserError, match="one label a row"):
        linear_probe(features, labels[1:])


def test_probes_of_layers_find_where_a_fact_appears(ids: Tensor) -> None:
    """The token before the last is nowhere in the last one's embedding, and behind attention it is."""
    model = induction_model()  # whose first layer copies the token before
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(VOCAB, (400, 5), generator=generator)
    labels = (texts[:, -2] >= VOCAB // 2).long()
    stream = residual_stream(model, texts, at=(slice(None), -1))
    accuracies = probe_layers(stream[:, :300], labels[:300], stream[:, 300:], labels[300:])
    assert len(accuracies) == 3
    assert accuracies[0] < 0.65
    assert accuracies[1:] == [1.0, 1.0]


def test_steering_vectors_change_what_is_generated(ids: Tensor) -> None:
    model, at = model_of(HEADS, HEADS), "blocks.0.residual_post"
    positive, negative = [[1, 2, 3], [4, 5]], [[6, 7, 8, 9]]
    vector = steering_vector(model, positive, negative, at=at)
    streams = [residual_stream(model, torch.tensor([text]))[1, 0, -1] for text in positive]
    other = residual_stream(model, torch.tensor(negative))[1, 0, -1]
    torch.testing.assert_close(vector, torch.stack(streams).mean(0) - other)
    engine, prompt = Engine(model, keep_prefixes=True), ids[0].tolist()
    params = SamplingParams(max_tokens=5, temperature=0)
    plain = engine.generate([prompt], params)[0].token_ids
    with inspect(engine, steer={at: 5 * vector}):
        steered = engine.generate([prompt], params)[0].token_ids
        whole = model(torch.tensor([prompt + steered]))[0, -6:-1].argmax(-1)
    assert steered == whole.tolist() != plain
    assert engine.generate([prompt], params)[0].token_ids == plain
    with pytest.raises(UserError, match="positive is empty"):
        steering_vector(model, [], negative, at=at)


def test_examples_of_a_neuron_are_the_largest_of_all(ids: Tensor) -> None:
    model = model_of(HEADS, HEADS)
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(VOCAB, (n,), generator=generator) for n in (3, 9, 5, 7, 8, 4)]
    found = neuron_examples(model, texts, layer=1, neuron=4, top=3)
    with inspect(model, "blocks.1.ffn.hidden") as run:
        for text in texts:
            model(text[None])
    values = [value[0, :, 4] for value in run.all("blocks.1.ffn.hidden")]
    best = sorted(range(6), key=lambda n: -values[n].max())[:3]
    assert [example.text for example in found] == best
    for example in found:
        assert example.activation == float(values[example.text][example.position])
    with pytest.raises(UserError, match="neuron = 99"):
        neuron_examples(model, texts, layer=1, neuron=99)


def test_routing_maps(ids: Tensor) -> None:
    experts = MixtureOfExperts(num_experts=4, top_k=2, expert=SwiGlu(size=5))
    model = model_of(HEADS, HEADS, ffn=experts)
    found = expert_routing(model, ids)
    assert sorted(found) == [0, 1]
    with inspect(model, "*.ffn.router") as run:
        model(ids)
    top = run["blocks.1.ffn.router"].topk(2, -1)
    assert torch.equal(found[1].experts, top.indices)
    torch.testing.assert_close(found[1].gates, top.values.softmax(-1))
    expected = [(top.indices == n).sum() / (2 * ids.numel()) for n in range(4)]
    torch.testing.assert_close(found[1].load, torch.stack(expected))
    with pytest.raises(UserError, match="no mixture"):
        expert_routing(model_of(HEADS), ids)
