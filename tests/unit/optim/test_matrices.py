"""Which parameters are Muon's: matrices between layers, whatever the blocks are made of."""

from __future__ import annotations

import torch

from glassbox.adapters.attach import attach
from glassbox.adapters.base import BaseModel
from glassbox.adapters.specs import Lora
from glassbox.core.config import parse
from glassbox.layers.linear import Linear
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.optim.matrices import hidden_matrices
from glassbox.optim.muon import Muon, MuonConfig, Together
from support.mixers import SIZE, all_mixers

EXPERTS = {
    "kind": "experts",
    "num_experts": 4,
    "top_k": 2,
    "expert": {"kind": "swiglu", "size": 6, "bias": True},
    "shared": 5,
}


def model_of(mixers: list, **changes: object) -> CausalLM:
    swiglu = {"kind": "swiglu", "size": 8}
    blocks = [{"block": {"mixer": mixer, "ffn": swiglu}} for mixer in mixers]
    raw = {
        "vocab_size": 11,
        "hidden_size": SIZE,
        "context_length": 16,
        "tie_embeddings": False,
        "blocks": blocks,
        **changes,
    }
    torch.manual_seed(0)
    return CausalLM(parse(ModelConfig, raw, where="test"))


def test_every_linear_between_embedding_and_head_and_little_else() -> None:
    model = model_of(
        [spec.model_dump() for spec in all_mixers().values()], mtp={"depth": 1}, score_head=True
    )
    linears = {
        f"{path}.weight" for path, module in model.named_modules() if isinstance(module, Linear)
    }
    found = hidden_matrices(model)
    assert linears - found == {"head.weight", "score.weight"}
    assert {name.split(".")[-1] for name in found - linears} == {"step_weight"}
    assert any(name.startswith("mtp.") for name in found)
    # rates, factors, tables of two axes turn no vector into another
    others = {name for name, p in model.named_parameters() if p.dim() == 2 and name not in found}
    assert {name.split(".")[-1] for name in others} == {
        "weight",  # embedding and heads
        "rate",  # Mamba's, a channel and state
        "mix",  # RWKV-7's, a kind and channel
        "bonus",
        "factor",  # the gated attention unit's
        "shift",
        "position",  # native sparse attention's, a place and channel
    }


def test_stacks_of_experts_but_not_their_biases() -> None:
    block = {"mixer": {"kind": "grouped_query", "num_heads": 2}, "ffn": EXPERTS}
    model = model_of([], blocks=[{"block": block}])
    ffn = {name for name in hidden_matrices(model) if ".ffn." in name}
    own = {"router.weight", "gate_up", "down", "shared.gate_up.weight", "shared.down.weight"}
    assert ffn == {f"blocks.0.ffn.{name}" for name in own}
    optimizer = MuonConfig().build(model)
    assert isinstance(optimizer, Together)
    muon, adamw = optimizer.optimizers
    assert isinstance(muon, Muon)
    assert muon.steps.keys() == hidden_matrices(model)
    assert {id(p) for p in optimizer.parameters()} == {id(p) for p in model.parameters()}
    assert len(muon.parameters()) + len(adamw.parameters()) == len(list(model.parameters()))


def test_of_an_adapted_model_the_adapters_matrices() -> None:
    model = model_of([{"kind": "grouped_query", "num_heads": 2}])
    attach(model, Lora(rank=2), base=BaseModel("base", "base"), seed=0)
    muon = MuonConfig().build(model).optimizers[0]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert muon.steps.keys() == trained
    assert any(name.endswith("up.0") for name in trained)
