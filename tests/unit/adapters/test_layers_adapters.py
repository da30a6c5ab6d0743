"""Adapters on one model: attach, choose, merge, take away; and what they leave as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.adapters.attach import attach, bake, detach, quantize, train_only
from glassbox.adapters.base import adapters_of
from glassbox.adapters.bottleneck import Bottleneck
from glassbox.adapters.layers import AdaptedLinear, Selection
from glassbox.adapters.linear_parts import linear_parts
from glassbox.adapters.lora import LowRank
from glassbox.adapters.specs import (
    AnyAdapter,
    BottleneckAdapter,
    Lora,
    PrefixTuning,
    PromptTuning,
)
from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.formats.huggingface import load_pretrained, save_pretrained
from glassbox.formats.peft import load_adapter, save_adapter
from glassbox.inference import Engine, SamplingParams
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.linear import Linear
from glassbox.layers.quantized import Nf4Linear
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.models.families import family_of, presets

KINDS: dict[str, AnyAdapter] = {
    "lora": Lora(rank=3),
    "dora": Lora(rank=2, dora=True, targets=("q_proj", "v_proj", "down")),
    "rslora": Lora(rank=2, rank_stabilized=True, targets=("*.1.*",)),
    "bottleneck": BottleneckAdapter(size=5),
    "prefix": PrefixTuning(tokens=3),
    "prompt": PromptTuning(tokens=4),
}
VIRTUAL = ("prefix", "prompt")


def tiny(*, bias: bool = False, dtype: torch.dtype = torch.float64, layers: int = 2) -> CausalLM:
    torch.manual_seed(0)
    mixer = GroupedQuery(
        num_heads=4, num_kv_heads=2, positions=Rotary(), qkv_bias=bias, output_bias=bias
    )
    block = BlockSpec(mixer=mixer, ffn=SwiGlu(size=20, bias=bias))
    config = ModelConfig(
        vocab_size=30,
        hidden_size=16,
        context_length=64,
        blocks=(Repeat(block=block, times=layers),),
    )
    model = CausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.to(dtype).eval()


def spoil(model: CausalLM, name: str = "default", seed: int = 3) -> None:
    """An adapter that does something: every number of it random."""
    assert adapters_of(model) is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapters_of(model).state(name).values():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.add_((0.3 * noise).to(tensor.dtype))


def ids(batch: int = 3, length: int = 9) -> torch.Tensor:
    return torch.randint(30, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [kind for kind in KINDS if kind not in VIRTUAL])
def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(name: str) -> None:
    model = tiny()
    before = model(ids())
    adapters = attach(model, KINDS[name])
    torch.testing.assert_close(model(ids()), before, rtol=1e-12, atol=1e-12)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(tensor) for tensor in adapters.state().values()}
    model(ids()).square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_taken_away_nothing_is_left(name: str) -> None:
    model = tiny()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    logits = model(ids())
    attach(model, KINDS[name])
    spoil(model)
    assert not torch.allclose(model(ids()), logits)
    detach(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(ids()), logits)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("quantized", [False, True])
def test_saved_and_opened_it_does_the_same(name: str, quantized: bool, tmp_path: Path) -> None:
    spec = KINDS[name]
    if quantized:
        spec = spec.model_copy(update={"quantize": "nf4", "compute": "float32"})
    model = tiny(dtype=torch.float32)
    attach(model, spec)
    spoil(model)
    save_adapter(model, tmp_path)
    again = tiny(dtype=torch.float32)
    adapters = load_adapter(again, tmp_path)
    assert adapters.specs["default"] == spec
    assert torch.equal(again(ids()), model(ids()))
    assert any(isinstance(module, Nf4Linear) for module in again.modules()) == quantized


def test_another_base_is_refused_by_its_hash(tmp_path: Path) -> None:
    model = tiny()
    attach(model, Lora())
    save_adapter(model, tmp_path)
    other = tiny()
    with torch.no_grad():
        other.final_norm.weight[0] += 1
    with pytest.raises(UserError, match="give the base it was trained on"):
        load_adapter(other, tmp_path)


@pytest.mark.parametrize("name", ["lora", "dora", "rslora"])
@pytest.mark.parametrize("quantized", [False, True])
def test_merge_does_the_same_and_unmerge_returns_the_bits(name: str, quantized: bool) -> None:
    spec = KINDS[name].model_copy(
        update={"quantize": "nf4" if quantized else None, "compute": "float32"}
    )
    model = tiny(bias=True, dtype=torch.float32 if quantized else torch.float64)
    adapters = attach(model, spec)
    spoil(model)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    logits = model(ids())
    adapters.merge()
    tolerance = 1e-4 if quantized else 1e-12  # float32 against float64 sums
    torch.testing.assert_close(model(ids()), logits, rtol=tolerance, atol=tolerance)
    with pytest.raises(UserError, match="is merged"):
        adapters.use(None)
    adapters.unmerge()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert torch.equal(model(ids()), logits)


@pytest.mark.parametrize("name", ["bottleneck", "prefix", "prompt"])
def test_what_is_no_matrix_is_not_merged(name: str) -> None:
    model = tiny()
    adapters = attach(model, KINDS[name])
    with pytest.raises(UserError, match="cannot be merged"):
        adapters.merge()


@pytest.mark.parametrize("quantized", [False, True])
def test_baked_it_is_a_plain_model_that_others_can_open(quantized: bool, tmp_path: Path) -> None:
    model = tiny(bias=True, dtype=torch.float32)
    attach(
        model, Lora(rank=2, bias="all", quantize="nf4" if quantized else None, compute="float32")
    )
    spoil(model)
    logits = model(ids())
    with pytest.raises(UserError, match="bake them in"):
        save_pretrained(model, tmp_path)
    bake(model)
    torch.testing.assert_close(model(ids()), logits, rtol=1e-4, atol=1e-4)  # float32 sums
    assert model.state_dict().keys() == tiny(bias=True).state_dict().keys()
    save_pretrained(model, tmp_path)
    assert torch.equal(load_pretrained(tmp_path)(ids()), model(ids()))


ROWS = st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=7)


@settings(max_examples=12, deadline=None)
@given(ROWS)
def test_each_row_passes_its_own_adapter(names: list[str | None]) -> None:
    model = tiny(layers=1)
    specs = {"a": KINDS["lora"], "b": KINDS["dora"], "c": KINDS["bottleneck"]}
    for seed, (name, spec) in enumerate(specs.items()):
        adapters = attach(model, spec, name, seed=seed)
        spoil(model, name, seed)
    tokens = ids(len(names))
    tensors = {(n, key): t for n in specs for key, t in adapters.state(n).items()}

    def gradients(logits: torch.Tensor) -> list[torch.Tensor]:
        loss = (logits**2).sum() + sum(0.0 * tensor.sum() for tensor in tensors.values())
        return list(torch.autograd.grad(loss, list(tensors.values())))

    with adapters.rows(names):
        found = model(tokens)
    mixed = gradients(found)
    alone = []
    for row, name in enumerate(names):
        adapters.use(name)
        alone.append(model(tokens[row : row + 1]))
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-10, atol=1e-10)
    for (name, key), mine, wanted in zip(tensors, mixed, gradients(torch.cat(alone)), strict=True):
        assert bool(wanted.any()) == (name in names), key
        torch.testing.assert_close(mine, wanted, rtol=1e-8, atol=1e-8)


def test_rows_are_counted_and_named() -> None:
    model = tiny()
    adapters = attach(model, Lora(), "a")
    with pytest.raises(UserError, match="no adapter 'b'; there are: a"):
        adapters.set_rows(["b"])
    adapters.set_rows(["a", None])
    with pytest.raises(UserError, match="chosen for 2 rows, the batch has 3"):
        model(ids(3))
    adapters.set_rows(None)
    model(ids(3))
    alone = tiny()
    with pytest.raises(UserError, match="cannot be chosen a row"):
        attach(alone, PromptTuning(), "p").set_rows(["p"])


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_tokens_with_caches_packing_and_unequal_rows(name: str) -> None:
    model = tiny()
    attach(model, KINDS[name])
    spoil(model)
    tokens = ids(2, 10)
    whole = model(tokens)
    state = model.init_state(2, 10)
    pieces = []
    for start, stop in ((0, 4), (4, 5), (5, 10)):
        positions = torch.arange(start, stop).unsqueeze(0)
        pieces.append(model(tokens[:, start:stop], positions=positions, state=state))
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-10, atol=1e-10)
    documents = torch.tensor([[0] * 4 + [1] * 6])
    packed = model(tokens[:1], documents=documents)
    apart = torch.cat((model(tokens[:1, :4]), model(tokens[:1, 4:])), 1)
    torch.testing.assert_close(packed, apart, rtol=1e-10, atol=1e-10)
    with (
        torch.no_grad()
    ):  # what generation keeps is what training computes, and follows the weights
        torch.testing.assert_close(model(tokens), whole, rtol=1e-10, atol=1e-10)
        before = model(tokens)
        spoil(model, seed=9)
        assert not torch.allclose(model(tokens), before)


@pytest.mark.parametrize("name", KINDS)
def test_the_engine_generates_with_it(name: str) -> None:
    model = tiny(dtype=torch.float32)
    attach(model, KINDS[name])
    spoil(model)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    answers = Engine(model).generate(prompts, SamplingParams(max_tokens=6, temperature=0))
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = list(prompt)
        with torch.no_grad():
            for _ in range(6):
                tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        assert answer.token_ids == tokens[len(prompt) :]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Lora(targets=("q_prj",)), "'q_prj' names no linear layer.*all-linear.*q_proj"),
        (Lora(also=("nothing*",)), "'nothing\\*' matches no parameter"),
    ],
)
def test_targets_that_name_nothing_are_refused_and_nothing_changes(
    spec: Lora, message: str
) -> None:
    model = tiny()
    with pytest.raises(UserError, match=message):
        attach(model, spec)
    assert adapters_of(model) is None
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())


def test_virtual_tokens_stand_alone_and_need_attention() -> None:
    model = tiny()
    attach(model, Lora(), "a")
    with pytest.raises(UserError, match="'a' is there already"):
        attach(model, Lora(), "a")
    with pytest.raises(UserError, match="stands alone"):
        attach(model, PromptTuning(), "b")
    with pytest.raises(UserError, match="use letters"):
        attach(model, Lora(), "a.b")
    for preset in ("mamba-tiny", "gpt2-tiny", "bloom-tiny"):
        with pytest.raises(UserError, match="use lora"):
            attach(CausalLM(presets()[preset]), PrefixTuning())


def test_biases_are_trained_as_asked(tmp_path: Path) -> None:
    for bias, count in (("none", 0), ("lora_only", 2), ("all", 8)):
        model = tiny(bias=True)
        adapters = attach(model, Lora(targets=("q_proj", "v_proj"), bias=bias))
        assert len(adapters.extra) == count
        spoil(model)
        save_adapter(model, tmp_path / bias)
        again = tiny(bias=True)
        load_adapter(again, tmp_path / bias)
        if bias != "lora_only":  # there the biases of the keys are spoiled, and are no part of it
            assert torch.equal(again(ids()), model(ids()))
        (model(ids()) ** 2).sum().backward()
        if bias == "lora_only":
            grad = model.get_submodule("blocks.0.mixer.qkv").base.bias.grad
            assert not grad[16:24].any()
            assert grad[:16].any()
            assert grad[24:].any()


def test_train_only_freezes_the_rest() -> None:
    model = tiny()
    kept = train_only(model, ["blocks.1.ffn.*", "*norm*"])
    assert kept == [name for name, p in model.named_parameters() if p.requires_grad]
    assert "blocks.1.ffn.down.weight" in kept
    assert "blocks.0.ffn.down.weight" not in kept
    assert "final_norm.weight" in kept
    with pytest.raises(UserError, match=r"'blocks\.9\.\*' matches no parameter"):
        train_only(model, ["blocks.9.*"])


def test_dropout_is_on_what_enters_the_update_and_in_training_alone() -> None:
    torch.manual_seed(0)
    linear = Linear(8, 6).double()
    torch.nn.init.normal_(linear.weight)
    update = LowRank(linear, [(0, 6)], rank=2, alpha=2, dropout=0.5).train()
    torch.nn.init.normal_(update.up[0])
    x = torch.randn(4, 8, dtype=torch.float64)
    y = linear(x)
    torch.manual_seed(7)
    found = update(x, y, linear)
    torch.manual_seed(7)
    dropped = torch.nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(found, y + dropped @ update.down.T @ update.up[0].T)
    update.eval()
    torch.testing.assert_close(update(x, y, linear), y + x @ update.down.T @ update.up[0].T)


def test_a_bottleneck_is_its_formula() -> None:
    linear = Linear(5, 6).double()
    torch.nn.init.normal_(linear.weight)
    update = Bottleneck(linear, size=3, activation="gelu").double()
    torch.nn.init.normal_(update.up.weight)
    y = torch.randn(4, 6, dtype=torch.float64)
    low = torch.nn.functional.gelu(y @ update.down.weight.T + update.down.bias)
    torch.testing.assert_close(update(y, y, linear), y + low @ update.up.weight.T + update.up.bias)


def test_gradients_of_every_part_are_those_of_differences() -> None:
    torch.manual_seed(0)
    linear = Linear(5, 7, bias=True).double()
    torch.nn.init.normal_(linear.weight)
    layer = AdaptedLinear(linear, Selection())
    layer.selection.active = "a"
    layer.updates["a"] = LowRank(linear, [(0, 3), (5, 7)], rank=2, alpha=3).double()
    for tensor in layer.updates["a"].parameters():
        torch.nn.init.normal_(tensor)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    parameters = list(layer.updates["a"].parameters())
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *parameters))
    torch.testing.assert_close(layer(x), x @ layer.weight.T + linear.bias)


@pytest.mark.parametrize("name", [name for name in sorted(presets()) if name.endswith("-tiny")])
def test_every_family_takes_lora_on_all_its_linear_layers(name: str, tmp_path: Path) -> None:
    config = presets()[name]
    torch.manual_seed(0)
    model = CausalLM(config).eval()
    tokens = torch.randint(config.vocab_size, (2, 7))
    before = model(tokens)
    adapters = attach(model, Lora(rank=2))
    torch.testing.assert_close(model(tokens), before, rtol=1e-5, atol=1e-5)
    assert len(list(adapters.layers())) >= config.num_layers
    spoil(model)
    changed = model(tokens)
    assert not torch.allclose(changed, before)
    save_adapter(model, tmp_path)
    torch.manual_seed(0)
    again = CausalLM(config).eval()
    load_adapter(again, tmp_path)
    assert torch.equal(again(tokens), changed)
    bake(model)
    # float32 sums in another order, through layers that may amplify them
    torch.testing.assert_close(model(tokens), changed, rtol=1e-3, atol=1e-3)


def test_parts_are_rows_of_ours() -> None:
    model = tiny()
    assert family_of(model.config) is not None
    parts = {part.theirs: part for part in linear_parts(model)[0]}
    assert parts["model.layers.0.self_attn.k_proj"].rows == (16, 24)
    assert parts["model.layers.1.mlp.up_proj"].rows == (20, 40)


def test_four_bits_are_kept_in_a_state_dict_that_opens_in_a_fresh_model() -> None:
    model, fresh = tiny(dtype=torch.float32), tiny(dtype=torch.float32)
    quantize(model, torch.float32)
    saved = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    quantize(fresh, torch.float32)
    fresh.load_state_dict(saved)
    assert torch.equal(fresh(ids()), model(ids()))


def test_a_wrong_key_of_a_recipe_is_met_by_name() -> None:
    words: dict[str, Any] = {"kind": "lora", "rnk": 4}
    with pytest.raises(UserError, match="did you mean 'rank'"):
        parse(Lora, words)


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_tokens_are_made_once_a_pass_and_copied_with_the_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks' hooks share one making of keys and values; a copy's hooks are its own."""
    model = tiny()
    attach(model, KINDS[name])
    virtual = adapters_of(model).virtual
    makings = []
    pairs = type(virtual).pairs

    def counted(self, owner):
        makings.append(owner)
        return pairs(self, owner)

    monkeypatch.setattr(type(virtual), "pairs", counted)
    ids = torch.arange(6).view(1, 6)
    model(ids).sum().backward()
    assert makings == [model]
    twin = copy.deepcopy(model)
    makings.clear()
    with torch.no_grad():
        adapters_of(twin).virtual.rows.add_(1.0)
        assert not torch.allclose(twin(ids), model(ids))
    assert makings == [twin, model]
    detach(model)
    assert not any(block._forward_pre_hooks for block in model.blocks)
    assert "virtual.rows" not in model.state_dict()


def test_baked_biases_are_whole_again() -> None:
    """What masks the gradient of a bias that is trained in part goes with the adapter."""
    model = tiny(bias=True)
    attach(model, Lora(rank=2, targets=("q_proj",), bias="lora_only"))
    baked = bake(model)
    baked(torch.arange(6).view(1, 6)).square().sum().backward()
    grad = baked.blocks[0].mixer.qkv.bias.grad
    assert (grad[-8:] != 0).all()  # of the values, which had no adapter
