"""State-space and recurrent families beyond the common checks: states, limits, rescaling, bfloat16."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from glassbox.core.errors import UserError
from glassbox.layers.context import Context
from glassbox.layers.mamba2 import Mamba2, Mamba2Layer
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import family_named, from_hf_config, presets
from support.families import Case, all_cases
from support.parity import difference, ids_of, ours_from, reference

CASES = all_cases()


def with_words(name: str, **words: Any) -> Case:
    return replace(CASES[name], words=CASES[name].words | words)


@torch.no_grad()
def test_rwkv_goes_on_from_a_state_as_theirs_does():
    """Their `generate` loses it, their model does not: prompt, then token by token.

    One row, as their single token steps mix the rows of a batch up.
    """
    theirs = reference(CASES["rwkv"]).eval()
    ours = ours_from(theirs)
    ids = ids_of(CASES["rwkv"], batch=1, length=9)
    state, their_state, start = ours.init_state(1, 9), None, 0
    for chunk in ids.split((5, 1, 1, 1, 1), 1):
        expected = theirs(chunk, state=their_state, use_cache=True)
        their_state = expected.state
        positions = torch.arange(start, start + chunk.shape[1])[None]
        found = ours(chunk, positions=positions, state=state)
        assert difference(found, expected.logits) < 1e-5
        start += chunk.shape[1]
    # num_state, den_state, max_state of the first layer, each (B, D, layers) there
    sums = state[0].mixer.tensors
    for name, theirs_all in zip(
        ("numerator", "denominator", "largest"), their_state[2:], strict=True
    ):
        assert difference(sums[name], theirs_all[:, :, 0]) < 1e-5


@torch.no_grad()
def test_rescaling_of_rwkv_changes_nothing_but_the_weight_of_epsilon():
    """Seven layers, halved every second one: the stream shrinks by 8, its variance by 64."""
    theirs = reference(with_words("rwkv", num_hidden_layers=7, rescale_every=2))
    ours = ours_from(theirs)
    ids = ids_of(CASES["rwkv"])
    assert difference(ours(ids), theirs(ids).logits) < 1e-5  # in training mode nothing is rescaled
    rescaled = theirs.eval()(ids).logits
    assert theirs.rwkv.layers_are_rescaled
    # epsilon is 1e-5; of a variance near 1, divided by 64, that is 6e-4
    assert 1e-6 < difference(ours(ids), rescaled) < 1e-3


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.4), (0.6, 0.9), (0.5, None)])
def test_limits_of_mamba2s_steps(low, high):
    """Against their chunked form alone: their step for step form forgets the limits."""
    config = transformers.Mamba2Config(
        hidden_size=12,
        num_heads=3,
        head_dim=8,
        n_groups=1,
        state_size=4,
        chunk_size=4,
        time_step_limit=(low, float("inf") if high is None else high),
    )
    theirs = Mamba2Mixer(config, 0)
    ours = Mamba2Layer(
        Mamba2(num_heads=3, state_size=4, min_step=low, max_step=high, norm_eps=1e-5), 12
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        names = {
            "step_bias": "dt_bias",
            "rate": "A_log",
            "skip": "D",
            "norm_weight": "norm.weight",
            "input.weight": "in_proj.weight",
            "conv.weight": "conv1d.weight",
            "conv.bias": "conv1d.bias",
            "output.weight": "out_proj.weight",
        }
        weights = dict(theirs.named_parameters())
        ours.load_state_dict({name: weights[there] for name, there in names.items()})
    hidden = torch.randn(2, 11, 12, generator=generator)
    expected = theirs(hidden)
    found = ours(hidden, Context(positions=torch.arange(11)[None]))
    assert difference(found, expected) < 1e-5
    unlimited = Mamba2Layer(Mamba2(num_heads=3, state_size=4), 12)
    unlimited.load_state_dict(ours.state_dict())
    loose = unlimited(hidden, Context(positions=torch.arange(11)[None]))
    assert difference(loose, expected) > 1e-3  # the limits bind


@torch.no_grad()
@pytest.mark.parametrize("name", ["mamba", "mamba2"])
@pytest.mark.parametrize("wide", [True, False])
def test_bfloat16_with_the_residual_stream_in_float32(name, wide):
    case = with_words(name, residual_in_fp32=wide, num_hidden_layers=6)
    theirs = reference(case, torch.bfloat16).eval()
    ours = ours_from(theirs)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    dtypes = set()
    for block in ours.blocks:
        block.register_forward_hook(lambda _, inputs, output: dtypes.add(output.dtype))
    ids = ids_of(case)
    found, expected = ours(ids), theirs(ids).logits
    assert dtypes == {torch.float32 if wide else torch.bfloat16}
    assert found.dtype == torch.bfloat16
    # both round to 2^-9 at every product of six layers, not at the same places
    assert difference(found.float(), expected.float()) < 0.03


@pytest.mark.parametrize(
    ("model_type", "name", "said"),
    [
        ("mamba", "mamba-130m", 130e6),
        ("mamba", "mamba-370m", 370e6),
        ("mamba", "mamba-790m", 790e6),
        ("mamba", "mamba-1.4b", 1.4e9),
        ("mamba", "mamba-2.8b", 2.8e9),
        ("mamba2", "mamba2-130m", 130e6),
        ("mamba2", "mamba2-370m", 370e6),
        ("mamba2", "mamba2-780m", 780e6),
        ("mamba2", "mamba2-1.3b", 1.3e9),
        ("mamba2", "mamba2-2.7b", 2.7e9),
        ("mamba2", "mamba-codestral-7b", 7.3e9),
        ("rwkv", "rwkv-4-169m", 169e6),
        ("rwkv", "rwkv-4-430m", 430e6),
        ("rwkv", "rwkv-4-1b5", 1.5e9),
        ("rwkv", "rwkv-4-3b", 3e9),
        ("rwkv", "rwkv-4-7b", 7.4e9),
        ("rwkv", "rwkv-4-14b", 14e9),
        ("jamba", "jamba-v0.1", 52e9),
        ("jamba", "jamba-1.5-large", 398e9),
    ],
)
def test_presets_have_as_many_parameters_as_theirs_and_as_their_name_says(model_type, name, said):
    config = presets()[name]
    with torch.device("meta"):
        words = family_named(model_type).to_hf_config(config)
        assert words is not None
        theirs = transformers.AutoConfig.for_model(model_type, **words)
        expected = transformers.AutoModelForCausalLM.from_config(theirs).num_parameters()
        assert CausalLM(config).num_parameters == expected
    assert abs(expected / said - 1) < 0.04


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("mamba", {"hidden_act": "gelu"}, "hidden_act"),
        ("mamba2", {"num_heads": 5}, "num_heads"),
        ("mamba2", {"time_step_limit": [0.1]}, "time_step_limit"),
        ("mamba2", {"time_step_limit": ["a", 1.0]}, "time_step_limit"),
        ("mamba2", {"n_groups": 4}, "num_groups = 4"),
        ("rwkv", {"attention_hidden_size": 12}, "attention_hidden_size"),
        ("jamba", {"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_what_cannot_be_followed_is_named(name, words, message):
    raw = {"model_type": name, **CASES[name].words, **words}
    with pytest.raises(UserError, match=message):
        from_hf_config(raw)


def test_limits_survive_the_way_there_and_back_where_json_can_say_them():
    family = family_named("mamba2")
    raw = {"model_type": "mamba2", **CASES["mamba2"].words}
    limited = from_hf_config(raw | {"time_step_limit": [0.1, 0.5]})
    words = family.to_hf_config(limited)
    assert words is not None
    assert words["time_step_limit"] == [0.1, 0.5]
    assert (
        family.to_hf_config(from_hf_config(raw | {"time_step_limit": (0.0, float("inf"))}))
        is not None
    )
    written = {"time_step_limit": [0.0, {"__float__": "Infinity"}]}
    assert from_hf_config(raw | written) == from_hf_config(raw)
    assert (
        family.to_hf_config(from_hf_config(raw | {"time_step_limit": [0.1, float("inf")]})) is None
    )
