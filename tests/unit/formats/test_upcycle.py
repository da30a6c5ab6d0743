"""Upcycling: the same logits at once, experts that can part ways, files that open as Mixtral."""

from __future__ import annotations

import pytest
import torch
import transformers

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.formats.huggingface import load_pretrained, save_pretrained
from glassbox.formats.upcycle import upcycle
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import GeGlu, Gelu, Relu2, SwiGlu
from glassbox.layers.rotary import Rotary
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

IDS = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(0))


def dense(*ffns: object) -> CausalLM:
    torch.manual_seed(0)
    mixer = GroupedQuery(num_heads=2, positions=Rotary())
    blocks = tuple(Repeat(block=BlockSpec(mixer=mixer, ffn=ffn)) for ffn in ffns)
    model = CausalLM(ModelConfig(vocab_size=40, hidden_size=16, context_length=16, blocks=blocks))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases too
    return model.double()


@pytest.mark.parametrize(
    "ffn",
    [
        SwiGlu(size=12),
        SwiGlu(size=12, bias=True),
        GeGlu(size=12, tanh=False),
        Gelu(size=12),
        Relu2(size=12, bias=True),
    ],
    ids=lambda ffn: ffn.kind,
)
@pytest.mark.parametrize("top_k", [1, 3])
def test_the_logits_are_those_of_the_dense_model(ffn, top_k):
    """But for the rounding of a sum of gates that is 1 within 1e-16."""
    model = dense(ffn, ffn)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    experts = upcycle(model, 4, top_k)
    torch.testing.assert_close(experts(IDS), model(IDS), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert model.config.layers()[0].ffn == ffn
    with torch.no_grad():  # a copy, not a view
        experts.blocks[0].ffn.down[0].zero_()
        assert not torch.allclose(experts(IDS), model(IDS))


def test_only_the_layers_that_are_named():
    model = dense(SwiGlu(size=12), None, Gelu(size=10), SwiGlu(size=12))
    experts = upcycle(model, 3, 2, layers=[3, 2])
    kinds = [type(layer.ffn).__name__ for layer in experts.config.layers()]
    assert kinds == ["SwiGlu", "NoneType", "MixtureOfExperts", "MixtureOfExperts"]
    torch.testing.assert_close(experts(IDS), model(IDS), rtol=1e-12, atol=1e-12)


def test_the_copies_part_ways_in_training():
    experts = upcycle(dense(SwiGlu(size=12)), 4, 2, generator=torch.Generator().manual_seed(1))
    loss = experts.cross_entropy(experts.hidden_states(IDS[:, :-1]), IDS[:, 1:])
    loss.backward()
    grad = experts.blocks[0].ffn.gate_up.grad
    assert not torch.allclose(grad[0], grad[1])
    assert float(experts.blocks[0].ffn.router.weight.grad.abs().max()) < 1e-12  # copies are equal
    assert not experts.config.layers()[0].ffn.balance_bias


def test_an_upcycled_llama_is_a_mixtral_that_transformers_opens(tmp_path):
    model = dense(SwiGlu(size=12), SwiGlu(size=12)).float()
    experts = upcycle(model, 4, 2)
    save_pretrained(experts, tmp_path)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(opened).__name__ == "MixtralForCausalLM"
    with torch.no_grad():
        expected = model(IDS)
        torch.testing.assert_close(opened(IDS).logits, expected, rtol=1e-5, atol=1e-5)  # float32
    assert load_pretrained(tmp_path).config == experts.config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 2, "top_k": 3}, "top_k = 3 of num_experts = 2"),
        ({"num_experts": 2, "top_k": 0}, "top_k = 0"),
        ({"num_experts": 2, "top_k": 1, "layers": [2]}, "layer 2 is not one of the model's 2"),
        ({"num_experts": 2, "top_k": 1}, "layer 1 has no feed-forward"),
    ],
)
def test_what_cannot_be_upcycled_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        upcycle(dense(SwiGlu(size=12), None), **arguments)


def test_experts_are_not_upcycled_again():
    with pytest.raises(UserError, match="layer 0 has 'experts'"):
        upcycle(upcycle(dense(SwiGlu(size=12)), 2, 1), 2, 1)
    assert isinstance(upcycle(dense(Gelu(size=4)), 2, 1).config.layers()[0].ffn, MixtureOfExperts)


def test_the_command_writes_a_model_that_opens(tmp_path, capsys):
    model = dense(SwiGlu(size=12)).float()
    save_pretrained(model, tmp_path / "dense")
    with pytest.raises(SystemExit) as ended:
        main(["upcycle", str(tmp_path / "dense"), str(tmp_path / "out"), "--experts", "3"])
    assert ended.value.code == 0
    assert "parameters became" in capsys.readouterr().err
    opened = load_pretrained(tmp_path / "out")
    assert opened.config.layers()[0].ffn.num_experts == 3
    with torch.no_grad():
        torch.testing.assert_close(opened(IDS), model(IDS))
    with pytest.raises(SystemExit) as ended:
        main(["upcycle", str(tmp_path / "dense"), str(tmp_path / "no"), "--top_k", "9"])
    assert ended.value.code == 2
    assert "top_k = 9 of num_experts = 8" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
