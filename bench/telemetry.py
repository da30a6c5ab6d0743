"""What telemetry and alarms cost: fifty steps with them at their defaults, against the same without.

    python bench/telemetry.py [--threads 1] [--repeats 5] [--rows 4] [--length 256] [--steps 50]

A Llama of 3.4 million parameters, float32, AdamW, the whole training loop, in turns. A round goes on where the
last one ended, so that the measured step (every fiftieth) falls into each of its rounds once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from harness import Bench

from glassbox.data.loader import TokenBatch
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import LlamaShape
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.schedules.constant import Constant
from glassbox.training.alarms import AlarmsConfig
from glassbox.training.config import TrainConfig
from glassbox.training.loop import Trainer
from glassbox.training.next_token import NextToken
from glassbox.training.telemetry import TelemetryConfig

VOCABULARY = 2048


class Rows:
    """Random rows of ids."""

    steps_per_epoch = None

    def __init__(self, rows: int, length: int) -> None:
        self.shape = (rows, length)

    def next_step(self) -> list[TokenBatch]:
        ids = torch.randint(VOCABULARY, self.shape)
        return [TokenBatch(ids, ids.roll(-1, 1), torch.zeros_like(ids))]

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """There is nothing to load."""


class Sink:
    """Counts the records."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def log(self, record: dict[str, object]) -> None:
        self.events.append(str(record.get("event", "train")))


def main() -> None:
    bench = Bench(__doc__, threads=1)
    bench.parser.add_argument("--rows", type=int, default=4)
    bench.parser.add_argument("--length", type=int, default=256)
    bench.parser.add_argument("--steps", type=int, default=50, help="a round")
    options = bench.options()

    def trainer(watched: bool, folder: Path) -> Trainer:
        torch.manual_seed(0)
        shape = LlamaShape(
            hidden_size=192, num_layers=6, num_heads=6, ffn_size=512, context_length=options.length
        )
        model = CausalLM(shape.config(VOCABULARY))
        return Trainer(
            model,
            NextToken(),
            Rows(options.rows, options.length),
            AdamWConfig().build(model),
            TrainConfig(steps=10**6, lr=1e-3, schedule=Constant()),
            folder=folder,
            telemetry=TelemetryConfig() if watched else None,
            alarms=AlarmsConfig() if watched else None,
        )

    with tempfile.TemporaryDirectory() as name:
        sinks = {False: Sink(), True: Sink()}
        runs = {watched: trainer(watched, Path(name) / str(watched)) for watched in (False, True)}
        with (
            runs[False].replaying(None, sinks[False]) as without,
            runs[True].replaying(None, sinks[True]) as with_them,
        ):

            def steps(take: object) -> None:
                for _ in range(options.steps):
                    take()  # type: ignore[operator]

            times = bench.in_turns(
                {"without": lambda: steps(without), "with": lambda: steps(with_them)}
            )
        parameters = runs[True].model.num_parameters
    measured = sinks[True].events.count("telemetry")
    bench.row(
        parameters=parameters,
        tokens_a_step=options.rows * options.length,
        seconds_a_step_without=times["without"].median / options.steps,
        seconds_a_step_with=times["with"].median / options.steps,
        cost_percent=100 * (times["with"] / times["without"] - 1),
        measured_steps=measured,
    )
    bench.finish()


if __name__ == "__main__":
    main()
