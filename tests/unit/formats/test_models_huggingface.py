"""A model's folder: written and read back to the bit, and one clear line for every damage."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from glassbox.core.errors import UserError
from glassbox.formats.huggingface import (
    export_state,
    import_state,
    load_config,
    load_pretrained,
    load_pretrained_into,
    save_pretrained,
)
from glassbox.formats.tensor_files import write_tensors
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.models.families import from_hf_config, from_hf_weights, to_hf_config, to_hf_weights
from glassbox.models.shapes import GPT2Shape, LlamaShape
from glassbox.tokenizers import Tokenizer
from glassbox.tokenizers.added_tokens import AddedToken
from glassbox.tokenizers.bpe import BytePairModel
from glassbox.tokenizers.bytelevel import to_chars
from glassbox.tokenizers.patterns import PreTokenizer

LLAMA = LlamaShape(
    hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=24, context_length=32
).config(30)
GPT2 = GPT2Shape(hidden_size=16, num_layers=2, num_heads=2, context_length=32).config(30)
# no family of theirs has two kinds of block
OWN = ModelConfig(
    vocab_size=30,
    hidden_size=16,
    context_length=32,
    blocks=(
        Repeat(block=BlockSpec(mixer=GroupedQuery(num_heads=2), ffn=None)),
        Repeat(
            block=BlockSpec(
                mixer=GroupedQuery(num_heads=1, positions=Rotary(layout="interleaved")),
                ffn=SwiGlu(size=8),
            )
        ),
    ),
)
CONFIGS = {"llama": LLAMA, "gpt2": GPT2, "own": OWN}


def make(config: ModelConfig) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(config)


def same_bits(a: CausalLM, b: CausalLM) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def words_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_saved_and_loaded_to_the_bit(config, dtype, tmp_path):
    model = make(config).to(dtype)
    save_pretrained(model, tmp_path)
    random_state = torch.get_rng_state()
    again = load_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), random_state)  # resuming draws nothing
    assert again.config == load_config(tmp_path) == config
    assert same_bits(model, again)
    assert not again.training
    assert sorted(os.listdir(tmp_path)) == ["config.json", "generation_config.json", "model.safetensors"]  # fmt: skip

    other = CausalLM(config).to(dtype)
    assert not same_bits(model, other)
    load_pretrained_into(other, tmp_path)
    assert same_bits(model, other)
    assert other.training


def test_the_same_model_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_pretrained(make(LLAMA), tmp_path / name)
    for file in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_whose_names_are_in_the_file(tmp_path):
    for name, config in CONFIGS.items():
        save_pretrained(make(config), tmp_path / name)
        words = words_of(tmp_path / name)
        assert words["model_type"] == ("glassbox" if name == "own" else name)
        tensors = safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        first = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}
        assert first.get(name, "embedding.weight") in tensors
        with safetensors.safe_open(tmp_path / name / "model.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt"}


def tokenizer() -> Tokenizer:
    characters = [to_chars(bytes([byte])) for byte in range(256)]
    model = BytePairModel({c: i for i, c in enumerate(characters)}, [])
    added = [
        AddedToken(id=256 + i, content=content)
        for i, content in enumerate(("<|endoftext|>", "<|pad|>", "<|im_end|>"))
    ]
    roles = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    return Tokenizer(model, PreTokenizer(["\\S+|\\s+"]), added, roles=roles)


def test_token_ids_and_tokenizer_files(tmp_path):
    model = make(LLAMA.model_copy(update={"vocab_size": 259}))
    save_pretrained(model, tmp_path, tokenizer=tokenizer(), stop_token_ids=[258], extra={"note": 1})
    words = words_of(tmp_path)
    assert (words["bos_token_id"], words["eos_token_id"], words["pad_token_id"]) == (None, 256, 257)
    assert words["note"] == 1
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [256, 258]
    assert Tokenizer.load(tmp_path).eos_id == 256
    save_pretrained(model, tmp_path, tokenizer=tokenizer())
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 256


class Wrapped(torch.nn.Module):
    """As DDP wraps."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_prefixes_of_wrappers_never_reach_a_file(tmp_path):
    model = make(LLAMA)
    plain = export_state(model)
    compiled = torch.compile(model)
    assert any("_orig_mod." in name for name in compiled.state_dict())
    inner = make(LLAMA)
    inner.blocks[0].mixer = torch.compile(inner.blocks[0].mixer)
    for wrapped in (compiled, Wrapped(model), inner, Wrapped(compiled)):
        assert export_state(wrapped).keys() == plain.keys()
    save_pretrained(compiled, tmp_path)
    assert same_bits(load_pretrained(tmp_path), model)
    with torch.no_grad():
        inner.embedding.weight.zero_()
    load_pretrained_into(inner, tmp_path)
    assert torch.equal(inner.embedding.weight, model.embedding.weight)
    import_state(Wrapped(compiled), {name: tensor + 1 for name, tensor in plain.items()})
    assert torch.equal(model.state_dict()["embedding.weight"], plain["embedding.weight"])


