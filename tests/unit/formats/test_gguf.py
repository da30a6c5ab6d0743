"""GGUF files: what is written reads back, and a damaged file is refused in one line or read right."""

from __future__ import annotations

import struct
import tracemalloc
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glassbox.core.errors import UserError
from glassbox.formats.gguf import GGUFFile, load_gguf, save_gguf
from glassbox.formats.gguf.architectures import ARCHITECTURES, shortest
from glassbox.formats.gguf.blocks import FORMATS, quantize_q8_0
from glassbox.formats.gguf.writer import Number, write_gguf
from glassbox.formats.huggingface import save_pretrained
from glassbox.formats.llama2c import load_llama2c, save_llama2c
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.families import from_hf_config
from glassbox.models.family import canonical
from glassbox.tokenizers import PreTokenizer, Tokenizer, train_bpe

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 500.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
CASES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama tied": LLAMA | {"tie_word_embeddings": True},
    "llama odd heads, biases": LLAMA
    | {
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama own head_dim": LLAMA | {"head_dim": 10},
    **{f"llama {name}": LLAMA | {"rope_parameters": words} for name, words in ROPES.items()},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen2 odd heads, tied": LLAMA
    | {
        "model_type": "qwen2",
        "hidden_size": 30,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 10},
    "qwen3 tied": LLAMA | {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "gemma2": LLAMA
    | {
        "model_type": "gemma2",
        "head_dim": 10,
        "query_pre_attn_scalar": 10,
        "sliding_window": 5,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dynamic": (
        LLAMA | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}},
        r"no keys for rotary positions of kind 'dynamic'",
    ),
    "windows": (
        LLAMA
        | {
            "model_type": "qwen2",
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
        r"no key for all of this model",
    ),
    "scale": (
        CASES["gemma2"] | {"query_pre_attn_scalar": 11},
        r"no key for all of this model",
    ),
    "no cap": (
        CASES["gemma2"] | {"attn_logit_softcapping": None},
        r"'gemma2.attn_logit_softcapping' needs a value",
    ),
    "family": (
        {
            "model_type": "gpt2",
            "vocab_size": 40,
            "n_embd": 8,
            "n_layer": 1,
            "n_head": 2,
            "n_positions": 16,
        },
        r"this model is a gpt2; GGUF is written for llama, qwen2, qwen3, gemma2: use --to hf",
    ),
}


def make(config: ModelConfig, seed: int = 0) -> CausalLM:
    """A random model whose norms and biases are no longer what they begin with."""
    generator = torch.Generator().manual_seed(seed)
    model = CausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * noise)
    return model


@lru_cache(maxsize=4)
def tokenizer(pattern: str = "gpt4") -> Tokenizer:
    return train_bpe(["to be or not to be, that is the question 1234\n"] * 3, 280, pattern=pattern)


