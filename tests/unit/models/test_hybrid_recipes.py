"""The hybrid recipes: as large as the plain one, memory that grows only where it must, and they run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glassbox.formats.open_model import open_model
from glassbox.inference import Engine, SamplingParams
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.recipe import PretrainRecipe, read_recipe
from glassbox.runs.train import run_recipe

RECIPES = {"hybrid-delta": [False, True, False, False], "hybrid-mamba2": [False, False, True]}


def model_of(name: str) -> CausalLM:
    recipe = read_recipe(f"{name}.yaml", ["data.path=none"])
    assert isinstance(recipe, PretrainRecipe)
    return CausalLM(recipe.model.config(2048))


@pytest.mark.parametrize("name", RECIPES)
def test_as_large_as_the_plain_recipe_and_memory_grows_only_with_full_attention(name: str) -> None:
    model, plain = model_of(name), model_of("pretrain")
    assert model.num_parameters == pytest.approx(plain.num_parameters, rel=0.02)
    short, long = model.init_state(1, 512), model.init_state(1, 8192)
    grown = [a.cache_bytes < b.cache_bytes for a, b in zip(short, long, strict=True)]
    assert grown == RECIPES[name]
    ours, theirs = (
        sum(state.cache_bytes for state in one.init_state(1, 8192)) for one in (model, plain)
    )
    assert ours < 0.4 * theirs


@pytest.mark.parametrize("name", RECIPES)
def test_it_trains_and_generates_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    stories = (f"the fox sat on {number} boxes" for number in range(80))
    text.write_text("<|endoftext|>".join(stories), encoding="utf-8")
    words = [
        f"out={tmp_path / 'run'}",
        f"data.path={text}",
        "tokenizer.vocab_size=280",
        "data.rows_per_step=1",
        "data.row_length=96",
        "train.steps=3",
        "train.schedule.warmup_steps=1",
        "train.log_every=1",
        "evaluation.every=0",
    ]
    summary = run_recipe(read_recipe(f"{name}.yaml", words))
    assert summary["status"] == "finished"
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert ("balance_loss" in logged) == (name == "hybrid-mamba2")

    model, tokenizer, _ = open_model(tmp_path / "run")
    ids = [tokenizer.eos_id, *tokenizer.encode("the fox")]
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    told = [event.token_id for event in Engine(model, tokenizer).stream(ids, params)]
    for token in told:  # each is the likeliest behind all before it, or as likely to rounding
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1]
        assert logits[token] >= logits.max() - 1e-4
        ids.append(token)
