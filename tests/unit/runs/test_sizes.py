"""The shapes that recipes promise by their names, counted without memory for the weights."""

from __future__ import annotations

import pytest
import torch

from glassbox.models.causal_lm import CausalLM
from glassbox.runs.quickstart import Quickstart
from glassbox.runs.recipe import read_quickstart, read_recipe
from glassbox.runs.stages.pretrain import PretrainRecipe


def parameters(recipe: PretrainRecipe, vocab_size: int) -> int:
    with torch.device("meta"):
        return CausalLM(recipe.model.config(vocab_size)).num_parameters


@pytest.mark.parametrize(("size", "millions"), [("1m", 1), ("15m", 15), ("50m", 50)])
def test_sizes_are_what_they_are_called(size: str, millions: int) -> None:
    quickstart = read_quickstart(f"quickstart-tinystories-{size}.yaml")
    recipe = Quickstart(quickstart).stage_recipe("pretrain")
    assert isinstance(recipe, PretrainRecipe)
    assert quickstart.tokenizer.vocab_size == 4096
    assert parameters(recipe, 4096) == pytest.approx(millions * 1e6, rel=0.1)
    alone = read_recipe(f"tinystories-{size}.yaml")
    assert isinstance(alone, PretrainRecipe)
    assert alone.model == recipe.model
    assert alone.tokenizer.vocab_size == 4096


def test_gpt2_124m_has_gpt2s_parameters() -> None:
    recipe = read_recipe("gpt2-124m.yaml")
    assert isinstance(recipe, PretrainRecipe)
    assert recipe.tokenizer.path == "gpt2"
    assert parameters(recipe, 50257) == 124_439_808
    assert recipe.data.rows_per_step * recipe.data.row_length == 491_520