# ---- models through the file -----------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_model_comes_back(name: str, tmp_path: Path) -> None:
    """Same config, same logits. Gemma's 1 + w rounds in float32, so its are equal to 1e-5 only."""
    config = from_hf_config(CASES[name])
    model = make(config)
    save_gguf(tmp_path / "m.gguf", model, tokenizer=tokenizer())
    again, read = load_gguf(tmp_path / "m.gguf")
    assert canonical(again.config) == canonical(config)
    assert read is not None
    assert read.fingerprint == tokenizer().fingerprint
    ids = torch.randint(0, config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(1))
    tolerance = 1e-5 if name.startswith("gemma") else 0.0
    torch.testing.assert_close(again(ids), model(ids), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", REFUSED)
def test_what_gguf_cannot_say_is_refused(name: str, tmp_path: Path) -> None:
    words, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        save_gguf(tmp_path / "m.gguf", make(from_hf_config(words)))
    assert not list(tmp_path.iterdir())


def test_narrow_types(tmp_path: Path) -> None:
    """F16 and BF16 keep their type; Q8_0 is float32 again, off by no more than half a step."""
    model = make(from_hf_config(LLAMA | {"hidden_size": 32, "intermediate_size": 48}))
    for dtype, expected in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        save_gguf(tmp_path / "m.gguf", model, dtype=dtype)
        again, nothing = load_gguf(tmp_path / "m.gguf")
        assert nothing is None
        for (name, one), two in zip(model.named_parameters(), again.parameters(), strict=True):
            assert two.dtype == expected
            assert torch.equal(one.to(expected), two), name
        assert load_gguf(tmp_path / "m.gguf", dtype=torch.float32)[0].embedding.weight.dtype == (
            torch.float32
        )
    save_gguf(tmp_path / "m.gguf", model, dtype="q8_0")
    with GGUFFile(tmp_path / "m.gguf") as file:
        types = {name: info.type_name for name, info in file.tensors.items()}
        assert file.metadata["general.quantization_version"] == 2
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] == "F16", "rows of 48 are no multiple of 32"
    assert types["blk.0.attn_norm.weight"] == "F32"
    again, _ = load_gguf(tmp_path / "m.gguf")
    one, two = model.embedding.weight, again.embedding.weight
    step = one.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((one - two).abs() <= 0.5 * step + 1e-3 * one.abs()).all())
    assert not torch.equal(one, two)


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    for value, dtype in ((1e6, "f16"), (float("nan"), "q8_0"), (1e8, "q8_0")):
        model = make(from_hf_config(LLAMA | {"hidden_size": 32}))
        with torch.no_grad():
            model.blocks[1].mixer.output.weight[3, 3] = value  # type: ignore[index,union-attr]
        with pytest.raises(UserError, match=r"tensor 'blk.1.attn_output.weight' cannot be written"):
            save_gguf(tmp_path / "m.gguf", model, dtype=dtype)
        assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="dtype = 'q5_0' is not known"):
        save_gguf(tmp_path / "m.gguf", model, dtype="q5_0")


# ---- tokenizers ------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "qwen2"])
def test_tokenizer_comes_back(pattern: str, tmp_path: Path) -> None:
    """Vocabulary, merges, pattern, roles, template; and a model's spare rows become unused tokens."""
    config = from_hf_config(LLAMA)
    save_gguf(tmp_path / "m.gguf", make(config), tokenizer=tokenizer(pattern))
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert len(file.metadata["tokenizer.ggml.tokens"]) == config.vocab_size
    read = load_gguf(tmp_path / "m.gguf")[1]
    assert read is not None
    ours = tokenizer(pattern)
    assert read.fingerprint == ours.fingerprint
    assert (read.roles, read.chat_template, read.vocab_size, read.adds_bos) == (
        ours.roles,
        ours.chat_template,
        ours.vocab_size,
        False,
    )


def test_templates_and_composition_come_back(tmp_path: Path) -> None:
    ours = tokenizer("qwen2")
    templates = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    composed = Tokenizer(
        ours.model,
        PreTokenizer(ours.pretokenizer.stages, nfc=True),
        ours.added,
        roles=ours.roles,
        chat_template=templates,
    )
    save_gguf(tmp_path / "m.gguf", make(from_hf_config(LLAMA)), tokenizer=composed)
    read = load_gguf(tmp_path / "m.gguf")[1]
    assert read is not None
    assert (read.chat_template, read.fingerprint) == (templates, composed.fingerprint)


def test_pattern_without_a_name_is_refused(tmp_path: Path) -> None:
    ours = tokenizer()
    odd = Tokenizer(ours.model, PreTokenizer((r"\w+|\W+",)), ours.added)
    with pytest.raises(UserError, match="GGUF has no name for the tokenizer's word pattern"):
        save_gguf(tmp_path / "m.gguf", make(from_hf_config(LLAMA)), tokenizer=odd)


# ---- the file itself -------------------------------------------------------------------------

