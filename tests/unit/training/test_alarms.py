"""Detectors on streams of figures: each finds its fault, names the layer, and leaves usual streams alone."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.data.loader import TokenBatch
from glassbox.training.alarms import Alarm, Alarms, AlarmsConfig
from glassbox.training.alarms.alarms import SeenRows
from glassbox.training.telemetry import TelemetryConfig
from support.tiny_run import TinyRun, everything, metrics, tiny_trainer


def step(number: int, rng: random.Random, **changes: Any) -> dict[str, Any]:
    """A usual step of a run that learns."""
    return {
        "step": number,
        "loss": 2 + 2 / (1 + number / 20) + rng.gauss(0, 0.05),
        "main_loss": None,
        "grad_norm": 1 + abs(rng.gauss(0, 0.3)),
        "lr": 0.01,
        "reason": None,
        "tokens_per_second": 1000 * (1 + rng.gauss(0, 0.1)),
        "memory_bytes": 500 << 20,
        "rank_seconds": [0.1 + rng.random() / 50 for _ in range(4)] if number % 10 == 0 else None,
        "repeated_share": 0.0,
        **changes,
    }


def seen(number: int, rng: random.Random, **changes: float) -> dict[str, Any]:
    """A usual measurement of three layers."""
    record: dict[str, Any] = {"step": number}
    for place, layer in enumerate(("blocks.0", "blocks.1", "blocks.2")):
        noise = 1 + rng.gauss(0, 0.1)
        record |= {
            f"residual_rms/{layer}": (1 + place) * noise,
            f"activation_rms/{layer}.mixer": 0.5 * noise,
            f"activation_rms/{layer}.ffn": 0.4 * noise,
            f"grad_norm/{layer}": 0.3 * noise,
            f"update_ratio/{layer}": 1e-3 * noise,
            f"dead_units/{layer}": 0.05,
            f"saturated_units/{layer}": 0.0,
            f"expert_entropy/{layer}": 0.95,
            f"idle_experts/{layer}": 0.0,
        }
    record |= {"grad_norm/embedding": 0.2, "update_ratio/embedding": 5e-4, "logit_rms/head": 1.0}
    return {
        **record,
        **{key.replace("__", "/").replace("_of_", "."): v for key, v in changes.items()},
    }


def play(
    steps: int,
    change: Any = lambda n: {},
    change_seen: Any = lambda n: {},
    *,
    seed: int = 0,
    config: AlarmsConfig | None = None,
) -> list[Alarm]:
    """Alarms of a stream measured at every 50th step and when detectors ask."""
    rng = random.Random(seed)
    alarms = (config or AlarmsConfig()).build()
    raised = []
    for number in range(1, steps + 1):
        wanted = alarms.wants_telemetry
        raised += alarms.step(step(number, rng, **change(number)))
        if wanted or number == 1 or number % 50 == 0:
            raised += alarms.telemetry(seen(number, rng, **change_seen(number)))
        alarms = _again(alarms, config)
    return raised


def _again(alarms: Alarms, config: AlarmsConfig | None) -> Alarms:
    """The same detectors after a checkpoint: their states are JSON and all they need."""
    fresh = (config or AlarmsConfig()).build()
    fresh.load_state_dict(json.loads(json.dumps(alarms.state_dict())))
    return fresh


def from_on(at: int, **values: Any) -> Any:
    return lambda number: values if number >= at else {}


@pytest.mark.parametrize("seed", range(5))
def test_a_usual_run_raises_nothing(seed: int) -> None:
    assert play(1000, seed=seed) == []


@pytest.mark.parametrize(
    ("kind", "layer", "change", "change_seen"),
    [
        ("spike", "blocks.1", lambda n: {"loss": 9.0} if n == 120 else {},
         from_on(121, activation_rms__blocks_of_1_of_ffn=30.0)),
        ("spike", "blocks.2", lambda n: {"grad_norm": 50.0} if n == 120 else {},
         from_on(121, grad_norm__blocks_of_2=20.0)),
        ("slow_divergence", "blocks.1", lambda n: {"loss": 2.3 + 0.01 * (n - 120)} if n >= 120 else {},
         lambda n: {"residual_rms__blocks_of_1": 9.0, "residual_rms__blocks_of_2": 13.0} if n > 120 else {}),
        ("dead_layer", "blocks.2", from_on(999), from_on(120, activation_rms__blocks_of_2_of_mixer=1e-9)),
        ("dead_layer", "blocks.0", from_on(999), from_on(120, dead_units__blocks_of_0=0.8)),
        ("vanishing_updates", "blocks.1", from_on(999), from_on(120, update_ratio__blocks_of_1=1e-9)),
        ("router_collapse", "blocks.0", from_on(999), from_on(120, expert_entropy__blocks_of_0=0.2)),
        ("repeated_data", None, from_on(120, repeated_share=0.5), from_on(999)),
        ("throughput_loss", None, from_on(120, tokens_per_second=300.0), from_on(999)),
        ("memory_growth", None, lambda n: {"memory_bytes": (500 + 2 * max(0, n - 120)) << 20}, from_on(999)),
        ("slow_rank", "rank 2", lambda n: {"rank_seconds": [0.1, 0.11, 0.2, 0.1]} if n >= 120 and n % 10 == 0 else {}, from_on(999)),
    ],
)  # fmt: skip
def test_each_fault_is_found_and_placed(
    kind: str, layer: str | None, change: Any, change_seen: Any
) -> None:
    raised = play(240, change, change_seen)
    assert {(one.kind, one.layer) for one in raised} == {(kind, layer)}
    assert len(raised) <= 2
    assert 120 <= raised[0].step <= 172
    assert raised[0].remedy


def test_not_finite_figures_are_placed_at_their_source() -> None:
    nan = math.nan
    forward = {f"residual_rms__blocks_of_{n}": nan for n in (1, 2)} | {"logit_rms__head": nan}
    backward = {f"grad_norm__blocks_of_{n}": nan for n in (0, 1, 2)}
    (alarm,) = play(
        150,
        lambda n: {"loss": nan, "reason": "loss is nan"} if n == 150 else {},
        lambda n: {**forward, **backward} if n == 150 else {},
    )
    assert (alarm.kind, alarm.layer) == ("not_finite", "blocks.1")
    (alarm,) = play(150, from_on(150, grad_norm=nan), lambda n: {"grad_norm__blocks_of_0": nan, "grad_norm__embedding": nan} if n == 150 else {})  # fmt: skip
    assert alarm.layer == "blocks.0"  # NaN runs back from there
    overflow = {"grad_norm": math.inf, "reason": "float16 overflow, loss scale now 2048"}
    assert play(149, from_on(120, **overflow)) == []


def test_a_loss_below_the_known_entropy() -> None:
    config = AlarmsConfig(entropy_nats=2.0)
    assert play(800, config=config) == []  # it comes as low as 2.05
    raised = play(300, from_on(150, loss=1.5), config=config)
    assert {one.kind for one in raised} == {"below_entropy"}
    assert play(300, from_on(150, main_loss=1.5), config=config)[0].kind == "below_entropy"
    assert play(300, from_on(150, loss=1.5)) == []  # entropy is not known


def test_kinds_can_be_left_out_and_unknown_ones_are_refused() -> None:
    assert (
        play(240, from_on(120, repeated_share=1.0), config=AlarmsConfig(ignore=("repeated_data",)))
        == []
    )
    with pytest.raises(
        UserError, match=r"alarms\.ignore = 'spikes' is no alarm; use not_finite, spike"
    ):
        parse(AlarmsConfig, {"ignore": ["spikes"]}, where="alarms")


def test_rows_seen_within_a_quarter_of_an_epoch_are_repeats() -> None:
    def batch(*numbers: int) -> TokenBatch:
        ids = torch.tensor([[n, n + 1, n + 2] for n in numbers])
        return TokenBatch(ids, ids, ids)

    rows = SeenRows()
    assert rows.share([batch(1, 2), batch(3, 4)], 1, 40.0) == 0
    assert rows.share([batch(1, 2), batch(5, 6)], 2, 40.0) == 0.5
    assert rows.share([batch(5, 1)], 12, 40.0) == 1.0
    assert rows.share([batch(3, 4)], 12, 40.0) == 0  # more than a quarter of an epoch ago
    assert rows.share([batch(3, 4)], 999, None) == 1.0  # data without an end never come again
    assert rows.share([object()], 1000, None) == 0


class TestInTheLoop:
    OPTIONS = TinyRun(
        steps=40, evaluate_every=0, checkpoint_every=20, rows_per_step=4, max_skipped=50
    )

    def test_an_alarm_names_the_layer_in_metrics_and_on_the_terminal(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        trainer = tiny_trainer(
            tmp_path, self.OPTIONS, telemetry=TelemetryConfig(), alarms=AlarmsConfig()
        )
        weight = trainer.model.blocks[1].ffn.down.weight
        weight.register_hook(lambda g: g * math.nan if trainer.state.step == 29 else g)
        trainer.run()
        (alarm,) = [r for r in metrics(tmp_path) if r.get("event") == "alarm"]
        assert (alarm["kind"], alarm["layer"], alarm["step"]) == ("not_finite", "blocks.1", 30)
        assert (
            "alarm at step 30: not finite in blocks.1: gradients are not finite"
            in capsys.readouterr().err
        )

    def test_training_is_the_same_to_the_bit_with_alarms(self, tmp_path: Path) -> None:
        tiny_trainer(tmp_path / "off", self.OPTIONS).run()
        options = {"telemetry": TelemetryConfig(every=10), "alarms": AlarmsConfig()}
        tiny_trainer(tmp_path / "on", self.OPTIONS, **options).run()
        on, off = everything(tmp_path / "on"), everything(tmp_path / "off")
        for one in (on, off):
            one["metrics"] = [r for r in one["metrics"] if "event" not in r]
            for key in ("telemetry", "alarms"):
                del one["state"][key]
        assert on == off

    def test_repeated_rows_are_seen_by_the_loop(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(tmp_path, self.OPTIONS, alarms=AlarmsConfig())
        batches = trainer.source.next_step()
        trainer.source.next_step = lambda: batches  # type: ignore[method-assign]
        trainer.run()
        kinds = [r["kind"] for r in metrics(tmp_path) if r.get("event") == "alarm"]
        assert kinds == ["repeated_data"]
