"""Packed weights: the same products, never of numbers that were, and only where they are wanted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from glassbox.adapters.attach import attach
from glassbox.adapters.specs import Lora
from glassbox.inference import prepacking as packing
from glassbox.inference.engine import Engine
from glassbox.inference.prepacking import Prepacking
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.linear import Linear
from glassbox.layers.prepacked import MIN_ROWS, Pack, can_pack
from glassbox.layers.quantized import Nf4Linear
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

VOCAB, SIZE = 300, 256
TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}  # float32 sums of 256 products of about 1, another order
CAN = can_pack(torch.zeros(2, 2))


@pytest.fixture(autouse=True)
def _small_matrices_too(monkeypatch):
    monkeypatch.setattr(packing, "_MIN_NUMBERS", SIZE * SIZE)


def small_model(*, tied: bool = True, bias: bool = False, ffn=None) -> CausalLM:
    """Wide enough for most of its matrices to be packed; sharp, so that no choice is a near-tie."""
    mixer = GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary(), qkv_bias=bias)
    block = BlockSpec(mixer=mixer, ffn=ffn or SwiGlu(size=128))
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=SIZE,
        context_length=64,
        blocks=(Repeat(block=block, times=2),),
        tie_embeddings=tied,
    )
    model = CausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return model


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randint(VOCAB, (5 + i,), generator=generator).tolist() for i in range(count)]


def answers(engine: Engine, count: int = 5, **options) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=12)
    return [c.token_ids for c in engine.generate(prompts(count), params, **options)]


@pytest.mark.parametrize(("outputs", "inputs"), [(7, 5), (64, 64), (300, 256), (100, 33)])
@pytest.mark.parametrize("by_columns", [False, True])
@torch.no_grad()
def test_a_packed_product_is_the_plain_one(outputs, inputs, by_columns):
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    if by_columns:
        weight = weight.t().contiguous().t()
    bias = torch.randn(outputs, generator=generator)
    pack = Pack()
    for shape in ((1,), (2,), (3,), (1, 4), (2, 3), (40,), (5, 1, 7)):
        x = torch.randn(*shape, inputs, generator=generator)
        for added in (None, bias):
            found = pack.linear(x, weight, added)
            torch.testing.assert_close(found, F.linear(x, weight, added), **TOLERANCE)
    x = torch.randn(6, 4, inputs, generator=generator).transpose(0, 1)
    torch.testing.assert_close(pack.linear(x, weight), F.linear(x, weight), **TOLERANCE)
    assert (pack.num_bytes >= weight.numel() * 4) == CAN


@torch.no_grad()
def test_a_pack_follows_its_matrix_however_that_changes():
    layer = Linear(64, 48)
    x = torch.ones(MIN_ROWS, 64)
    pack = Pack()

    def check() -> None:
        with torch.inference_mode():
            found = pack.linear(x, layer.weight)
            torch.testing.assert_close(found, F.linear(x, layer.weight), **TOLERANCE)

    check()
    with torch.no_grad():
        layer.weight.add_(1)  # as an optimizer
    check()
    layer.load_state_dict({"weight": torch.full((48, 64), 2.0)})
    check()
    layer.weight.data = torch.full((48, 64), 3.0)  # no write that torch counts, another place
    check()
    with torch.no_grad():
        layer.weight.mul_(2)
    check()
    writes = layer.weight._version
    layer.weight = torch.nn.Parameter(layer.weight.data)  # the same place, counted from 0
    with torch.no_grad():
        while layer.weight._version < writes:
            layer.weight.add_(1)
    check()
    layer.load_state_dict({"weight": torch.zeros(48, 64)}, assign=True)
    check()
    assert (pack.num_bytes > 0) == CAN
    layer.double()
    assert torch.equal(pack.linear(x.double(), layer.weight), F.linear(x.double(), layer.weight))
    layer.weight = torch.nn.Parameter(torch.ones(48, 64, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert pack.linear(x, layer.weight).dtype == torch.bfloat16
    assert pack.num_bytes == 0


def test_where_derivatives_are_wanted_the_product_has_them():
    weight, x = torch.randn(6, 8, requires_grad=True), torch.randn(MIN_ROWS, 8)
    pack = Pack()
    pack.linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(dim=0).expand(6, 8))
    assert pack.num_bytes == 0


@torch.no_grad()
def test_without_onednn_the_product_is_the_plain_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    weight, x = torch.randn(48, 64), torch.randn(9, 64)
    pack = Pack()
    assert torch.equal(pack.linear(x, weight), F.linear(x, weight))
    assert pack.num_bytes == 0
    engine = Engine(small_model(), prepacked=True)
    answers(engine)
    assert engine.stats().prepacked_bytes == 0


def test_what_is_packed(monkeypatch):
    if not CAN:
        monkeypatch.setattr(packing, "can_pack", lambda weight: weight.dtype == torch.float32)
    experts = MixtureOfExperts(num_experts=4, top_k=2, expert=SwiGlu(size=256))
    model = small_model(ffn=experts)
    attach(model, Lora(rank=4, targets=("q_proj",)))
    mixer = model.blocks[0].mixer
    model.blocks[1].mixer.output = Nf4Linear.from_linear(model.blocks[1].mixer.output)
    owners = Prepacking(model, True)._choose()
    assert {id(owner) for owner in owners} == {
        id(one) for one in (mixer.qkv.base, mixer.output, model.blocks[1].mixer.qkv.base, model)
    }
    untied = small_model(tied=False)
    assert untied in Prepacking(untied, True)._choose()
    assert untied.head not in Prepacking(untied, True)._choose()
    assert Prepacking(small_model().double(), True)._choose() == []
    memory = 4 * sum(owner.weight.numel() for owner in owners if owner is not model)
    memory += 4 * model.output_weight.numel()
    monkeypatch.setattr(packing, "available_memory", lambda: 2 * memory)
    assert Prepacking(model, None)._choose() == owners
    monkeypatch.setattr(packing, "available_memory", lambda: 2 * memory - 2)
    assert Prepacking(model, None)._choose() == []
    assert Prepacking(model, True)._choose() == owners


def test_packs_are_lent_for_a_step_alone(monkeypatch):
    model = small_model()
    lending = Prepacking(model, True)
    layers = [module for module in model.modules() if isinstance(module, Linear)]

    def is_lent(layer: Linear) -> bool:
        return "forward" in vars(layer)

    lent = []

    def step() -> None:
        with lending.lent(5):
            lent.extend(layer for layer in layers if is_lent(layer))
            raise KeyError

    with pytest.raises(KeyError):
        step()
    assert (len(lent) > 0) == CAN
    assert not any(is_lent(layer) for layer in layers)
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with lending.lent(1):
            assert any(is_lent(layer) for layer in layers) == (CAN and threads > 1)
    with Prepacking(model, False).lent(5):
        assert not any(is_lent(layer) for layer in layers)


@pytest.mark.parametrize("tied", [True, False])
def test_answers_are_the_same_with_packed_weights(tied):
    model = small_model(tied=tied, bias=True)
    plain, packed = Engine(model, prepacked=False), Engine(model, prepacked=True)
    assert answers(packed) == answers(plain)
    held = packed.stats().prepacked_bytes
    assert (held > 0) == CAN
    assert plain.stats().prepacked_bytes == 0
    assert [answers(packed, 1), answers(packed, 2)] == [answers(plain, 1), answers(plain, 2)]
    before = answers(plain)
    loss = model(torch.tensor(prompts(1))).logsumexp(-1).sum()  # training goes on in between
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad.sign(), alpha=0.05)
    assert answers(packed) == answers(plain) != before
    assert packed.stats().prepacked_bytes == held


def test_adapters_and_their_merging():
    model = small_model()
    engine, plain = Engine(model, prepacked=True), Engine(model, prepacked=False)
    bare = answers(engine)
    adapters = attach(model, Lora(rank=4), name="own")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "updates" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    mixed = ["own", None, "own", None, None]
    adapters.selection.active = None
    found = answers(engine, adapter=mixed)
    assert found == answers(plain, adapter=mixed)
    assert found[1] == bare[1]
    assert found[0] != bare[0]
    adapters.selection.active = "own"
    adapters.merge("own")
    merged = answers(engine)
    assert merged == answers(plain)
    assert merged[0] == found[0]
    adapters.unmerge()
    adapters.selection.active = None
    assert answers(engine) == bare


def test_by_default_weights_are_packed_once_that_pays(monkeypatch):
    monkeypatch.setattr(packing, "available_memory", lambda: 1 << 30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    model = small_model()
    for keep in (False, True):
        engine = Engine(model, keep_prefixes=keep, prefix_sharing=False)
        engine.add([1], SamplingParams(temperature=0, max_tokens=40))
        while engine.has_work:  # one row at a time gains nothing
            engine.step()
        assert engine.stats().prepacked_bytes == 0
        for prompt in prompts(5):
            engine.add(prompt, SamplingParams(temperature=0, max_tokens=40))
        held = []
        while engine.has_work:
            engine.step()
            held.append(engine.stats().prepacked_bytes)
        assert held[packing._WORTH - 2] == 0
        assert (held[packing._WORTH - 1] > 0) == CAN
        assert (held[-1] > 0) == (CAN and keep)
        with torch.no_grad():
            model.final_norm.weight.mul_(1.01)
        answers(engine, 1)
        assert engine.stats().prepacked_bytes == 0