scalars = st.one_of(
    st.text(max_size=8), st.booleans(), st.integers(0, 2**32 - 1), st.floats(width=32)
)
kinds = st.sampled_from([st.text(max_size=5), st.integers(0, 2**32 - 1), st.floats(width=32)])
lists = kinds.flatmap(lambda kind: st.lists(kind, max_size=4))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    metadata=st.dictionaries(
        st.text(min_size=1, max_size=12).map("x.".__add__), scalars | lists, max_size=6
    ),
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), max_size=4),
    type_name=st.sampled_from(["F32", "F16", "BF16", "Q8_0"]),
)
def test_file_comes_back(
    tmp_path: Path, metadata: dict[str, Any], shapes: list[list[int]], type_name: str
) -> None:
    width = 32 if type_name == "Q8_0" else 1
    tensors = {
        f"t{n}": (type_name, torch.randn(*shape[:-1], shape[-1] * width))
        for n, shape in enumerate(shapes)
    }
    write_gguf(tmp_path / "m.gguf", metadata, tensors)
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert repr(file.metadata) == repr(metadata)  # nan is nan
        assert file.names == sorted(tensors)
        for name, (_, tensor) in tensors.items():
            assert file.shape(name) == tuple(tensor.shape)
            if type_name == "Q8_0":
                expected = FORMATS["Q8_0"].decode(quantize_q8_0(tensor)).view(tensor.shape)
            else:
                expected = tensor.to(file.get(name).dtype)
            assert torch.equal(file.get(name), expected)
            turned = torch.empty(tensor.shape[::-1]).permute(*range(tensor.dim())[::-1])
            file.copy_into(name, turned)  # into a tensor that is not contiguous
            assert torch.equal(turned, expected.float())


def test_numbers_of_other_types(tmp_path: Path) -> None:
    given = {"b": 200, "h": 3, "q": 2**40, "d": 1e-300, "i": [-1, 7]}
    metadata = {
        "b": Number("B", 200),
        "h": Number("h", 3),
        "q": Number("q", 2**40),
        "d": Number("d", 1e-300),
        "i": [Number("i", -1), Number("i", 7)],
    }
    write_gguf(tmp_path / "m.gguf", metadata, {})
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert file.metadata == given


@pytest.mark.parametrize("value", [1e-6, 1e-5, 10000.0, 500000.0, 0.1, 1e30])
def test_shortest_undoes_float32(value: float) -> None:
    assert shortest(struct.unpack("<f", struct.pack("<f", value))[0]) == value


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=lambda arch: arch.name)
def test_names_both_ways(arch: Any) -> None:
    for part in arch.block:
        for kind in ("weight", "bias"):
            theirs = arch.hf_name(f"blk.7.{part}.{kind}")
            assert arch.gguf_name(theirs) == f"blk.7.{part}.{kind}"
    assert arch.hf_name("blk.7.nonsense.weight") is None


