"""The moving average of weights: its formula, what is evaluated and saved with it, and its resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from glassbox.core.errors import UserError
from glassbox.optim.averaging import WeightAverage, WeightAverageConfig
from support.tiny_run import Signal, TinyRun, everything, last_weights, tiny_trainer


def parameters(dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {n: nn.Parameter(torch.randn(s, dtype=dtype)) for n, s in (("a", (3, 4)), ("b", (5,)))}


@pytest.mark.parametrize("warmup", [True, False])
def test_it_is_the_formula_as_a_loop(warmup: bool) -> None:
    named = parameters()
    average = WeightAverage(named, decay=0.9, warmup=warmup)
    expected = {n: p.detach().clone() for n, p in named.items()}
    torchs = [p.detach().clone() for p in named.values()]
    by_torch = get_ema_multi_avg_fn(0.9)
    for t in range(1, 120):
        with torch.no_grad():
            for p in named.values():
                p.add_(torch.randn_like(p))
        average.update()
        d = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        for n, p in named.items():
            expected[n] = d * expected[n] + (1 - d) * p.detach()
        by_torch(torchs, [p.detach() for p in named.values()], None)
    for n, other in zip(named, torchs, strict=True):
        torch.testing.assert_close(average.average[n], expected[n], rtol=1e-13, atol=1e-14)
        if not warmup:
            torch.testing.assert_close(average.average[n], other, rtol=1e-13, atol=1e-14)


def test_narrow_weights_are_averaged_in_float32_and_put_back_to_the_bit() -> None:
    named = parameters(torch.bfloat16)
    average = WeightAverage(named, decay=0.999, warmup=False)
    before = average.average["b"].clone()
    with torch.no_grad():
        named["b"].add_(1.0)
    average.update()
    step = average.average["b"] - before
    assert average.average["b"].dtype == torch.float32
    assert 0.0009 < float(step.mean()) < 0.0011  # bfloat16 would have lost it
    trained = {n: p.detach().clone() for n, p in named.items()}
    with average.swapped() as kept:
        assert torch.equal(named["b"], average.average["b"].bfloat16())
        assert torch.equal(kept["b"], trained["b"])
    assert all(torch.equal(named[n], trained[n]) for n in named)


def test_another_models_average_is_refused() -> None:
    average = WeightAverage(parameters(), decay=0.9)
    state = average.state_dict()
    state["average.a"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"average\.a"):
        average.load_state_dict(state)


class Look:
    """A hook that remembers what it was shown."""

    every = 1

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, model, step):
        self.seen.append(model.embedding.weight.detach().clone())
        return {}


@pytest.mark.parametrize("save", ["average", "trained"])
@pytest.mark.parametrize("evaluate", [True, False])
def test_a_run_evaluates_and_saves_what_was_chosen(
    tmp_path: Path, save: str, evaluate: bool
) -> None:
    look = Look()
    ema = WeightAverageConfig(decay=0.8, warmup=False, evaluate=evaluate, save=save)  # type: ignore[arg-type]
    options = TinyRun(steps=6, ema=ema, checkpoint_every=0)
    trainer = tiny_trainer(tmp_path, options, hooks=[look])
    start = trainer.model.embedding.weight.detach().clone()
    plain_look = Look()
    plain = tiny_trainer(tmp_path / "plain", TinyRun(steps=6), hooks=[plain_look])
    trainer.run()
    plain.run()
    trained = [*plain_look.seen]  # the average changes nothing about the training
    assert torch.equal(trainer.model.embedding.weight, plain.model.embedding.weight)
    average = start
    averages = [start]
    for weight in trained[1:]:
        average = 0.8 * average + 0.2 * weight
        averages.append(average)
    for seen, one, other in zip(look.seen, averages, trained, strict=True):
        torch.testing.assert_close(seen, one if evaluate else other, rtol=1e-5, atol=1e-6)
    saved = last_weights(tmp_path)["model.embed_tokens.weight"]
    torch.testing.assert_close(
        saved, average if save == "average" else trained[-1], rtol=1e-5, atol=1e-6
    )
    state = safetensors.torch.load_file(
        next(tmp_path.glob("checkpoints/step-*/training/ema.safetensors"))
    )
    assert ("trained.embedding.weight" in state) == (save == "average")


@pytest.mark.parametrize("save", ["average", "trained"])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, save: str) -> None:
    ema = WeightAverageConfig(decay=0.9, save=save)  # type: ignore[arg-type]
    options = TinyRun(steps=9, ema=ema)
    tiny_trainer(tmp_path / "whole", options).run()
    trainer = tiny_trainer(tmp_path / "stopped", options)
    trainer.hooks = [*trainer.hooks, Signal(5)]
    assert trainer.run().interrupted
    tiny_trainer(tmp_path / "stopped", options).run()
    assert everything(tmp_path / "stopped") == everything(tmp_path / "whole")


def test_a_checkpoint_without_an_average_is_refused(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, TinyRun(steps=4)).run()
    options = TinyRun(steps=8, ema=WeightAverageConfig())
    with pytest.raises(UserError, match=r"made without train\.ema"):
        tiny_trainer(tmp_path, options).run()
