"""What layers say of their parameters: which decay spares, and which are several matrices in one."""

from __future__ import annotations

import typing

import pytest
import torch

from glassbox.core.plugins import PythonSpec
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.parameter_roles import FusedRows, fused_rows, undecayed
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, FeedForward, ModelConfig, Repeat
from glassbox.models.families import FAMILIES
from glassbox.optim.groups import decay_groups, spared_by_decay
from support.mixers import SIZE, all_mixers, as_it_comes, mixer_kinds

# of more than one axis, and yet no matrix between hidden vectors: what the authors' code exempts
SPARED: dict[str, set[str]] = {
    "grouped_query": set(),
    "latent": set(),
    "native_sparse": {"key_summary.position", "value_summary.position"},
    "block_mixture": set(),
    "gated_attention_unit": {"factor", "shift"},
    "lightning": set(),
    "retention": set(),
    "delta_net": {"conv.weight"},
    "gated_delta": {"conv.weight"},
    "mamba": {"rate", "conv.weight"},
    "mamba2": {"conv.weight"},
    "rwkv_time": set(),
    "python": set(),
    "rwkv7_time": {"mix", "bonus"}
    | {
        f"{part}.{side}.weight"
        for part in ("decay", "rate", "gate", "follow")
        for side in ("down", "up")
    },
    "gelu": set(),
    "swiglu": set(),
    "geglu": set(),
    "clamped_swiglu": set(),
    "relu2": set(),
    "experts": {"gate_up_bias", "down_bias"},
    "rwkv_channel": set(),
    "rwkv7_channel": set(),
}
# vectors that decay must spare whatever rule is made for vectors
DECLARED_VECTORS = {
    "mamba": {"rate", "skip", "step_bias"},
    "mamba2": {"rate", "skip", "step_bias"},
    "gated_delta": {"forgetting.log_rate", "forgetting.time_bias"},
    "rwkv_time": {"decay", "bonus", "mix_key", "mix_value", "mix_receptance"},
    "rwkv7_time": {"mix", "bonus", "removal", "replacement", "decay.base", "rate.base"},
}
PIECES: dict[str, dict[str, set[int]]] = {
    "grouped_query": {"qkv.weight": {3, 4}},
    "latent": {"q_up.weight": {2}, "kv_down.weight": {2}, "kv_up.weight": {2}},
    "native_sparse": {"qkv.weight": {7}},
    "block_mixture": {"qkv.weight": {3}},
    "gated_attention_unit": {"uvz.weight": {3}},
    "lightning": {"qkv.weight": {3}},
    "retention": {"qkvg.weight": {4}},
    "delta_net": {"inputs.weight": {3}, "rates.weight": {1}},
    "gated_delta": {"inputs.weight": {4}, "rates.weight": {2}},
    "mamba": {"input.weight": {2}, "select.weight": {3}},
    "mamba2": {"input.weight": {5}},
    "rwkv_time": {},
    "rwkv7_time": {},
    "python": {},
    "gelu": {},
    "swiglu": {"gate_up.weight": {2}},
    "geglu": {"gate_up.weight": {2}},
    "clamped_swiglu": {"gate_up.weight": {2}},
    "relu2": {},
    "experts": {"gate_up": {2}},
    "rwkv_channel": {},
    "rwkv7_channel": {},
}


def ffn_kinds():
    union, *_ = typing.get_args(FeedForward)
    # the user's own have tests of their own
    return [kind for kind in typing.get_args(union) if not issubclass(kind, PythonSpec)]


def feed_forwards():
    experts = MixtureOfExperts(num_experts=3, top_k=2, expert=SwiGlu(size=6, bias=True))
    return {
        kind.__name__: experts if kind is MixtureOfExperts else as_it_comes(kind)
        for kind in ffn_kinds()
    }


SPECS = {**all_mixers(), **feed_forwards()}


def test_the_tables_name_every_kind():
    kinds = {kind.model_fields["kind"].default for kind in (*mixer_kinds(), *ffn_kinds())}
    assert kinds == SPARED.keys() == PIECES.keys()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_decay_spares_what_the_authors_exempt(spec):
    layer = spec.build(SIZE)
    named = dict(layer.named_parameters())
    groups = decay_groups(named.items(), 0.1, spared=spared_by_decay(layer))
    decays = {name: group.weight_decay > 0 for group in groups for name in group.parameters}
    spared = {name for name, parameter in named.items() if parameter.dim() > 1 and not decays[name]}
    assert spared == SPARED[spec.kind] & named.keys()
    assert not any(decays[name] for name, parameter in named.items() if parameter.dim() < 2)
    assert undecayed(layer) >= DECLARED_VECTORS.get(spec.kind, set())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_fused_matrices_divide_without_a_rest(spec):
    layer = spec.build(SIZE)
    found = fused_rows(layer)
    assert found.keys() == PIECES[spec.kind].keys() & dict(layer.named_parameters()).keys()
    for name, rows in found.items():
        weight = torch.randn(layer.get_parameter(name).shape)
        assert rows.groups * sum(rows.sizes) == weight.shape[-2]
        parts = rows.split(weight)
        assert len(parts) in PIECES[spec.kind][name]
        assert torch.equal(rows.join(parts), weight)


def test_a_split_of_rows_by_head():
    rows = FusedRows((2, 1), groups=2)
    one, two = rows.split(torch.arange(12).view(6, 2))
    assert one[:, 0].tolist() == [0, 2, 6, 8]
    assert two[:, 0].tolist() == [4, 10]


def test_the_pieces_are_the_matrices_of_the_files():
    """q, k, v, gate and up as another library has them, each by itself."""
    spec = all_mixers()["grouped"]
    block = BlockSpec(mixer=spec, ffn=SwiGlu(size=8))
    config = ModelConfig(
        vocab_size=11,
        hidden_size=SIZE,
        context_length=16,
        blocks=(Repeat(block=block, times=1),),
        tie_embeddings=False,
    )
    model = CausalLM(config)
    fused = fused_rows(model)
    checked = 0
    for family in FAMILIES:
        if family.to_hf_config(config) is None:
            continue
        for rule in family.rules(config):
            if rule.ours in fused and len(rule.theirs) > 1:
                weight = model.get_parameter(rule.ours).detach()
                theirs = list(rule.split(weight).values())
                ours = fused[rule.ours].split(weight)
                assert len(theirs) == len(ours)
                assert all(any(torch.equal(a, b) for b in ours) for a in theirs)
                checked += 1
    assert checked >= 2