# ---- damage ----------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def small_file(kind: str) -> bytes:
    """A whole file of a tiny model."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        model = make(from_hf_config(LLAMA | {"num_hidden_layers": 1}))
        if kind == "gguf":
            save_gguf(path, model, tokenizer=tokenizer())
        else:
            save_llama2c(path, model)
        return path.read_bytes()


def header_size(content: bytes) -> int:
    return content.index(b"blk.0.attn_norm.weight") + 400


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """A file cut short, or with some bytes of its header changed."""
    content = bytearray(small_file(kind))
    if draw(st.booleans()):
        return bytes(content[: draw(st.integers(0, len(content) - 1))])
    end = 28 if kind == "llama2c" else header_size(bytes(content))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, end - 1))
        content[place] = draw(st.integers(0, 255))
    return bytes(content)


@pytest.mark.parametrize(("kind", "load"), [("gguf", load_gguf), ("llama2c", load_llama2c)])
def test_damage_is_a_user_error_or_harmless(kind: str, load: Any, tmp_path: Path) -> None:
    """No other exception, no hang, and no memory beyond a few times the file's size."""
    limit = 20 * len(small_file(kind)) + (1 << 20)

    @settings(max_examples=150, deadline=20_000)
    @given(content=damaged(kind))
    def check(content: bytes) -> None:
        path = tmp_path / ("m.gguf" if kind == "gguf" else "m.bin")
        path.write_bytes(content)
        tracemalloc.start()
        refusal = ""
        try:
            model, _ = load(path)
            assert sum(p.numel() * p.element_size() for p in model.parameters()) < 4 * len(content)
        except UserError as error:
            refusal = str(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert "\n" not in refusal
        assert peak < limit, peak

    check()


def rewritten(path: Path, change: dict[str, Any], tensors: dict[str, Any] | None = None) -> None:
    """The tiny file with keys and tensors replaced, or left out where None."""
    path.write_bytes(small_file("gguf"))
    with GGUFFile(path) as file:
        metadata: dict[str, Any] = file.metadata | change
        held = {name: ("F32", file.get(name)) for name in file.tensors} | (tensors or {})
    kinds = [Number("i", kind) for kind in metadata["tokenizer.ggml.token_type"] or []]
    metadata["tokenizer.ggml.token_type"] = kinds
    write_gguf(
        path,
        {key: value for key, value in metadata.items() if value is not None},
        {name: tensor for name, tensor in held.items() if tensor is not None},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"general.architecture": "mpt"},
            r"'general.architecture' = 'mpt' is not known; known: ll",
        ),
        ({"general.architecture": None}, r"lacks 'general.architecture'"),
        ({"llama.block_count": None}, r"lacks 'llama.block_count'"),
        ({"llama.block_count": 10**9}, r"'llama.block_count' = 1000000000, but .* of 1 layers"),
        ({"llama.embedding_length": 2**31}, r"tensor 'token_embd.weight' should be of shape"),
        ({"llama.feed_forward_length": 2**31}, r"tensor 'blk.0.ffn_up.weight' should be of shape"),
        ({"llama.attention.head_count": 0}, r"a size in its 'llama.' keys is not above 0"),
        ({"llama.attention.head_count": "4"}, r"'llama.attention.head_count' = '4' is no int"),
        ({"llama.expert_count": 8}, r"'llama.expert_count' = 8 is not supported"),
        ({"llama.rope.scaling.type": "longrope"}, r"'llama.rope.scaling.type' = 'longrope' is not"),
        ({"llama.logit_scale": 2.0}, r"key 'llama.logit_scale' = 2.0 is not known here"),
        ({"tokenizer.ggml.pre": "tekken"}, r"'tokenizer.ggml.pre' = 'tekken' is not known"),
        ({"tokenizer.ggml.model": "t5"}, r"'tokenizer.ggml.model' = 't5' is not supported"),
        ({"tokenizer.ggml.merges": ["ab"]}, r"'tokenizer.ggml.merges'\[0\] = 'ab' is not two"),
        ({"tokenizer.ggml.eos_token_id": 5000}, r"'tokenizer.ggml.eos_token_id' = 5000 is none"),
        ({"tokenizer.ggml.tokens": None}, r"lacks 'tokenizer.ggml.tokens'"),
    ],
)
def test_wrong_keys_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    rewritten(tmp_path / "m.gguf", change)
    with pytest.raises(UserError, match=message):
        load_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("blk.0.ffn_down.weight", None, r"lacks tensor 'blk.0.ffn_down.weight'; expected it of sh"),
        (
            "blk.0.strange.weight",
            torch.ones(3),
            r"has tensor 'blk.0.strange.weight', found of shape",
        ),
        (
            "blk.0.attn_v.weight",
            torch.ones(9, 24),
            r"'blk.0.attn_v.weight' has the wrong shape: exp",
        ),
        (
            "rope_freqs.weight",
            torch.full((3,), 2.0),
            r"'rope_freqs.weight' stretches positions oth",
        ),
        ("rope_freqs.weight", torch.ones(4), r"'rope_freqs.weight' of shape \(4,\) should hold 3"),
    ],
)
def test_wrong_tensors_are_named(name: str, tensor: Any, message: str, tmp_path: Path) -> None:
    held = None if tensor is None else ("F32", tensor)
    rewritten(tmp_path / "m.gguf", {}, {name: held})
    with pytest.raises(UserError, match=message):
        load_gguf(tmp_path / "m.gguf")