def test_import_state_names_what_differs():
    model = make(LLAMA)
    state = {name: tensor.clone() for name, tensor in export_state(model).items()}
    with pytest.raises(UserError, match=r"lacks tensor 'embedding.weight'.*\(30, 16\)"):
        import_state(model, {n: t for n, t in state.items() if n != "embedding.weight"})
    with pytest.raises(UserError, match="has tensor 'more'"):
        import_state(model, {**state, "more": torch.zeros(1)})
    with pytest.raises(UserError, match=r"expected \(30, 16\), found \(3, 16\)"):
        import_state(model, {**state, "embedding.weight": torch.zeros(3, 16)})


# --- damage ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    save_pretrained(make(LLAMA), tmp_path)
    return tmp_path


def refused(folder: Path, *parts: str) -> None:
    """Both ways of loading refuse with one line that holds all these parts, and change nothing."""
    model = CausalLM(LLAMA)
    before = export_state(model)
    before = {name: tensor.clone() for name, tensor in before.items()}
    for load in (lambda: load_pretrained(folder), lambda: load_pretrained_into(model, folder)):
        with pytest.raises(UserError) as caught:
            load()
        message = str(caught.value)
        assert "\n" not in message
        for part in parts:
            assert part in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in export_state(model).items())


def change_words(folder: Path, **changes: Any) -> None:
    words = words_of(folder)
    for key, value in changes.items():
        if value is ...:
            del words[key]
        else:
            words[key] = value
    (folder / "config.json").write_text(json.dumps(words), encoding="utf-8")


def change_tensors(folder: Path, change) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    write_tensors(folder / "model.safetensors", tensors)


@pytest.mark.parametrize("keep", [0, 4, 100, 1500, -1])
def test_truncated_safetensors(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, str(path), "truncated", f"{path.stat().st_size} bytes")


def test_a_cut_file_says_which_tensor_is_cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    size = path.stat().st_size
    refused(folder, "tensor 'model.norm.weight' of shape (16,) and type F32 is expected to end at "
            f"byte {size + 1}, found the file's end at {size}")  # fmt: skip


def test_safetensors_full_of_noise(folder):
    (folder / "model.safetensors").write_bytes(os.urandom(4096))
    refused(folder, "model.safetensors")


def test_missing_tensor(folder):
    change_tensors(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    refused(folder, "model.safetensors", "'model.layers.1.mlp.up_proj.weight'", "(24, 16)", "lacks")


def test_extra_tensor(folder):
    change_tensors(folder, lambda t: t.update({"model.layers.2.input_layernorm.weight": torch.ones(16)}))  # fmt: skip
    refused(folder, "'model.layers.2.input_layernorm.weight'", "(16,)", "none of that name")


def test_misshaped_tensor(folder):
    change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.ones(17)}))
    refused(folder, "'model.norm.weight'", "expected (16,), found (17,)")
    change_tensors(folder, lambda t: t.update({"model.embed_tokens.weight": torch.ones(3, 3)}))
    refused(folder, "'model.embed_tokens.weight' (and 1 more)", "expected (30, 16), found (3, 3)")


@pytest.mark.parametrize(("tensor", "found"), [(torch.ones(16).half(), "F16"), (torch.ones(16).long(), "I64")])  # fmt: skip
def test_wrong_dtype(folder, tensor, found):
    change_tensors(folder, lambda t: t.update({"model.norm.weight": tensor}))
    refused(folder, "model.safetensors", "'model.norm.weight'", f"expected F32, found {found}")


def test_files_of_others_may_mix_floats_but_hold_no_integers(folder):
    change_words(folder, glassbox=...)
    change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.ones(16).half()}))
    assert load_pretrained(folder).final_norm.weight.dtype == torch.float32
    change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.ones(16).long()}))
    refused(folder, "found I64")


