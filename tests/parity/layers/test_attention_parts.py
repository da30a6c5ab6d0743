"""The parts of softmax attention against transformers' own modules and functions, outputs and gradients.

The modules work in float64, but for what transformers always computes in float32: norms, softmaxes,
and the angles of rotary positions. So the tolerance is float32's, 2e-5.
"""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    BloomConfig,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    Olmo2Config,
    Qwen3Config,
)
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
from transformers.models.gemma2.modeling_gemma2 import (
    Gemma2Attention,
    Gemma2RMSNorm,
    Gemma2RotaryEmbedding,
)
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssRotaryEmbedding
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRotaryEmbedding,
)
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention, Olmo2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding

from glassbox.layers.attention import GroupedQuery, GroupedQueryAttention
from glassbox.layers.context import Context
from glassbox.layers.norms import RmsNorm
from glassbox.layers.rotary import (
    Alibi,
    DynamicNtk,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    NtkScaling,
    Rotary,
    YarnScaling,
)
from glassbox.ops.attention import alibi_slopes
from glassbox.ops.norms import rms_norm
from glassbox.ops.sinusoidal import sinusoidal

SIZE, LENGTH = 24, 150  # more than two blocks of queries
FLOAT32 = {"rtol": 2e-5, "atol": 2e-6}
SHARED = {
    "hidden_size": SIZE,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "vocab_size": 11,
    "max_position_embeddings": 512,
    "attn_implementation": "eager",
}


def seen(window: int | None) -> torch.Tensor:
    """Their mask: zero where a query looks and -inf elsewhere, written pair by pair."""
    rows = torch.full((LENGTH, LENGTH), -math.inf, dtype=torch.float64)
    for i in range(LENGTH):
        rows[i, 0 if window is None else max(0, i - window + 1) : i + 1] = 0
    return rows[None, None]


def draw(module: torch.nn.Module) -> None:
    for index, parameter in enumerate(module.parameters()):
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * 0.4)


def their_parameters(theirs: torch.nn.Module) -> list[tuple[str, tuple[str, ...]]]:
    """Ours, and theirs under one another, of what their module has."""
    names = [
        ("qkv.weight", ("q_proj.weight", "k_proj.weight", "v_proj.weight")),
        ("qkv.bias", ("q_proj.bias", "k_proj.bias", "v_proj.bias")),
        ("output.weight", ("o_proj.weight",)),
        ("output.bias", ("o_proj.bias",)),
        ("q_norm.weight", ("q_norm.weight",)),
        ("k_norm.weight", ("k_norm.weight",)),
        ("sinks", ("sinks",)),
    ]
    present = dict(theirs.named_parameters())
    return [(ours, parts) for ours, parts in names if parts[0] in present]