def test_broken_headers(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0)

    def entry(name: bytes, dims: tuple[int, ...], code: int, offset: int) -> bytes:
        place = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offset)
        return struct.pack("<Q", len(name)) + name + place

    two = struct.pack("<4sIQQ", b"GGUF", 3, 2, 0)
    for content, message in (
        (b"", "it begins with b''"),
        (b"PK\x03\x04aaaa", "is no GGUF file"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "is GGUF version 1"),
        (struct.pack("<4sIQQ", b"GGUF", 3 << 24, 0, 0), r"big-endian\?"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0), "counts 1152921504606846976, but 8 bytes"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60), "counts 1152921504606846976, but 0 bytes"),
        (head + entry(b"a", (4, 2**40), 0, 0), "it is truncated"),
        (
            head + entry(b"a", (4, 4), 16, 0) + bytes(99),
            "is of type IQ2_XXS, which is not read; known: F32",
        ),
        (head + entry(b"a", (4, 4), 8, 0) + bytes(99), "rows of a multiple of 32"),
        (head + entry(b"a", (4,), 0, 8) + bytes(99), "begins at 8, which is no multiple of 32"),
        (head + entry(b"a", (1,) * 5, 0, 0) + bytes(99), "has 5 dimensions"),
        (head + entry(b"\xff", (1,), 0, 0) + bytes(99), "is no UTF-8"),
        (two + 2 * entry(b"a", (1,), 0, 0) + bytes(199), "is there twice"),
        (
            two + entry(b"a", (9,), 0, 0) + entry(b"b", (9,), 0, 32) + bytes(199),
            "tensors 'a' and 'b' overlap",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            GGUFFile(path)
        assert str(path) in str(caught.value)
    with pytest.raises(UserError, match="no file"):
        GGUFFile(tmp_path / "none.gguf")


# ---- llama2.c --------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_llama2c_comes_back(tied: bool, tmp_path: Path) -> None:
    config = from_hf_config(LLAMA | {"tie_word_embeddings": tied})
    model = make(config)
    save_llama2c(tmp_path / "m.bin", model)
    again, nothing = load_llama2c(tmp_path / "m.bin")
    assert nothing is None
    assert canonical(again.config) == canonical(config)
    for (name, one), two in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize(
    "words",
    [
        {"rms_norm_eps": 1e-6},
        {"rope_theta": 500.0},
        {"attention_bias": True},
        {"head_dim": 10},
        {"rope_parameters": ROPES["linear"]},
        {"model_type": "qwen2"},
    ],
    ids=str,
)
def test_llama2c_refuses_what_it_cannot_run(words: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"llama2.c runs only Llamas without biases"):
        save_llama2c(tmp_path / "m.bin", make(from_hf_config(LLAMA | words)))
    with pytest.raises(UserError, match=r"tokenizer.bin holds only sentencepiece"):
        save_llama2c(tmp_path / "m.bin", make(from_hf_config(LLAMA)), tokenizer=tokenizer())


def test_same_bits_as_a_folder(tmp_path: Path) -> None:
    """Through GGUF and through a Hugging Face folder, the same weights."""
    from glassbox.formats.huggingface import load_pretrained

    model = make(from_hf_config(CASES["llama odd heads, biases"]))
    save_pretrained(model, tmp_path / "hf")
    save_gguf(tmp_path / "m.gguf", model)
    one, two = load_pretrained(tmp_path / "hf"), load_gguf(tmp_path / "m.gguf")[0]
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
