"""Whole models with running states through the engine: unequal prompts, samples, rows that leave."""

from __future__ import annotations

import pytest
import torch

from glassbox.inference.engine import Engine
from glassbox.inference.plain import generate_plain
from glassbox.inference.sampling.params import SamplingParams
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.delta_net import DeltaNet
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.gated_attention_unit import GatedAttentionUnit
from glassbox.layers.retention import Retention
from glassbox.layers.rotary import Rotary
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.models.families import presets
from glassbox.models.family import repeats


def hybrid() -> ModelConfig:
    """One layer of each kind that no family has, and one of attention among them."""
    mixers = [
        Retention(num_heads=2),
        GatedAttentionUnit(size=24, key_dim=6, chunk=4),
        GroupedQuery(num_heads=2, positions=Rotary(), window=3),
        DeltaNet(num_heads=2),
    ]
    layers = [
        BlockSpec(
            mixer=mixer, ffn=None if isinstance(mixer, GatedAttentionUnit) else SwiGlu(size=24)
        )
        for mixer in mixers
    ]
    return ModelConfig(vocab_size=23, hidden_size=16, context_length=40, blocks=repeats(layers))


def drawn(config: ModelConfig) -> CausalLM:
    """Random in float64, where batch shapes cannot tip a choice by their rounding."""
    model = CausalLM(config.model_copy(update={"vocab_size": 23})).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at initialisation: choices vary
            parameter.normal_(std=0.3, generator=generator)
    return model


@pytest.mark.parametrize(
    "config",
    [hybrid(), presets()["qwen3-next-tiny"], presets()["minimax-tiny"]],
    ids=["hybrid", "qwen3-next", "minimax"],
)
def test_engine_equals_plain_generation(config):
    model = drawn(config)
    prompts = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11]]
    params = [
        SamplingParams(max_tokens=count, temperature=0.9, seed=count, n=2) for count in (9, 3, 12)
    ]
    for completion in Engine(model, max_batch=4).generate(prompts, params):
        index = completion.prompt_index
        expected = generate_plain(
            model, prompts[index], params[index], sample=completion.sample_index
        )
        assert completion.token_ids == expected
        assert len(set(expected)) > 1


def test_memory_does_not_grow_with_length_but_for_the_layers_of_attention():
    short, long = (drawn(hybrid()).init_state(1, length) for length in (10, 1000))
    assert [state.cache_bytes for state in short] == [state.cache_bytes for state in long]
    model = drawn(presets()["qwen3-next-tiny"])
    short, long = model.init_state(1, 10), model.init_state(1, 1000)
    grown = [a.cache_bytes < b.cache_bytes for a, b in zip(short, long, strict=True)]
    assert grown == [False, False, False, True]


def test_a_repeat_of_a_linear_layer_is_a_config_like_any_other():
    block = BlockSpec(mixer=DeltaNet(num_heads=4), ffn=SwiGlu(size=24))
    config = ModelConfig(
        vocab_size=23, hidden_size=16, context_length=8, blocks=(Repeat(block=block, times=2),)
    )
    assert ModelConfig.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValueError, match="hidden_size = 18 is no multiple of 4 heads"):
        ModelConfig.model_validate({**config.model_dump(mode="json"), "hidden_size": 18})
