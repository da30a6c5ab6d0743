"""Every family against transformers on random weights: configs, logits, gradients, files, generation."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers

from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.families import (
    FAMILIES,
    family_named,
    family_of,
    from_hf_config,
    from_hf_weights,
    presets,
    to_hf_config,
    to_hf_weights,
)
from glassbox.models.huggingface import load_pretrained, save_pretrained
from support.families import all_cases
from support.parity import (
    config_words_lost,
    export_difference,
    gradient_difference,
    greedy,
    ids_of,
    logits_and_gradients,
    ours_from,
    reference,
)

CASES = all_cases()
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# float32: some tens of products deep, sums in another order; both lie this near to the exact value
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}


def test_every_family_has_cases():
    """Three at least, or the table of parity would say little."""
    for family in FAMILIES:
        assert sum(case.model_type == family.model_type for case in CASES.values()) >= 3, family


@EACH
def test_a_config_of_theirs_survives_the_way_to_ours_and_back(case):
    assert config_words_lost(case) == []


@EACH
def test_logits_and_gradients(case):
    logits, gradients = logits_and_gradients(case)
    assert logits <= case.tolerance
    assert gradients <= case.tolerance


@EACH
def test_greedy_generation_with_our_cache_is_theirs(case):
    same_tokens, logits = greedy(case)
    assert same_tokens
    assert logits <= case.tolerance


@EACH
def test_our_files_open_in_transformers_as_the_same_model(case, tmp_path):
    assert export_difference(case, tmp_path) == 0.0


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("gpt2")])
def test_logits_and_gradients_in_float64(name):
    """Only where theirs stays in float64: Llama's norm and softmax go through float32 there."""
    case = CASES[name]
    theirs = reference(case, torch.float64)
    ours = ours_from(theirs)
    ids = ids_of(case)
    expected, logits = theirs(input_ids=ids).logits, ours(ids)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).double()
    (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    assert gradient_difference(ours, theirs) <= 1e-10


@pytest.mark.parametrize("name", ["llama grouped", "gpt2"])
def test_rows_padded_on_the_right_have_the_logits_of_their_mask(name):
    case = CASES[name]
    theirs = reference(case)
    ours = ours_from(theirs)
    ids = ids_of(case, batch=3, length=9)
    lengths = torch.tensor([9, 4, 1])
    mask = torch.arange(9) < lengths[:, None]
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask.long()).logits
        torch.testing.assert_close(ours(ids)[mask], expected[mask], **FLOAT32)


@EACH
def test_their_files_open_here(case, tmp_path):
    """Theirs, and ours once they have been through transformers, which keeps our key in config.json."""
    theirs = reference(case)
    ours = ours_from(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    back = load_pretrained(tmp_path / "theirs")
    save_pretrained(ours, tmp_path / "ours")
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(opened).__name__ == family_named(case.model_type).architecture
    opened.save_pretrained(tmp_path / "theirs again")
    through = load_pretrained(tmp_path / "theirs again")
    assert through.config == ours.config
    for name, tensor in ours.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
        assert torch.equal(through.state_dict()[name], tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_of_a_saved_model_is_read_by_both(dtype, tmp_path):
    ours = ours_from(reference(CASES["llama grouped"])).to(dtype)
    save_pretrained(ours, tmp_path)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path).dtype == dtype
    assert load_pretrained(tmp_path).output_weight.dtype == dtype
    assert load_pretrained(tmp_path, dtype=torch.float32).output_weight.dtype == torch.float32


def test_rope_base_reaches_transformers(tmp_path):
    """A wrong base on export would pass every test of a model with the default one."""
    save_pretrained(ours_from(reference(CASES["llama theta"])), tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.rope_parameters["rope_theta"] == 500.0
    words = json.loads((tmp_path / "config.json").read_text())
    assert words["rope_theta"] == 500.0  # where transformers 4 looks


def test_sharded_files(tmp_path):
    theirs = reference(CASES["llama biases"])
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
    ids = ids_of(CASES["llama biases"])
    with torch.no_grad():
        torch.testing.assert_close(load_pretrained(tmp_path)(ids), theirs(ids).logits, **FLOAT32)


def test_files_of_the_bare_model_lack_the_prefix(tmp_path):
    """As the published GPT-2's do: `h.0.ln_1.weight`, `wte.weight`."""
    theirs = reference(CASES["gpt2"])
    theirs.transformer.save_pretrained(tmp_path)
    ids = ids_of(CASES["gpt2"])
    with torch.no_grad():
        torch.testing.assert_close(load_pretrained(tmp_path)(ids), theirs(ids).logits, **FLOAT32)


def test_the_gpt2_of_124m_parameters():
    """The published config, random weights."""
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    theirs = theirs.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(-0.05, 0.05, generator=generator)
    theirs.tie_weights()
    ours = ours_from(theirs).eval()
    assert ours.num_parameters == theirs.num_parameters() == 124_439_808
    ids = torch.randint(50257, (1, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, **FLOAT32)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("smollm2-135m", 134_515_008),
        ("llama-2-7b", 6_738_415_616),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, parameters):
    with torch.device("meta"):
        assert CausalLM(presets()[name]).num_parameters == parameters
        words = to_hf_config(presets()[name])
        config = transformers.AutoConfig.for_model(words.pop("model_type"), **words)
        assert transformers.AutoModelForCausalLM.from_config(config).num_parameters() == parameters


def test_every_preset_belongs_to_its_family_and_survives_the_way_there_and_back():
    for family in FAMILIES:
        for config in family.presets.values():
            assert family_of(config) is family
            words = to_hf_config(config)
            assert words is not None
            assert to_hf_config(from_hf_config(words)) == words


@EACH
def test_weight_maps_are_inverse_and_linear(case):
    config = from_hf_config({"model_type": case.model_type, **case.words})
    first, second = CausalLM(config).state_dict(), CausalLM(config).state_dict()
    back = from_hf_weights(config, to_hf_weights(config, first))
    assert back.keys() == first.keys()
    assert all(torch.equal(back[name], first[name]) for name in first)
    total = to_hf_weights(config, {name: first[name] + second[name] for name in first})
    a, b = to_hf_weights(config, first), to_hf_weights(config, second)
    assert all(torch.equal(total[name], a[name] + b[name]) for name in total)


def test_what_no_family_can_express():
    raw = presets()["llama-tiny"].model_dump(mode="json")

    def changed(**mixer: Any) -> ModelConfig:
        block = raw["blocks"][0]["block"]
        spec = {"block": {**block, "mixer": {**block["mixer"], **mixer}}, "times": 2}
        return ModelConfig.model_validate({**raw, "blocks": [spec]})

    assert family_of(changed()) is not None
    assert family_of(changed(positions=None)) is None
    assert family_of(changed(positions={"kind": "rotary", "layout": "interleaved"})) is None
    assert family_of(changed(positions={"kind": "rotary", "fraction": 0.5})) is None
    assert family_of(changed(qkv_bias=True)) is None
    assert family_of(changed(head_dim=7)) is None
    assert family_of(changed(num_heads=5, num_kv_heads=1, head_dim=8)) is None
    assert family_of(ModelConfig.model_validate({**raw, "learned_positions": True})) is None
    assert family_of(ModelConfig.model_validate({**raw, "final_norm": {"kind": "rms_norm", "eps": 1.0}})) is None  # fmt: skip
