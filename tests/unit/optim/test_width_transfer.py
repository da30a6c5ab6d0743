"""Rates over width: the table of Tensor Programs V, and that activations move equally far at any width."""

from __future__ import annotations

import math

import pytest
import torch

from glassbox.core.config import parse_any
from glassbox.core.errors import UserError
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import LlamaShape
from glassbox.optim.matrices import hidden_matrices
from glassbox.optim.specs import OptimizerConfig
from glassbox.optim.torch_interface import members
from glassbox.optim.width_transfer import WidthTransfer
from glassbox.runs.recipe import parse_recipe

WIDTHS = (32, 256)


def shape(width: int, *, tied: bool = True) -> LlamaShape:
    return LlamaShape(
        hidden_size=width,
        num_layers=2,
        num_heads=width // 16,
        ffn_size=3 * width,
        context_length=32,
        tie_embeddings=tied,
    )


def build(width: int, kind: str, *, transfer: bool = True, tied: bool = True):
    torch.manual_seed(0)
    config = shape(width, tied=tied).config(64)
    rule = WidthTransfer(base_width=32)
    model = CausalLM(rule.config(config) if transfer else config)
    spec = parse_any(OptimizerConfig, {"kind": kind}, where="optim")
    optimizer = spec.build(model)
    if transfer:
        rule.scale_rates(optimizer, model, spec.width_exponent)
    return model, optimizer


@pytest.mark.parametrize(
    ("kind", "scale"), [("adamw", 1 / 8), ("lion", 1 / 8), ("adafactor", 8**-0.5), ("muon", 1.0)]
)
def test_rates_decay_and_initialization_follow_the_table(kind: str, scale: float) -> None:
    model, optimizer = build(256, kind)
    plain, reference = build(256, kind, transfer=False)
    rates = {
        name: (group.lr_scale, group.lr_scale * group.weight_decay)
        for member in members(optimizer)
        for group in member.groups
        for name in group.parameters
    }
    usual = {
        name: (group.lr_scale, group.lr_scale * group.weight_decay)
        for member in members(reference)
        for group in member.groups
        for name in group.parameters
    }
    hidden = hidden_matrices(model)
    assert "blocks.0.mixer.qkv.weight" in hidden
    assert "embedding.weight" not in hidden
    for name, (rate, decay) in usual.items():
        assert rates[name][0] == pytest.approx(rate * (scale if name in hidden else 1.0))
        assert rates[name][1] == pytest.approx(decay)  # the same share of a weight a step
    matrix = model.blocks[0].mixer.qkv.weight
    assert float(matrix.std()) == pytest.approx(0.02 / math.sqrt(8), rel=0.05)
    assert float(model.embedding.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert model.config.logit_scale == 1 / 8
    assert set(optimizer.state_dict()) == set(reference.state_dict())
    assert plain.config.logit_scale == 1.0


def test_an_independent_decay_stays_as_it_is() -> None:
    model = CausalLM(WidthTransfer(base_width=32).config(shape(256).config(64)))
    spec = parse_any(OptimizerConfig, {"kind": "adamw", "decay": "independent"}, where="optim")
    optimizer = spec.build(model)
    WidthTransfer(base_width=32).scale_rates(optimizer, model, spec.width_exponent)
    assert {group.weight_decay for group in members(optimizer)[0].groups} == {0.1, 0.0}


def test_at_the_base_width_nothing_changes() -> None:
    one, other = build(32, "adamw")[0], build(32, "adamw", transfer=False)[0]
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert one.config.logit_scale == 1.0


@pytest.mark.parametrize("kind", ["adamw", "lion", "adafactor", "muon"])
def test_hidden_states_move_equally_far_at_any_width(kind: str) -> None:
    """The coordinate check of Tensor Programs V (its figure 5): after a few steps the change of each
    hidden coordinate must not grow with width. Without transfer Adam's grows about as the width does."""

    def moved(width: int, transfer: bool) -> float:
        model, optimizer = build(width, kind, transfer=transfer)
        ids = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(1))
        before = model.hidden_states(ids).detach() / model.config.logit_scale
        inner = []
        handle = model.blocks[-1].register_forward_hook(
            lambda _m, _i, out: inner.append(out.detach())
        )
        model.hidden_states(ids)
        for _ in range(3):
            model.cross_entropy(model.hidden_states(ids), ids.roll(-1, 1)).div(
                ids.numel()
            ).backward()
            optimizer.step(0.01)
            optimizer.zero_grad()
        model.hidden_states(ids)
        handle.remove()
        assert torch.isfinite(before).all()
        return float((inner[-1] - inner[0]).square().mean().sqrt())

    narrow, wide = (moved(width, True) for width in WIDTHS)
    assert 1 / 2 < wide / narrow < 2  # the width is 8 times as large
    if kind in ("adamw", "lion"):
        assert moved(WIDTHS[1], False) / moved(WIDTHS[0], False) > 3


@pytest.mark.parametrize("kind", ["sgd", "sgd_decay"])
def test_an_optimizer_without_a_rule_is_refused(kind: str) -> None:
    raw = {
        "stage": "pretrain",
        "out": "out",
        "data": {"path": "x.txt"},
        "model": {"kind": "llama", **shape(32).model_dump(exclude={"kind"})},
        "optim": {"kind": kind},
        "width_transfer": {"base_width": 32},
        "train": {"steps": 10, "lr": 0.1, "schedule": {"kind": "constant"}},
    }
    raw["data"]["row_length"] = 32  # type: ignore[index]
    with pytest.raises(UserError, match=r"no rule for optim\.kind"):
        parse_recipe(raw, where="r.yaml")
    with pytest.raises(UserError, match="fresh weights"):
        parse_recipe({**raw, "optim": {"kind": "adamw"}, "init": "m"}, where="r.yaml")
