"""Compiled passes and flat storage, against the plain step."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glassbox.core.distributed import Group
from glassbox.data.loader import TokenBatch
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import GPT2Shape, LlamaShape
from glassbox.optim.adamw import AdamW, AdamWConfig
from glassbox.optim.base import Optimizer
from glassbox.optim.clipping import Clipper, GlobalClip, ParameterClip
from glassbox.optim.muon import MuonConfig
from glassbox.training import choice
from glassbox.training.config import TrainConfig
from glassbox.training.guards import Guard, GuardConfig, LossScaler
from glassbox.training.next_token import NextToken
from glassbox.training.step import (
    CompiledPasses,
    PlainPasses,
    TrainStep,
    build_step,
    training_flops,
)
from glassbox.training.telemetry import TelemetryConfig
from glassbox.training.telemetry.telemetry import Telemetry
from support.tiny_run import Signal, TinyRun, everything, tiny_model, tiny_rows, tiny_trainer

LLAMA = LlamaShape(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=48, context_length=16
)
GPT2 = GPT2Shape(hidden_size=32, num_layers=2, num_heads=4, context_length=16)


def batches(count: int) -> list[TokenBatch]:
    draw = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        ids = torch.randint(40, (3, 17), generator=draw)
        documents = torch.tensor([[0] * 7 + [1] * 9, [0] * 16, [0] * 14 + [-1] * 2])
        targets = torch.where(documents < 0, -100, ids[:, 1:])
        made.append(TokenBatch(ids[:, :-1], targets, documents))
    return made


def step_of(
    model: CausalLM,
    optimizer: Optimizer,
    *,
    narrow: torch.dtype | None = None,
    backend: str | None = "aot_eager",
    clipper: Clipper | None = None,
    telemetry: Telemetry | None = None,
) -> TrainStep:
    group, scaler = Group(), LossScaler(enabled=False)
    clipper = clipper or GlobalClip(max_norm=0.5).build()
    passes: Any = (
        PlainPasses(
            model, NextToken(), optimizer, precision="float32", clipper=clipper,
            scaler=scaler, telemetry=telemetry,
        )
        if backend is None
        else CompiledPasses(
            model, NextToken(), optimizer, narrow=narrow, group=group, clipper=clipper,
            backend=backend, telemetry=telemetry,
        )
    )  # fmt: skip
    guard = Guard(GuardConfig())
    return TrainStep(passes, group=group, guard=guard, scaler=scaler, telemetry=telemetry)


def model_of(shape: LlamaShape | GPT2Shape, **changes: Any) -> CausalLM:
    torch.manual_seed(0)
    model = CausalLM(shape.model_copy(update=changes).config(40))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.train()


def furthest(one: CausalLM, other: CausalLM) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().norm() / b.detach().norm()) for a, b in pairs)


@pytest.mark.parametrize("shape", [LLAMA, GPT2])
@pytest.mark.parametrize("micro", [1, 2])
def test_float32_takes_the_plain_step(shape: LlamaShape | GPT2Shape, micro: int) -> None:
    plain = model_of(shape)
    ours = copy.deepcopy(plain)
    steps = [
        step_of(model, AdamWConfig().build(model), backend=backend)
        for model, backend in ((ours, "aot_eager"), (plain, None))
    ]
    data = batches(micro)
    for _ in range(3):
        one, other = (step.take(data, 1e-3) for step in steps)
        assert one.loss == pytest.approx(other.loss, rel=2e-6)
        assert one.norm == pytest.approx(other.norm, rel=2e-5)
        assert one.tokens == other.tokens
    # AdamW divides by the root of a gradient's square: of near-zero ones the rounding is what moves
    assert furthest(ours, plain) < 2e-4


@pytest.mark.parametrize("shape", [LLAMA, GPT2])
def test_bfloat16_gradients_are_near_the_plain_ones(shape: LlamaShape | GPT2Shape) -> None:
    plain = model_of(shape)
    ours = copy.deepcopy(plain)
    compiled = CompiledPasses(
        ours, NextToken(), Still(ours), narrow=torch.bfloat16, group=Group(), clipper=Clipper(),
        backend="aot_eager",
    )  # fmt: skip
    seconds = {"forward": 0.0, "backward": 0.0}
    data = batches(2)
    outputs = compiled.run(data, seconds)
    compiled.normalize(1.0)
    loss = sum(NextToken()(plain, batch).loss_sum for batch in data)
    loss.backward()  # type: ignore[union-attr]
    found = sum(float(output.loss_sum) for output in outputs)
    assert found == pytest.approx(float(loss.detach()), rel=2e-3)  # type: ignore[union-attr]
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.dtype == torch.float32
        assert float((one.grad - other.grad).norm() / other.grad.norm()) < 3e-2


class Still:
    """An optimizer that leaves everything as it is."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model

    def step(self, learning_rate: float) -> None: ...

    def zero_grad(self) -> None: ...

    def parameters(self) -> list[Any]:
        return list(self.model.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@pytest.mark.parametrize("kind", ["adamw", "muon", "clip each"])
def test_bfloat16_trains_float32_weights(kind: str) -> None:
    plain = model_of(LLAMA)
    ours = copy.deepcopy(plain)
    config: Any = MuonConfig() if kind == "muon" else AdamWConfig()
    clip = ParameterClip(max_norm=0.1).build() if kind == "clip each" else None
    steps = [
        step_of(model, config.build(model), narrow=torch.bfloat16, backend=backend, clipper=clip)
        for model, backend in ((ours, "aot_eager"), (plain, None))
    ]
    losses = [[step.take(batches(1), 3e-3).loss for step in steps] for _ in range(12)]
    assert losses[-1][1] < losses[0][1] - 0.3
    for one, other in losses:
        assert one == pytest.approx(other, rel=1e-2)
    assert all(p.dtype == torch.float32 for p in ours.parameters())
    passes: Any = steps[0].passes
    for master, copied in passes._copies:  # what is computed with is what was trained, rounded
        assert torch.equal(master.to(torch.bfloat16), copied)


def test_flat_adamw_is_adamw() -> None:
    models = [model_of(LLAMA) for _ in range(2)]
    optimizers = [AdamWConfig(weight_decay=0.3).build(model) for model in models]
    plain, layered = optimizers
    assert isinstance(layered, AdamW)
    flat = layered.flattened()
    assert flat is not None
    flat.lay_out()
    draw = torch.Generator().manual_seed(0)
    for _ in range(4):
        gradients = [torch.randn(p.shape, generator=draw) for p in plain.parameters()]
        for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
            parameter.grad = gradient * 0.25
        plain.step(0.01)
        gathered = flat.gathered(gradients)
        total = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
        assert flat.norm(gathered) == pytest.approx(float(total), rel=1e-5)
        flat.update(0.01, gathered, 0.25)
    saved = [optimizer.state_dict() for optimizer in optimizers]
    assert saved[0].keys() == saved[1].keys()
    for name in saved[0]:
        torch.testing.assert_close(saved[1][name], saved[0][name], rtol=1e-5, atol=1e-7)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    layered.load_state_dict(saved[0])  # into the same storage
    for segment in flat.segments:
        names = list(segment.group.parameters)
        assert torch.equal(
            segment.first, torch.cat([saved[0][f"first.{name}"].flatten() for name in names])
        )


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_telemetry_measures_what_it_does_of_plain_steps(kind: str) -> None:
    plain = model_of(LLAMA)
    records = []
    for model, backend in ((copy.deepcopy(plain), "aot_eager"), (plain, None)):
        config: Any = MuonConfig() if kind == "muon" else AdamWConfig()
        telemetry = Telemetry(model, TelemetryConfig(every=1))
        with telemetry.watching():
            step = step_of(model, config.build(model), backend=backend, telemetry=telemetry)
            telemetry.begin(1)
            step.take(batches(2), 1e-3)
            telemetry.finish()
        records.append(telemetry.record)
    ours, theirs = records
    assert ours.keys() == theirs.keys()
    assert {"noise_scale", "residual_norm/blocks.0", "grad_norm/blocks.1"} < ours.keys()
    for name, value in theirs.items():
        # the noise is a difference of squares of norms that are nearly alike
        bound = 1e-2 if name == "noise_scale" else 1e-3
        assert ours[name] == pytest.approx(value, rel=bound, abs=1e-5), name


def test_skipped_steps_change_nothing() -> None:
    model = model_of(LLAMA)
    before = copy.deepcopy(model.state_dict())
    step = step_of(model, AdamWConfig().build(model))
    batch = batches(1)[0]
    empty = TokenBatch(batch.ids, torch.full_like(batch.targets, -100), batch.documents)
    assert step.take([empty], 1e-2).reason == "it holds nothing to learn from"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_experts_and_dropout_stay_plain() -> None:
    for model in (tiny_model(experts=True), tiny_model(dropout=0.1)):
        assert not NextToken().in_one_graph(model)
    assert not NextToken(z_loss=1e-4).in_one_graph(tiny_model())
    assert NextToken().in_one_graph(tiny_model())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_bfloat16_run_resumes_to_the_bit(tmp_path: Path) -> None:
    """The real compiler, once: three steps at a time and in one go."""
    options = TinyRun(
        steps=6, dropout=0.0, precision="bfloat16", compile=True, checkpoint_every=3,
        rows_per_batch=None, evaluate_every=0,
    )  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        tiny_rows(folder)
    trainer = tiny_trainer(whole, options)
    trainer.run()
    assert isinstance(trainer._train_step.passes, CompiledPasses)  # type: ignore[union-attr]
    shutil.copytree(whole / "checkpoints" / "step-00000003", cut / "checkpoints/step-00000003")
    shutil.copy(whole / "metrics.jsonl", cut / "metrics.jsonl")
    resumed = tiny_trainer(cut, options)
    resumed.run()
    assert everything(whole) == everything(cut)


def test_build_step_chooses_by_the_config() -> None:
    model = tiny_model()
    optimizer = AdamWConfig().build(model)
    plain = build_step(
        model, NextToken(), optimizer, TrainConfig(steps=2, lr=1.0, schedule=_flat())
    )
    assert isinstance(plain.passes, PlainPasses)


def _flat() -> Any:
    from glassbox.optim.schedules.warmup_cosine import WarmupCosine

    return WarmupCosine(warmup_steps=0)


class TestChoice:
    """`auto`, on a processor and with a compiler that are made up."""

    @pytest.fixture(autouse=True)
    def _machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choice, "has_amx", lambda: True)
        monkeypatch.setattr(choice, "has_compiler", lambda: True)

    def chosen(self, model: CausalLM, tokens: float, **changes: Any) -> tuple[str, bool]:
        config = TrainConfig(steps=100, lr=1.0, **changes)
        group = changes.pop("group", Group())
        found = choice.choose(config, model, NextToken(), tokens=int(tokens), group=group)
        assert (found.reason is None) == (found.precision == config.stated_precision)
        return found.precision, found.compile

    def test_long_runs_are_compiled_and_short_ones_are_not(self) -> None:
        model = tiny_model()
        assert self.chosen(model, 1e12) == ("bfloat16", True)
        assert self.chosen(model, 1e5) == ("float32", False)
        assert self.chosen(model, 1e12, compile=False) == ("float32", False)
        assert self.chosen(model, 1e12, precision="float32") == ("float32", False)
        assert self.chosen(tiny_model(experts=True), 1e12) == ("float32", False)
        assert self.chosen(tiny_model(dropout=0.1), 1e12) == ("float32", False)

    @pytest.mark.parametrize("lacking", ["has_amx", "has_compiler"])
    def test_other_machines_stay_as_they_were(
        self, lacking: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(choice, lacking, lambda: False)
        assert self.chosen(tiny_model(), 1e12) == ("float32", False)

    def test_a_compiler_that_fails_is_left_aside_and_that_is_recorded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(choice, "seconds_saved", lambda model, tokens: 1e9)

        def fails(*_: Any, **__: Any) -> Any:
            raise RuntimeError("cc1plus: out of memory\nand more")

        monkeypatch.setattr(CompiledPasses, "run", fails)
        options: dict[str, Any] = {
            "steps": 4, "dropout": 0.0, "precision": "auto", "compile": "auto",
            "evaluate_every": 0, "checkpoint_every": 2,
        }  # fmt: skip
        result = tiny_trainer(tmp_path / "auto", TinyRun(**options)).run()
        assert "the compiler fails: cc1plus: out of memory\n" in capsys.readouterr().err
        assert (result.summary["precision"], result.summary["compiled"]) == ("float32", False)
        options |= {"precision": "float32", "compile": False}
        tiny_trainer(tmp_path / "plain", TinyRun(**options)).run()
        auto, plain = (everything(tmp_path / name) for name in ("auto", "plain"))
        assert auto["state"].pop("choice") == {
            "precision": "float32", "compile": False, "reason": None
        }  # fmt: skip
        plain["state"].pop("choice")
        assert auto == plain

    def test_a_resumed_run_keeps_its_choice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = TinyRun(
            steps=4, dropout=0.0, precision="auto", compile="auto", evaluate_every=0,
            checkpoint_every=2, rows_per_batch=None,
        )  # fmt: skip
        tiny_trainer(tmp_path, options, hooks=[Signal(2)]).run()
        # now the machine would choose otherwise
        monkeypatch.setattr(choice, "seconds_saved", lambda model, tokens: 1e9)
        trainer = tiny_trainer(tmp_path, options, hooks=())
        trainer.run()
        assert isinstance(trainer._train_step.passes, PlainPasses)  # type: ignore[union-attr]


def test_flops_are_those_of_the_matrices() -> None:
    llama = model_of(LLAMA)
    width, ffn, vocab = 32, 48, 40
    layer = width * (width + 2 * width // 2) + width * width + 3 * width * ffn
    assert training_flops(llama) == 6 * (2 * layer + vocab * width)
    assert training_flops(model_of(LLAMA, tie_embeddings=False)) == training_flops(llama)
    gpt2 = 2 * (4 * width**2 + 8 * width**2)  # learned positions are looked up
    assert training_flops(model_of(GPT2)) == 6 * (gpt2 + vocab * width)


def test_a_profile_says_where_time_went_and_changes_nothing(tmp_path: Path) -> None:
    options = TinyRun(steps=6, evaluate_every=0)
    tiny_trainer(tmp_path / "with", options, profile=2).run()
    tiny_trainer(tmp_path / "without", options).run()
    table = (tmp_path / "with" / "profile" / "table.txt").read_text()
    assert "aten::mm" in table
    trace = json.loads((tmp_path / "with" / "profile" / "trace.json").read_text())
    assert trace["traceEvents"]
    assert everything(tmp_path / "with") == everything(tmp_path / "without")


def test_steps_are_timed_by_their_parts(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, TinyRun(steps=4, evaluate_every=0)).run()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "loss" in record]
    parts = [f"{name}_seconds" for name in ("data", "forward", "backward", "optimizer")]
    for record in records:
        assert all(record[part] > 0 for part in parts)
        assert sum(record[part] for part in parts) <= record["step_seconds"] * 1.001
