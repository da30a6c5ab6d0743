"""Every family against transformers on random weights: configs, logits, gradients, files, generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from glassbox.formats.huggingface import load_pretrained, save_pretrained
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
    traits,
    traits_of,
)

ROOT = Path(__file__).parents[3]
CASES = all_cases()
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# float32: some tens of products deep, sums in another order; both lie this near to the exact value
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}


def test_the_page_of_parity_has_every_family_and_all_within_their_tolerance():
    """`python tests/parity/table.py --write` writes it."""
    page = (ROOT / "docs" / "results" / "parity.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [row[0].split("`")[1] for row in rows] == sorted(f.model_type for f in FAMILIES)
    for row in rows:
        name = row[0].split("`")[1]
        mine = [case for case in CASES.values() if case.model_type == name]
        assert (row[1], row[2]) == (str(len(mine)), traits_of(mine)), "write the page again"
        tolerance = max(c.tolerance for c in CASES.values() if f"`{c.model_type}`" in row[0])
        assert row[3] == "same"
        assert row[6].startswith("same, ")
        figures = [float(row[column].removeprefix("same, ")) for column in (4, 5, 6, 7)]
        assert max(figures) <= tolerance, row


NO_HEADS = {"mamba", "rwkv"}
GROUPED = {
    "cohere2", "gemma2", "gemma3_text", "glm4_moe", "gpt_oss", "granite", "jamba", "llama", "minimax",
    "minimax_m2", "mistral", "mixtral", "olmo2", "olmo3", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "smollm3",
}  # fmt: skip
"""Families of which keys may be fewer than queries; the others have no word for it."""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_every_family_has_cases_of_all_that_it_can_have(family):
    """Three at least, or the table of parity would say little."""
    mine = [case for case in CASES.values() if case.model_type == family.model_type]
    assert len(mine) >= 3
    found = set().union(*(traits(case) for case in mine))
    assert {"tied", "untied"} <= found
    assert ("odd heads" in found) == (family.model_type not in NO_HEADS)
    assert ("grouped keys" in found) == (family.model_type in GROUPED)
    assert ("biases" in found) == ("no biases" in found), (
        "a word for biases, of which one was tried"
    )


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
    assert export_difference(case, tmp_path) <= case.tolerance


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


@pytest.mark.parametrize(
    "name", ["llama grouped", "gpt2", "bloom", "gemma2", "qwen2 window above", "smollm3"]
)
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


# as the papers and the Hub's pages of the models state them
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "pythia-14m": 14_067_712,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "gpt-neox-20b": 20_554_567_680,
    "bloom-560m": 559_214_592,
    "bloom-1b1": 1_065_314_304,
    "bloom-1b7": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "bloom": 176_247_271_424,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400,
    "olmo2-32b": 32_234_279_936,
    "phi-3-mini-4k": 3_821_079_552,
    "phi-3-medium-4k": 13_960_238_080,
    "phi-4": 14_659_507_200,
    "smollm3-3b": 3_075_098_624,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_404_352,  # without the layer that predicts a second token
    "deepseek-v3.2": 671_877_929_216,
    "qwen3-next-80b-a3b": 79_674_391_296,  # without the module that predicts several tokens
    "minimax-text-01": 456_089_655_296,
}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_presets_have_the_published_number_of_parameters(name, parameters):
    with torch.device("meta"):
        assert CausalLM(presets()[name]).num_parameters == parameters


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_a_preset_has_as_many_parameters_in_transformers(family):
    name = next((name for name in family.presets if name in PARAMETERS), None)
    if name is not None:
        config = transformers.AutoConfig.for_model(
            family.model_type, **family.to_hf_config(family.presets[name])
        )
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        assert model.num_parameters() == PARAMETERS[name]


def test_every_family_has_a_tiny_preset_and_says_all_of_its_presets():
    for family in FAMILIES:
        assert any(name.endswith("-tiny") for name in family.presets), family.model_type
        for name, config in family.presets.items():
            words = family.to_hf_config(config)
            assert words is not None, name
            assert (
                to_hf_config(config) is not None
            )  # in a plainer family's words where one has them
            again = from_hf_config({"model_type": family.model_type, **words})
            assert family.to_hf_config(again) == words, name


@EACH
def test_weight_maps_are_inverse_and_linear(case):
    config = from_hf_config({"model_type": case.model_type, **case.words})
    first, second = CausalLM(config).state_dict(), CausalLM(config).state_dict()
    family = family_named(case.model_type)
    back = from_hf_weights(config, to_hf_weights(config, first, family=family), family=family)
    assert back.keys() == first.keys()
    assert all(torch.equal(back[name], first[name]) for name in first)
    both = {name: first[name] + second[name] for name in first}
    total, a, b = (to_hf_weights(config, state, family=family) for state in (both, first, second))
    assert all(torch.equal(total[name], a[name] + b[name]) for name in total)


def test_which_family_expresses_a_config():
    raw = presets()["llama-tiny"].model_dump(mode="json")

    def family(model: dict[str, Any] | None = None, **mixer: Any) -> str | None:
        block = raw["blocks"][0]["block"]
        spec = {"block": {**block, "mixer": {**block["mixer"], **mixer}}, "times": 2}
        found = family_of(ModelConfig.model_validate({**raw, "blocks": [spec], **(model or {})}))
        return None if found is None else found.model_type

    assert family() == "llama"
    assert family(qkv_bias=True) == "qwen2"
    assert family(positions={"kind": "rotary", "fraction": 0.5}) == "phi3"
    assert family(num_heads=5, num_kv_heads=1, head_dim=8) == "mistral"
    assert family(window=7) == "mistral"
    for scaling in ({"kind": "linear", "factor": 2.0}, {"kind": "yarn", "factor": 2.0, "original_length": 128}):  # fmt: skip
        assert family(positions={"kind": "rotary", "scaling": scaling}) == "llama"
    # what nobody can say, or only transformers' classes cannot
    assert family(positions=None) is None
    assert family(positions={"kind": "alibi"}) is None
    assert family(positions={"kind": "rotary", "layout": "interleaved"}) is None
    assert family(positions={"kind": "rotary", "scaling": {"kind": "ntk", "factor": 2.0}}) is None
    assert family(output_bias=True) is None
    assert family(head_dim=7) is None
    assert family(sinks=True) is None
    assert family(scale=0.5) == "granite"
    assert family({"learned_positions": True}) is None
    assert family({"embedding_scale": 2.0, "logit_scale": 0.125}) == "granite"
    assert family({"embedding_scale": 2.0}, sinks=True) is None
    assert family({"logit_softcap": 2.0}) is None
    assert family({"final_norm": {"kind": "rms_norm", "eps": 1.0}}) is None
