"""Linear attention kinds against transformers, and against their papers where it has none."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import MiniMaxConfig, Qwen3NextConfig
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextGatedDeltaNet,
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from glassbox.core.errors import UserError
from glassbox.layers.context import Context
from glassbox.layers.delta_net import DeltaNetLayer, GatedDelta
from glassbox.layers.gated_attention_unit import GatedAttentionUnit, GatedAttentionUnitLayer
from glassbox.layers.lightning import Lightning, LightningAttention
from glassbox.layers.retention import Retention, RetentionLayer
from glassbox.models.families import from_hf_config
from glassbox.ops.delta_rule import delta_rule, delta_rule_plain, l2_norm
from support.families.minimax import CASES
from support.parity import EXACT, InFloat64, difference


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def randomize(module, std=0.3):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            around = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.copy_(around + std * torch.randn(parameter.shape, generator=generator))


def context(length):
    return Context(positions=torch.arange(length)[None])


def same(found, expected, name="output", tolerance=EXACT):
    """Within the tolerance of the largest entry."""
    assert found.dtype == expected.dtype == torch.float64
    assert float(expected.abs().max()) > 0, name
    assert difference(found, expected) <= tolerance, name


def compare(ours, theirs, pairs, hidden, tolerance=EXACT, **given):
    """Outputs, and the gradients of inputs and weights. pairs: ours -> theirs, by function of a dict."""
    mine, other = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    found = ours(mine, context(hidden.shape[1]))
    with InFloat64():
        expected = theirs(other, **given)
    if isinstance(expected, tuple):
        expected = expected[0]
    same(found, expected, tolerance=tolerance)
    weights = normal(*found.shape, seed=5)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    same(mine.grad, other.grad, "hidden", tolerance)
    mapped = pairs({name: parameter.grad for name, parameter in theirs.named_parameters()})
    grads = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert grads.keys() == mapped.keys()
    for name, grad in mapped.items():
        same(grads[name], grad, name, tolerance)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("theirs", [torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule])
@pytest.mark.parametrize("ours", [delta_rule, delta_rule_plain])
def test_gated_delta_rule(ours, theirs, groups):
    """Lengths that no chunk divides, a state in and out, key heads that several value heads share."""
    length = 70
    inputs = [
        normal(2, length, 2, 5, seed=1),
        normal(2, length, 2, 5, seed=2),
        normal(2, length, 2 * groups, 4, seed=3),
        -normal(2, length, 2 * groups, seed=4).exp(),
        normal(2, length, 2 * groups, seed=5).sigmoid(),
        normal(2, 2 * groups, 5, 4, seed=6),
    ]
    results = []
    for mine in (True, False):
        q, k, v, g, beta, state = given = [x.clone().requires_grad_() for x in inputs]
        if mine:
            out, last = ours(l2_norm(q) / math.sqrt(5), l2_norm(k), v, beta, g, state)
        else:
            # some versions of theirs leave it to the layer to repeat the key heads
            q, k = (x.repeat_interleave(groups, 2) for x in (q, k))
            with InFloat64():
                out, last = theirs(
                    q, k, v, g=g, beta=beta, initial_state=state,
                    output_final_state=True, use_qk_l2norm_in_kernel=True,
                )  # fmt: skip
        loss = (out * normal(*out.shape, seed=7)).sum() + (last * normal(*last.shape, seed=8)).sum()
        results.append([out, last, *torch.autograd.grad(loss, given)])
    for found, expected in zip(*results, strict=True):
        same(found, expected)


@pytest.mark.parametrize(("key_heads", "heads"), [(2, 6), (3, 3), (1, 2)])
def test_gated_delta_net_is_qwen3_nexts(key_heads, heads):
    config = Qwen3NextConfig(
        hidden_size=12,
        num_hidden_layers=4,
        linear_key_head_dim=4,
        linear_value_head_dim=5,
        linear_num_key_heads=key_heads,
        linear_num_value_heads=heads,
        linear_conv_kernel_dim=3,
        rms_norm_eps=1e-3,
    )
    with InFloat64():
        theirs = Qwen3NextGatedDeltaNet(config, 0)
    randomize(theirs)
    spec = GatedDelta(
        num_heads=heads, num_key_heads=key_heads, key_dim=4, value_dim=5, conv_taps=3, norm_eps=1e-3
    )
    ours = DeltaNetLayer(spec, 12).double()
    groups = heads // key_heads

    def mapped(names):
        inputs = names["in_proj_qkvz.weight"].view(key_heads, -1, 12)
        parts = inputs.split((4, 4, groups * 5, groups * 5), 1)
        rates = names["in_proj_ba.weight"].view(key_heads, -1, 12).split(groups, 1)
        return {
            "inputs.weight": torch.cat([part.reshape(-1, 12) for part in parts]),
            "rates.weight": torch.cat([part.reshape(-1, 12) for part in rates]),
            "conv.weight": names["conv1d.weight"],
            "forgetting.log_rate": names["A_log"],
            "forgetting.time_bias": names["dt_bias"],
            "norm.weight": names["norm.weight"],
            "output.weight": names["out_proj.weight"],
        }

    ours.load_state_dict(mapped(theirs.state_dict()))
    compare(ours, theirs, mapped, normal(2, 70, 12, seed=1))


@pytest.mark.parametrize(("heads", "layer"), [(3, 0), (4, 3)])
def test_lightning_attention_is_minimaxs(heads, layer):
    config = MiniMaxConfig(
        hidden_size=12, num_hidden_layers=6, num_attention_heads=heads, head_dim=6, block_size=16
    )
    with InFloat64():
        theirs = MiniMaxLightningAttention(config, layer)
    randomize(theirs)
    spec = Lightning(num_heads=heads, head_dim=6, rate_scale=1 - layer / (5 + 1e-5) + 1e-5)
    ours = LightningAttention(spec, 12).double()

    def mapped(names):
        return {
            "qkv.weight": names["qkv_proj.weight"],
            "gate.weight": names["output_gate.weight"],
            "norm.weight": names["norm.weight"],
            "output.weight": names["out_proj.weight"],
        }

    ours.load_state_dict(mapped(theirs.state_dict()))
    given = {"position_embeddings": None, "attention_mask": None}
    compare(ours, theirs, mapped, normal(2, 70, 12, seed=1), **given)


def test_minimax_words_that_transformers_does_not_read_or_we_do_not_build():
    words = dict(CASES["minimax"].words, model_type="minimax")
    for told in ({"rotary_dim": 2}, {"partial_rotary_factor": 1 / 3}):
        mixer = from_hf_config({**words, **told}).layers()[0].mixer
        assert mixer.positions.num_channels(6) == 2
    with pytest.raises(UserError, match=r"mlp_alpha_factor.*must be equal"):
        from_hf_config({**words, "mlp_alpha_factor": 2.0})
    with pytest.raises(UserError, match=r"layer_types.*for each of 4 layers"):
        from_hf_config({**words, "layer_types": ["linear_attention"]})


class PaperRetention(RetentionLayer):
    """arXiv:2307.08621's parallel form (equations 5 and 8) with its section 2.1's normalizations."""

    def forward(self, hidden, context=None):
        heads, length = self.spec.num_heads, hidden.shape[1]
        q, k, v, gate = self.qkvg(hidden).split((self.sizes[0] // 2,) * 2 + self.sizes[1:], -1)
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        theta = 10000.0 ** -(torch.arange(0, self.key_dim, 2) / self.key_dim)
        turn = torch.polar(
            torch.ones(length, self.key_dim // 2, dtype=torch.float64),
            torch.arange(length)[:, None] * theta.double(),
        )
        q, k = (
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)
            for x in (q, k)
        )
        gamma = 1 - 2.0 ** (-5 - torch.arange(heads, dtype=torch.float64))
        distance = torch.arange(length)[:, None] - torch.arange(length)
        decay = torch.where(distance >= 0, gamma[:, None, None] ** distance, 0.0)
        decay = decay / decay.sum(-1, keepdim=True).sqrt()
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.key_dim) * decay
        scores = scores / scores.sum(-1, keepdim=True).abs().clamp(min=1)
        mixed = (scores @ v).transpose(1, 2)  # (B, T, H, Dv)
        mixed = mixed / mixed.pow(2).mean(-1, keepdim=True).sqrt() * self.norm.weight
        return self.output(F.silu(gate) * mixed.flatten(2))


def test_retention_is_the_papers_whose_normalizations_cancel():
    spec = Retention(num_heads=3, key_dim=4, value_dim=7, norm_eps=1e-30)
    ours, theirs = RetentionLayer(spec, 12).double(), PaperRetention(spec, 12).double()
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict())
    # float32 angles on our side, as everywhere in the library: 70 positions times 6e-8
    compare(ours, theirs, dict, normal(2, 70, 12, seed=1), 2e-5)


class PaperFlash(GatedAttentionUnitLayer):
    """arXiv:2202.10447's mixed chunk attention, chunk after chunk, with an exclusive running sum."""

    def forward(self, hidden, context=None):
        u, v, z = F.silu(self.uvz(hidden)).split((self.size, self.size, self.spec.key_dim), -1)
        quad_q, quad_k, lin_q, lin_k = (
            z * a + b for a, b in zip(self.factor, self.shift, strict=True)
        )
        size, outputs, total = self.spec.chunk, [], 0.0
        for start in range(0, hidden.shape[1], size):
            here = slice(start, start + size)
            place = torch.arange(v[:, here].shape[1])
            distance = place[:, None] - place
            scores = quad_q[:, here] @ quad_k[:, here].mT / size + self.distance[distance.clamp(0)]
            quadratic = (scores.relu() ** 2).tril() @ v[:, here]
            outputs.append(quadratic + (lin_q[:, here] @ total if start else 0.0))
            total = total + lin_k[:, here].mT @ v[:, here] / size
        return self.output(u * torch.cat(outputs, 1))


@pytest.mark.parametrize("chunk", [16, 70])
def test_gated_attention_unit_is_the_papers(chunk):
    spec = GatedAttentionUnit(size=9, key_dim=6, chunk=chunk, positions=None)
    ours, theirs = (kind(spec, 12).double() for kind in (GatedAttentionUnitLayer, PaperFlash))
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict())
    compare(ours, theirs, dict, normal(2, 70, 12, seed=1))
