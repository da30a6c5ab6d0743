"""Every layout of two ranks against one rank: weights, moments, averages, norms, resumption, memory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.formats.huggingface import load_pretrained
from glassbox.runs.train import check_layout, run_recipe
from support.parallel_runs import RESUMED, VARIANTS, layouts_of, pretraining, start, trainer
from support.stages import make_home, recipe
from support.tiny_run import everything, last_weights, metrics
from system.test_training_ranks import torchrun

TOLERANCE = 5e-6
"""Of float32 weights of about 0.1 after four steps: a step of 0.01 divides by sqrt(v), which enlarges the
rounding of sums in another order (6e-8 of a gradient) where a gradient is small. Measured: 1.2e-7."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    torchrun(2, "parallel_runs.py", folder)
    for variant in VARIANTS:
        (folder / f"{variant}-one").mkdir()
        trainer(folder / f"{variant}-one", variant).run()
    return folder


def state(run: Path, name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoints/step-00000004/training" / name)


@pytest.mark.parametrize(
    ("variant", "layout"), [(v, layout) for v in VARIANTS for layout in layouts_of(v)]
)
def test_weights_moments_and_averages_are_those_of_one_rank(
    runs: Path, variant: str, layout: str
) -> None:
    one, other = runs / f"{variant}-one", runs / f"{variant}-{layout}"
    pairs = [(last_weights(one), last_weights(other))]
    pairs += [
        (state(one, f"{n}.safetensors"), state(other, f"{n}.safetensors"))
        for n in ("optimizer", "ema")
    ]
    for expected, found in pairs:
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.allclose(found[name], tensor, rtol=1e-4, atol=TOLERANCE), name


@pytest.mark.parametrize(
    ("variant", "layout"), [(v, layout) for v in VARIANTS for layout in layouts_of(v)]
)
def test_logged_norms_losses_and_evaluations_are_those_of_one_rank(
    runs: Path, variant: str, layout: str
) -> None:
    """Gradient norms before clipping by layer and in all, update ratios, held-out losses."""
    seen: dict[str, int] = {}
    records = zip(
        metrics(runs / f"{variant}-one"), metrics(runs / f"{variant}-{layout}"), strict=True
    )
    for expected, found in records:
        for key, value in expected.items():
            kind = key.split("/")[0]
            if kind in ("loss", "grad_norm", "grad_rms", "grad_max", "update_ratio", "valid_loss"):
                assert found[key] == pytest.approx(value, rel=2e-4), key
                seen[kind] = seen.get(kind, 0) + 1
    assert set(seen) == {"loss", "grad_norm", "grad_rms", "grad_max", "update_ratio", "valid_loss"}


@pytest.mark.parametrize(("old", "new"), RESUMED)
def test_a_run_goes_on_in_its_own_layout_to_the_bit_and_in_another_one(
    runs: Path, old: str, new: str
) -> None:
    resumed = runs / f"adamw-{old}-then-{new}"
    if old == new:
        assert everything(resumed) == everything(runs / f"adamw-{old}")
        return
    expected, found = last_weights(runs / f"adamw-{old}"), last_weights(resumed)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=TOLERANCE), name


def test_one_rank_goes_on_from_a_sharded_run(runs: Path, tmp_path: Path) -> None:
    start(tmp_path / "run", runs / "muon-fsdp")
    trainer(tmp_path / "run", "muon").run()
    expected, found = last_weights(runs / "muon-one"), last_weights(tmp_path / "run")
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=TOLERANCE), name


def test_a_sharded_checkpoint_is_one_folder_that_opens_anywhere(runs: Path) -> None:
    folder = runs / "adamw-fsdp/checkpoints/step-00000004"
    model = load_pretrained(folder)
    assert model.num_parameters == trainer(runs / "adamw-one", "adamw").model.num_parameters


def test_each_rank_holds_its_share_of_the_moments(runs: Path) -> None:
    """Half, and half a row more where the rows do not divide by two."""
    held: list[dict[str, Any]] = json.loads((runs / "held.json").read_text())
    for variant in VARIANTS:
        whole = held[0][f"{variant}-ddp"]
        for layout in ("zero1", "fsdp"):
            shares = [rank[f"{variant}-{layout}"] for rank in held]
            assert sum(shares) == whole
            assert max(shares) <= 0.6 * whole


def test_the_watchdog_names_the_rank_that_hangs_and_ends_the_run(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(AssertionError, match="rank 1 hangs in step 3, next rows"):
        torchrun(2, "hanging_rank.py", tmp_path)
    assert time.monotonic() - began < 120
    assert (tmp_path / "checkpoints/step-00000002/COMPLETE").exists()


@pytest.mark.parametrize("name", ["fsdp", "tensor"])
def test_a_recipe_evaluates_samples_and_counts_as_without_a_layout(runs: Path, name: str) -> None:
    expected, found = (
        [r for r in metrics(runs / f"recipe-{one}") if r.get("event") == "evaluation"]
        for one in ("none", name)
    )
    assert len(expected) == len(found) == 3
    for mine, theirs in zip(expected, found, strict=True):
        assert theirs["heldout_loss"] == pytest.approx(mine["heldout_loss"], rel=1e-5)
        assert theirs["sample_0"] == mine["sample_0"]
    done = [json.loads((runs / f"recipe-{one}/DONE.json").read_text()) for one in ("none", name)]
    assert done[0]["parameters"] == done[1]["parameters"]
    assert done[0]["trained_parameters"] == done[1]["trained_parameters"]


def test_a_value_model_beside_divided_moments_is_saved_whole(runs: Path) -> None:
    for file in ("training/optimizer.safetensors", "training/companions.safetensors"):
        expected, found = (
            safetensors.torch.load_file(runs / f"ppo-{name}/checkpoints/step-00000002" / file)
            for name in ("none", "zero1")
        )
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, rtol=1e-4, atol=TOLERANCE), name


@pytest.mark.parametrize(
    ("parallel", "ranks", "message"),
    [
        ({"fsdp": 2}, 3, "does not divide the 3 ranks"),
        ({"tensor": 4}, 4, "does not divide num_kv_heads = 2"),
        ({"fsdp": 2}, 2, None),
        (None, 3, None),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, parallel: dict[str, int] | None, ranks: int, message: str | None
) -> None:
    make_home(tmp_path / "home")
    one = pretraining(tmp_path, "refused", parallel)
    if message is None:
        check_layout(one, ranks)
        return
    with pytest.raises(UserError, match=message):
        check_layout(one, ranks)
    with pytest.raises(UserError):
        run_recipe(one, group=Group(0, ranks))
    assert not (tmp_path / "recipe-refused").exists()


def test_stages_that_keep_several_models_are_not_sharded(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    with pytest.raises(UserError, match=r"parallel\.fsdp = 2 .* stage 'dpo'"):
        recipe(tmp_path / "home", tmp_path / "dpo", "dpo", parallel={"fsdp": 2})
    assert recipe(tmp_path / "home", tmp_path / "dpo", "dpo", parallel={"data": "zero1"})