def test_tensors_that_others_save_and_no_model_needs(folder):
    change_tensors(
        folder,
        lambda t: t.update({
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
            "lm_head.weight": t["model.embed_tokens.weight"].clone(),
        }),
    )  # fmt: skip
    assert same_bits(load_pretrained(folder), make(LLAMA))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "holds a list"),
        (b"\xff\xfe", "UTF-8"),
        (b"", "not valid JSON"),
        (b'{"model_type": "resnet"}', "'resnet' is not known; known: llama, gpt2"),
        (b"{}", "lacks 'model_type'"),
        (b'{"model_type": "glassbox"}', "lacks 'glassbox'"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_config(folder, content, says):
    (folder / "config.json").write_bytes(content)
    refused(folder, "config.json", says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": ...}, "lacks 'hidden_size'"),
        ({"hidden_size": "16"}, "'hidden_size' = '16' is no int"),
        ({"hidden_size": True}, "'hidden_size' = True is no int"),
        ({"rms_norm_eps": float("nan")}, "no finite number"),
        ({"num_attention_heads": 0}, "has a 0"),
        ({"num_key_value_heads": 3}, "no multiple of num_kv_heads"),
        ({"num_hidden_layers": 0}, "no model that can be built"),
        ({"hidden_act": "gelu"}, "'hidden_act' = 'gelu' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "rope_parameters": ...}, "lacks 'low_freq_factor'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "lacks 'factor'"),
        ({"rope_parameters": 3}, "no mapping"),
        ({"dtype": "int8"}, "'dtype' = 'int8' is not supported"),
        ({"vocab_size": 31}, "(31, 16)"),
    ],
)  # fmt: skip
def test_config_of_others_that_cannot_be_followed(folder, changes, says):
    change_words(folder, glassbox=..., **changes)
    with pytest.raises(UserError) as caught:
        load_pretrained(folder)
    assert "config.json" in str(caught.value) or "model.safetensors" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gpt2_attention_that_is_scaled_otherwise(tmp_path):
    save_pretrained(make(GPT2), tmp_path)
    change_words(tmp_path, glassbox=..., scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="scale_attn_by_inverse_layer_idx"):
        load_pretrained(tmp_path)


def test_our_config_and_theirs_must_be_of_one_model(folder):
    change_words(folder, rms_norm_eps=1e-3)
    refused(folder, "config.json", "another model", "delete the key 'glassbox'")
    change_words(folder, glassbox=...)
    assert load_pretrained(folder).final_norm.eps == 1e-3


def test_unknown_key_in_our_config(folder):
    words = words_of(folder)
    words["glassbox"]["hiden_size"] = 3
    change_words(folder, glassbox=words["glassbox"])
    refused(folder, "config.json", "'hiden_size'", "did you mean 'hidden_size'")


def test_a_folder_of_another_model(folder):
    with pytest.raises(UserError, match=r"another model's: its 'vocab_size' is 30, expected 31"):
        load_pretrained_into(CausalLM(LLAMA.model_copy(update={"vocab_size": 31})), folder)
    relaxed = LLAMA.model_copy(update={"dropout": 0.3})  # training may change; the model may not
    load_pretrained_into(CausalLM(relaxed), folder)


def test_a_pickle_is_never_opened(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "neither model.safetensors nor")

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "trapped"),))

    torch.save(Trap(), folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "pickle", "save_pretrained")
    assert not (folder / "trapped").exists()


def test_no_folder_at_all(tmp_path):
    with pytest.raises(UserError, match=r"no config.json"):
        load_pretrained(tmp_path / "nowhere")


def test_shards(folder):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    names = sorted(state)
    (folder / "model.safetensors").unlink()
    halves = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in halves.items():
        write_tensors(folder / file, {name: state[name] for name in part})
    weight_map = {name: file for file, part in halves.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert same_bits(load_pretrained(folder), make(LLAMA))

    index.write_text(json.dumps({"weight_map": {**weight_map, names[0]: "two.safetensors"}}))
    refused(folder, names[0], "two.safetensors, which lacks it")
    index.write_text(json.dumps({"weight_map": {**weight_map, names[0]: "../../x"}}))
    refused(folder, names[0], "no file name")
    index.write_text(json.dumps({}))
    refused(folder, "no 'weight_map'")
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / "two.safetensors").unlink()
    refused(folder, "two.safetensors", "is missing")


def test_a_failed_write_leaves_the_old_file(folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def full(*arguments, **options):
        Path(arguments[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(CausalLM(LLAMA), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_weights_of_a_config_without_a_family_have_no_other_names():
    assert to_hf_config(OWN) is None
    for convert in (to_hf_weights, from_hf_weights):
        with pytest.raises(UserError, match="no Hugging Face family"):
            convert(OWN, {})
    assert from_hf_config(to_hf_config(GPT2) or {}).learned_positions