def same_up_to_size(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Gradients are sums of many terms that cancel: an error is judged against the largest entry."""
    size = float(theirs.abs().max())
    torch.testing.assert_close(ours / size, theirs / size, **FLOAT32)


def compare(ours, theirs, tables, window):
    """Outputs, and the gradients of the input and of every parameter."""
    ours, theirs = ours.double(), theirs.double()
    draw(theirs)
    given = dict(theirs.named_parameters())
    pairs = their_parameters(theirs)
    ours.load_state_dict({
        name: torch.cat([given[part] for part in parts]) for name, parts in pairs
    })  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, LENGTH, SIZE, generator=generator, dtype=torch.float64)
    upstream = torch.randn(2, LENGTH, SIZE, generator=generator, dtype=torch.float64)
    mine, other = (hidden.clone().requires_grad_() for _ in range(2))
    a = ours(mine, Context(positions=torch.arange(LENGTH)[None]))
    b, _ = theirs(
        other, position_embeddings=tables, attention_mask=seen(window).expand(2, -1, -1, -1)
    )
    a.backward(upstream)
    b.backward(upstream)
    torch.testing.assert_close(a, b, **FLOAT32)
    same_up_to_size(mine.grad, other.grad)
    our_grads = dict(ours.named_parameters())
    assert our_grads.keys() == {name for name, _ in pairs}
    for name, parts in pairs:
        grad = torch.cat([given[part].grad for part in parts])
        same_up_to_size(our_grads[name].grad, grad)


def tables_of(embedding: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    like = torch.zeros(1, dtype=torch.float64)
    return embedding(like, torch.arange(LENGTH)[None])


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_qk_norm_over_heads_is_qwen3s(kv_heads):
    config = Qwen3Config(
        **SHARED, num_attention_heads=4, num_key_value_heads=kv_heads, head_dim=8, rms_norm_eps=1e-5
    )
    spec = GroupedQuery(
        num_heads=4, num_kv_heads=kv_heads, head_dim=8, positions=Rotary(), qk_norm=RmsNorm()
    )
    compare(
        GroupedQueryAttention(spec, SIZE),
        Qwen3Attention(config, 0),
        tables_of(Qwen3RotaryEmbedding(config)),
        None,
    )


def test_qk_norm_over_all_channels_is_olmo2s():
    config = Olmo2Config(**SHARED, num_attention_heads=6, num_key_value_heads=3, rms_norm_eps=1e-5)
    spec = GroupedQuery(
        num_heads=6, num_kv_heads=3, positions=Rotary(), qk_norm=RmsNorm(), qk_norm_over="all"
    )
    compare(
        GroupedQueryAttention(spec, SIZE),
        Olmo2Attention(config, 0),
        tables_of(Olmo2RotaryEmbedding(config)),
        None,
    )


@pytest.mark.parametrize("window", [None, 20])
def test_soft_cap_scale_and_window_are_gemma2s(window):
    config = Gemma2Config(
        **SHARED, num_attention_heads=3, num_key_value_heads=1, head_dim=8,
        query_pre_attn_scalar=17, attn_logit_softcapping=1.5, sliding_window=20,
    )  # fmt: skip
    spec = GroupedQuery(
        num_heads=3, num_kv_heads=1, head_dim=8, positions=Rotary(), scale=17**-0.5, softcap=1.5,
        window=window,
    )  # fmt: skip
    compare(
        GroupedQueryAttention(spec, SIZE),
        Gemma2Attention(config, 0),
        tables_of(Gemma2RotaryEmbedding(config)),
        window,
    )


@pytest.mark.parametrize("window", [None, 20])
def test_sinks_and_yarn_are_gpt_oss(window):
    rope = {
        "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0,
        "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 16,
    }  # fmt: skip
    config = GptOssConfig(
        **SHARED, num_attention_heads=4, num_key_value_heads=2, head_dim=6, rope_parameters=rope,
        attention_bias=True,
    )  # fmt: skip
    scaling = YarnScaling(factor=32, original_length=16, truncate=False)
    spec = GroupedQuery(
        num_heads=4, num_kv_heads=2, head_dim=6, window=window, sinks=True, qkv_bias=True,
        output_bias=True, positions=Rotary(base=150000.0, scaling=scaling),
    )  # fmt: skip
    compare(
        GroupedQueryAttention(spec, SIZE),
        GptOssAttention(config, 0),
        tables_of(GptOssRotaryEmbedding(config)),
        window,
    )


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 16, 20, 112])
def test_alibi_slopes_are_blooms(heads):
    theirs = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), heads, torch.float32)
    torch.testing.assert_close(alibi_slopes(heads), theirs[:, 0, 1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("heads", [4, 3])
def test_alibi_is_blooms(heads):
    config = BloomConfig(
        hidden_size=SIZE, n_head=heads, hidden_dropout=0.0, attention_dropout=0.0, vocab_size=11
    )
    theirs = BloomAttention(config, 0).double()
    draw(theirs)
    ours = GroupedQueryAttention(
        GroupedQuery(num_heads=heads, positions=Alibi(), qkv_bias=True, output_bias=True), SIZE
    ).double()
    theirs_qkv = theirs.query_key_value  # head by head q, k, v; ours all q, all k, all v

    def regroup(x):
        return x.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)

    ours.load_state_dict({
        "qkv.weight": regroup(theirs_qkv.weight.data),
        "qkv.bias": regroup(theirs_qkv.bias.data),
        "output.weight": theirs.dense.weight.data,
        "output.bias": theirs.dense.bias.data,
    })  # fmt: skip
    hidden = torch.randn(2, LENGTH, SIZE, generator=torch.Generator().manual_seed(0)).double()
    mine, other = (hidden.clone().requires_grad_() for _ in range(2))
    a = ours(mine, Context(positions=torch.arange(LENGTH)[None]))
    b, _ = theirs(
        other,
        torch.zeros_like(hidden),
        build_alibi_tensor(torch.ones(2, LENGTH, dtype=torch.long), heads, torch.float64),
        seen(None),
    )
    torch.testing.assert_close(a, b, **FLOAT32)
    upstream = torch.linspace(-1, 1, a.numel()).double().reshape(a.shape)
    a.backward(upstream)
    b.backward(upstream)
    same_up_to_size(mine.grad, other.grad)
    same_up_to_size(ours.qkv.weight.grad, regroup(theirs_qkv.weight.grad))


def test_single_head_attention_is_llamas_of_one_head():
    config = LlamaConfig(**SHARED, num_attention_heads=1, num_key_value_heads=1)
    compare(
        GroupedQueryAttention(GroupedQuery(num_heads=1, positions=Rotary()), SIZE),
        LlamaAttention(config, 0),
        tables_of(LlamaRotaryEmbedding(config)),
        None,
    )


def rope_config(words: dict[str, object], base: float, head_dim: int = 32) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
        max_position_embeddings=4096, rope_parameters={"rope_theta": base, **words},
    )  # fmt: skip


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}
SCALINGS = {
    "none": (None, {"rope_type": "default"}),
    "linear": (LinearScaling(factor=4), {"rope_type": "linear", "factor": 4.0}),
    "llama3": (
        Llama3Scaling(factor=8, original_length=1024),
        {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
    ),
    "llama3, other ends": (
        Llama3Scaling(factor=32, original_length=500, low_freq_factor=2, high_freq_factor=16),
        {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 16.0,
            "original_max_position_embeddings": 500,
        },
    ),
    "yarn": (YarnScaling(factor=8, original_length=512), YARN),
    "yarn, DeepSeek's mscales": (
        YarnScaling(factor=8, original_length=512, mscale=0.7, mscale_all_dim=1.3),
        {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    ),
    "yarn, one mscale": (
        YarnScaling(factor=8, original_length=512, mscale=0.7), {**YARN, "mscale": 0.7}
    ),
    "yarn, own temperature": (
        YarnScaling(factor=8, original_length=512, attention_factor=1.5),
        {**YARN, "attention_factor": 1.5},
    ),
    "yarn, untruncated, other betas": (
        YarnScaling(factor=8, original_length=512, beta_fast=20, beta_slow=3, truncate=False),
        {**YARN, "beta_fast": 20.0, "beta_slow": 3.0, "truncate": False},
    ),
    "yarn, a ramp of no width": (
        YarnScaling(factor=2, original_length=6),
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize(("scaling", "words"), SCALINGS.values(), ids=SCALINGS.keys())
def test_stretched_rotary_positions_are_transformers(scaling, words, base):
    config = rope_config(words, base)
    positions = torch.tensor([[0, 1, 2, 3, 100, 777, 2047, 4095], [5, 9, 0, 0, 1, 4000, 8, 9]])
    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    ours = Context(positions=positions).rotary(32, base, scaling)
    for mine, other in zip(ours, theirs, strict=True):
        # angles up to 4095 in float32, made of frequencies that round differently: 4095 * 2^-23
        torch.testing.assert_close(mine[:, :, 0], other[..., :16], rtol=1e-5, atol=1.5e-3)
        torch.testing.assert_close(mine[:, :5, 0], other[:, :5, :16], rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("attention_factor", [None, 1.25])
@pytest.mark.parametrize("long", [True, False])
def test_longrope_is_transformers_on_its_side_of_the_original_length(long, attention_factor):
    short_factor, long_factor = (
        torch.linspace(1, 2, 16).tolist(),
        torch.linspace(1, 40, 16).tolist(),
    )
    words = {
        "rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 512,
        "short_factor": short_factor, "long_factor": long_factor,
        "attention_factor": attention_factor,
    }  # fmt: skip
    scaling = LongRope(
        factor=8, original_length=512, short_factor=short_factor, long_factor=long_factor,
        long=long, attention_factor=attention_factor,
    )  # fmt: skip
    positions = torch.tensor([[0, 1, 2, 300, 512 if long else 511]])
    theirs = LlamaRotaryEmbedding(rope_config(words, 10000.0))(torch.zeros(1), positions)
    ours = Context(positions=positions).rotary(32, 10000.0, scaling)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine[:, :, 0], other[..., :16], rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("head_dim", [32, 2])
def test_dynamic_ntk_is_transformers_given_token_by_token(head_dim):
    """They turn all tokens of a call by the length it ends with; we each one by the length it ends."""
    words = {"rope_type": "dynamic", "factor": 3.0}
    if head_dim == 2:  # theirs divides by zero: one pair, whose angle no base moves
        scaling = DynamicNtk(factor=3, original_length=16)
        cos, _ = Context(positions=torch.tensor([[99]])).rotary(2, 100.0, scaling)
        assert float(cos) == pytest.approx(math.cos(99.0), abs=1e-4)
        return
    config = rope_config(words, 10000.0, head_dim)
    config.max_position_embeddings = 16
    embedding = LlamaRotaryEmbedding(config)
    scaling = DynamicNtk(factor=3, original_length=16)
    ours = Context(positions=torch.arange(100)[None]).rotary(head_dim, 10000.0, scaling)
    for place in range(100):
        theirs = embedding(torch.zeros(1), torch.tensor([[place]]))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                mine[:, place, 0], other[0, :, : head_dim // 2], rtol=1e-5, atol=5e-5
            )


def test_static_ntk_is_the_dynamic_one_of_its_full_length():
    """transformers' formula at l = factor L, where s l / L - (s - 1) is to be the wanted factor."""
    wanted, original = 2.5, 64
    length = int(original * (wanted + 1) / 2)  # with their factor 2: 2 l / L - 1 = 2.5
    config = rope_config({"rope_type": "dynamic", "factor": 2.0}, 10000.0)
    config.max_position_embeddings = original
    embedding = LlamaRotaryEmbedding(config)
    theirs = embedding(torch.zeros(1), torch.arange(length)[None])
    ours = Context(positions=torch.arange(length)[None]).rotary(
        32, 10000.0, NtkScaling(factor=wanted)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine[:, :, 0], other[..., :16], rtol=1e-5, atol=5e-5)


def test_norm_of_one_plus_w_is_gemmas():
    theirs = Gemma2RMSNorm(SIZE, eps=1e-6)
    draw(theirs)
    x = torch.randn(3, 5, SIZE, generator=torch.Generator().manual_seed(0))
    mine, other = (x.clone().requires_grad_() for _ in range(2))
    weight = theirs.weight.detach().clone().requires_grad_()
    a, b = rms_norm(mine, weight, 1e-6, offset=True), theirs(other)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    a.pow(3).sum().backward()
    b.pow(3).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)
    rough = x.bfloat16()
    assert torch.equal(rms_norm(rough, weight, 1e-6, offset=True), theirs(rough).bfloat16())


def test_sinusoidal_positions_are_distilberts():
    theirs = torch.empty(200, SIZE)
    create_sinusoidal_embeddings(200, SIZE, theirs)
    # theirs are made in float64; ours of float32 angles up to 199
    torch.testing.assert_close(sinusoidal(torch.arange(200), SIZE), theirs, rtol=0, atol=3e-5)
