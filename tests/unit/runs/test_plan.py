"""`glassbox plan`: fake tensors take what real ones take, to the byte; layouts divide as they say."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.core.tensor_memory import TensorMemory
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.plan import (
    DEVICES,
    divided_config,
    layouts_of,
    measure_cost,
    model_of,
    parameters_by_part,
    plan,
)
from glassbox.runs.recipe import read_recipe
from support.parallel_runs import config as experts

WORDS = ["data.path=none.txt", "model.num_layers=2", "model.hidden_size=32", "model.ffn_size=64",
         "model.num_heads=4", "model.num_kv_heads=2", "tokenizer.vocab_size=512",
         "data.row_length=64", "data.rows_per_step=8", "model.context_length=64"]  # fmt: skip


def recipe(*words: str) -> Any:
    return read_recipe("pretrain.yaml", [*WORDS, *words])


@pytest.mark.parametrize("words", [
    [], ["parallel.checkpoint=full"], ["parallel.checkpoint=selective"],
    ["optim={kind: adamw}"], ["optim={kind: lion}", "train.precision=bfloat16"],
])  # fmt: skip
def test_what_is_forecast_is_what_a_step_takes(words: list[str]) -> None:
    one = recipe(*words)
    forecast = measure_cost(one, model_of(one), 2, 64)
    assert forecast == measure_cost(one, model_of(one), 2, 64, real=True)
    numbers = CausalLM(model_of(one)).num_parameters
    assert forecast.weights == forecast.gradients == 4 * numbers


def test_moments_are_those_of_the_optimizer() -> None:
    one = recipe("optim={kind: adamw}")
    cost = measure_cost(one, model_of(one), 1, 64)
    assert cost.moments == 2 * cost.weights
    one = recipe("optim={kind: lion}")
    assert measure_cost(one, model_of(one), 1, 64).moments == cost.weights


def test_recomputing_blocks_takes_less_memory_and_more_flops() -> None:
    none, full = (
        measure_cost(one, model_of(one), 4, 64)
        for one in (recipe(), recipe("parallel.checkpoint=full"))
    )
    assert full.activations < none.activations
    assert full.flops > 1.1 * none.flops


def test_flops_are_six_a_weight_and_token_and_those_of_the_scores() -> None:
    """Forward 2 and backward 4 for each weight of a matrix; causal scores are counted whole."""
    one = recipe()
    config = model_of(one)
    parts = parameters_by_part(config)
    matrices = parts["mixers"] + parts["feed-forwards"] + parts["output"]
    tokens, length = 2 * 64, 64
    cost = measure_cost(one, config, 2, length)
    scores = 4 * config.num_layers * tokens * length * config.hidden_size
    assert cost.flops >= 6 * matrices * tokens
    assert cost.flops <= 6 * matrices * tokens + 4 * scores


def test_parts_add_up() -> None:
    config = model_of(recipe())
    assert sum(parameters_by_part(config).values()) == CausalLM(config).num_parameters


def test_live_bytes_are_counted_from_making_to_dropping() -> None:
    with TensorMemory() as memory:
        first = torch.zeros(100)
        second = first + 1
        assert memory.live == 800
        view = second[:50]
        del second
        assert memory.live == 800
        del view, first
        assert memory.live == 0
    assert memory.peak == 800


def test_layouts_of_eight_devices() -> None:
    names = [name for name, *_ in layouts_of(8)]
    assert len(names) == len(set(names)) == 11
    assert {"dp8", "zero8", "fsdp8", "dp2xfsdp2xtp2", "tp8"} <= set(names)


def test_fsdp_divides_what_it_says_and_what_does_not_fit_is_last() -> None:
    found = plan(recipe(), devices=2, device=DEVICES["h200"], hourly=3.0)
    by_name = {one.layout: one for one in found.forecasts}
    dp, zero, fsdp, tp = (by_name[name] for name in ("dp2", "zero2", "fsdp2", "tp2"))
    assert fsdp.weights == dp.weights // 2
    assert fsdp.moments == zero.moments == dp.moments // 2
    assert zero.weights == dp.weights
    assert dp.peak > zero.peak
    assert tp.weights == pytest.approx(dp.weights / 2, rel=0.1)
    assert all(one.fits and one.price for one in found.forecasts)
    tight = DEVICES["h200"].__class__("tight", dp.peak - 1, 1e12, 1e12, 1e9)
    ranked = plan(recipe(), devices=2, device=tight).forecasts
    assert [one.fits for one in ranked] == sorted((one.fits for one in ranked), reverse=True)
    assert not next(one for one in ranked if one.layout == "dp2").fits


def test_a_rank_of_two_has_half_of_the_heads() -> None:
    config = model_of(recipe())
    half = divided_config(config, 2)
    mixer = half.layers()[0].mixer
    assert (mixer.num_heads, mixer.head_dim) == (2, 8)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="num_kv_heads = 2"):
        divided_config(config, 4)


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as stopped:
            main(["plan", "pretrain.yaml", *WORDS, "--devices", "4", "--rate", "2.5", *words])
        assert stopped.value.code in (0, None)
        out = capsys.readouterr().out
        assert "fsdp2xtp2" in out
    found = json.loads(out)
    assert len(found["forecasts"]) == 7
    refused = next(one for one in found["forecasts"] if one["layout"] == "tp4")
    assert "num_kv_heads = 2" in refused["reason"]


def test_what_is_not_planned_is_named() -> None:
    with pytest.raises(UserError, match="depend on the data"):
        measure_cost(recipe(), experts(experts=True), 1, 16)
