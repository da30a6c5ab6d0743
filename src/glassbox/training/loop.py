"""The training loop. Pre-training, SFT, DPO and GRPO differ only in objective and batch source."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from glassbox.core.devices import peak_memory_bytes, product_rate, used_memory_bytes
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.core.interrupts import Interrupts
from glassbox.core.metrics import JsonlSink, MetricsSink, truncate_metrics
from glassbox.core.progress import format_seconds
from glassbox.core.seeding import (
    derive_seed,
    preserved_rng,
    rng_state,
    seed_everything,
    set_rng_state,
)
from glassbox.formats.checkpoints import (
    BEST,
    checkpoint_name,
    checkpoint_step,
    list_checkpoints,
)
from glassbox.models.causal_lm import CausalLM
from glassbox.optim.base import Optimizer
from glassbox.tokenizers import Tokenizer
from glassbox.training.alarms import AlarmsConfig
from glassbox.training.checkpoint import (
    load_average,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from glassbox.training.choice import Choice, choose
from glassbox.training.config import EarlyStop, TrainConfig
from glassbox.training.guards import Guard, LossScaler
from glassbox.training.live import TrainingView
from glassbox.training.parallel.layout import Layout
from glassbox.training.profiling import StepProfiler
from glassbox.training.protocols import (
    Batch,
    BatchSource,
    Hook,
    Objective,
    TrainsAlong,
)
from glassbox.training.step import StepOutcome, TrainStep, build_step, training_flops
from glassbox.training.telemetry import TelemetryConfig
from glassbox.training.telemetry.telemetry import Telemetry
from glassbox.training.window import MetricsWindow

BatchT = TypeVar("BatchT", bound=Batch)
ESTIMATE_AFTER = 5
LONG_SECONDS = 60.0
RANKS_COMPARED_EVERY = 10


@dataclass
class TrainState:
    """Mutable state of a run other than weights and optimizer moments; saved in every checkpoint."""

    step: int = 0
    best_value: float | None = None
    best_step: int | None = None
    stale_evaluations: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    tokens: int = 0
    skipped: int = 0
    stopped_early: bool = False


@dataclass
class TrainResult:
    """The outcome of a training run."""

    state: TrainState
    checkpoint: Path
    interrupted: bool
    summary: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Runs one stage of training in a run folder, resuming from the last checkpoint if there is one."""

    def __init__(
        self,
        model: CausalLM,
        objective: Objective[BatchT],
        source: BatchSource[BatchT],
        optimizer: Optimizer,
        config: TrainConfig,
        *,
        folder: Path,
        tokenizer: Tokenizer | None = None,
        group: Group | None = None,
        hooks: Sequence[Hook] = (),
        sinks: Sequence[MetricsSink] = (),
        seed: int = 0,
        label: str = "train",
        stop_token_ids: Sequence[int] = (),
        telemetry: TelemetryConfig | None = None,
        alarms: AlarmsConfig | None = None,
        profile: int = 0,
        layout: Layout | None = None,
    ) -> None:
        self.model = model
        self.objective: Objective[Any] = objective
        self.source: BatchSource[Any] = source
        self.optimizer = optimizer
        self.config = config
        self.steps = config.num_steps(getattr(source, "steps_per_epoch", None))
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.tokenizer = tokenizer
        self.stop_token_ids = tuple(stop_token_ids)
        self.layout = layout or Layout(group)
        self.group = self.layout.world
        self.hooks = hooks
        self.sinks = list(sinks)
        self.seed = seed
        self.label = label
        self.state = TrainState()
        self.guard = Guard(config.guard)
        self.clipper = config.clipper()
        self.scaler = LossScaler(enabled=config.stated_precision == "float16")
        self._companions = dict(objective.companions) if isinstance(objective, TrainsAlong) else {}
        with self.layout.averaged(model):
            self.average = None if config.ema is None else config.ema.build(model)
        self.alarms = None if alarms is None else alarms.build()
        self.telemetry = Telemetry(
            model,
            telemetry or TelemetryConfig(every=0),
            precision=config.stated_precision,
            layout=self.layout,
        )
        self._train_step: TrainStep | None = None
        self._choice: Choice | None = None
        self._just_chosen = False
        self._profiler = StepProfiler(folder / "profile", profile) if profile else None
        self._fastest_products: float | None = None
        self._window = MetricsWindow()
        self._last_loss: float | None = None
        self.last_outcome: StepOutcome | None = None
        self._view = TrainingView(label, self.steps, enabled=False)
        self._all_sinks: list[MetricsSink] = self.sinks

    def run(self) -> TrainResult:
        """Train to the last step; resume first if the folder holds a checkpoint.

        Raises UserError if a checkpoint is damaged, the disk is full, or too many steps are skipped.
        """
        seed_everything(derive_seed(self.seed, "train", self.layout.data.rank))
        self._resume()
        # the same model on every rank, however each came by its weights
        for module in (self.model, *self._companions.values()):
            self.layout.broadcast(module)
        if self.average is not None and self.average.updates == 0:
            self.average.reset()
        began, before, first = time.monotonic(), self.state.seconds, self.state.step
        interrupted = False
        self.model.train()
        with contextlib.ExitStack() as stack:
            if self.group.is_main:
                file_sink = JsonlSink(self.folder / "metrics.jsonl")
                stack.callback(file_sink.close)
                self._all_sinks = [file_sink, *self.sinks]
                for sink in self.sinks:
                    stack.callback(getattr(sink, "close", lambda: None))
            interrupts = stack.enter_context(Interrupts().watching())
            stack.enter_context(self.telemetry.watching())
            stack.enter_context(self.layout.watching())
            self._view = stack.enter_context(
                TrainingView(
                    self.label,
                    self.steps,
                    start=self.state.step,
                    enabled=self.group.is_main,
                )
            )
            if self.state.step == 0:
                self._call_hooks(first=True)
            while self.state.step < self.steps and not self.state.stopped_early:
                with contextlib.nullcontext() if self._profiler is None else self._profiler.step():
                    self._step()
                self.state.seconds = before + time.monotonic() - began
                self._report()
                if self.state.step - first == 1:  # which may have waited for the compiler
                    started = self.state.seconds
                if self.state.step - first == ESTIMATE_AFTER:
                    self._estimate(self.state.seconds - started)
                self._call_hooks()
                if self.group.any(interrupts.requested):
                    interrupted = self.state.step < self.steps
                    break
                every = self.config.checkpoint_every
                if every and self.state.step % every == 0:
                    self._save()
            self.state.seconds = before + time.monotonic() - began
            if self._profiler is not None:
                self._profiler.finish()
                self._say(f"profile: {self._profiler.folder}/trace.json and table.txt")
            checkpoint = self._save()
        return TrainResult(self.state, checkpoint, interrupted, self._summary())

    @contextlib.contextmanager
    def replaying(self, checkpoint: Path | None, sink: MetricsSink) -> Iterator[Callable[[], None]]:
        """A function that takes the next step as `run` did after a checkpoint (None: from the start).

        Records go to `sink` alone; no file is written, nothing is evaluated and no alarm is raised.
        For one process: what ranks have summed in another order is not repeated to the bit.
        """
        seed_everything(derive_seed(self.seed, "train", self.group.rank))
        if checkpoint is not None:
            self._restore(checkpoint)
        elif self.average is not None:
            self.average.reset()
        self._all_sinks = [sink]
        self._train_step = None  # built, or chosen, by the first step
        self.model.train()

        def step() -> None:
            self._step()
            self._report()

        with self.telemetry.watching():
            yield step

    def _take(self, batches: Sequence[Any], lr: float) -> StepOutcome:
        assert self._train_step is not None
        chosen, self._just_chosen = self._just_chosen, False
        try:
            return self._train_step.take(batches, lr)
        except UserError:
            raise
        except Exception as error:  # whatever a compiler fails with: nobody asked for it by name
            if not chosen:
                raise
            self._choice = Choice(self.config.stated_precision, self.config.compile is True)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            self._say(f"steps are not compiled, since the compiler fails: {reason}")
            self._train_step = self._build_step(0)
            return self._train_step.take(batches, lr)

    def _build_step(self, tokens: int) -> TrainStep:
        """The step, compiled or not; `tokens` of one step tell how long the run is."""
        if self._choice is None:
            tokens *= self.layout.data.world_size * self.steps
            self._choice = choose(
                self.config, self.model, self.objective, tokens=tokens, group=self.group
            )
            self._just_chosen = self._choice.reason is not None
            if self._just_chosen:
                self._say(
                    f"steps are compiled, in {self._choice.precision}: {self._choice.reason} "
                    "(train.precision=float32 train.compile=false: not)"
                )
        return build_step(
            self.model,
            self.objective,
            self.optimizer,
            self._choice.config(self.config),
            layout=self.layout,
            guard=self.guard,
            clipper=self.clipper,
            scaler=self.scaler,
            telemetry=self.telemetry,
        )

    def _estimate(self, seconds: float) -> None:
        """Print an estimate of a long run's duration from its first steps (without evaluations)."""
        rest = seconds / (ESTIMATE_AFTER - 1) * (self.steps - self.state.step)
        if rest > LONG_SECONDS:
            self._fastest_products = product_rate(self.model.device, self._chosen.stated_precision)
            self._say(f"{self.steps - self.state.step:,} steps to go, about {format_seconds(rest)}")

    def _step(self) -> None:
        """One optimizer step: the summed loss of all micro-batches divided by the number of valid units."""
        started = time.perf_counter()
        self.layout.at("next rows", self.state.step + 1)
        batches = self.source.next_step()
        fetched = time.perf_counter()
        if self._train_step is None:
            self._train_step = self._build_step(sum(batch.num_tokens for batch in batches))
        wanted = self.alarms is not None and self.group.any(self.alarms.wants_telemetry)
        self.telemetry.begin(self.state.step + 1, wanted=wanted)
        repeated = self._repeated_share(batches)
        lr = self.config.lr * self.config.schedule.factor(self.state.step, self.steps)
        self.last_outcome = outcome = self._take(batches, lr)
        if outcome.reason is not None:
            self.state.skipped += 1
        elif self.average is not None:
            self.average.update()
        self.telemetry.finish()
        self.state.step += 1
        self.state.tokens += outcome.tokens
        ended = time.perf_counter()
        self.state.step_seconds += ended - fetched
        self._window.add(
            outcome.totals,
            outcome.tokens,
            outcome.norm,
            lr,
            ended - started,
            {"data": fetched - started, **outcome.seconds},
            outcome.reason,
        )
        self._look_for_alarms(outcome, lr, repeated, ended - started)

    def _repeated_share(self, batches: Sequence[Any]) -> float:
        if self.alarms is None or getattr(self.source, "rows_come_again", False):
            return 0.0
        epoch = getattr(self.source, "steps_per_epoch", None)
        return self.alarms.rows.share(batches, self.state.step + 1, epoch)

    def _rank_seconds(self, outcome: StepOutcome) -> list[float] | None:
        """What each rank took for its forward and backward passes; at every tenth step."""
        if self.group.world_size == 1 or self.state.step % RANKS_COMPARED_EVERY:
            return None
        table = torch.zeros(self.group.world_size, dtype=torch.float64)
        own = (outcome.seconds.get(phase, 0.0) for phase in ("forward", "backward"))
        table[self.group.rank] = sum(own)
        found: list[float] = self.group.sum_(table).tolist()
        return found

    def _look_for_alarms(
        self, outcome: StepOutcome, lr: float, repeated: float, seconds: float
    ) -> None:
        """Hand the step's figures to the detectors; print and log what they raise."""
        if self.alarms is None:
            return
        step = self.state.step
        main, weight = outcome.totals.get("main_loss", (0.0, 0.0))
        raised = self.alarms.step(
            {
                "step": step,
                "loss": outcome.loss,
                "main_loss": main / weight if weight else None,
                "grad_norm": outcome.norm,
                "lr": lr,
                "reason": outcome.reason,
                "tokens_per_second": outcome.tokens / max(seconds, 1e-9),
                "memory_bytes": used_memory_bytes(self.model.device),
                "rank_seconds": self._rank_seconds(outcome),
                "repeated_share": repeated,
            }
        )
        if self.telemetry.record or not self.telemetry.config.every:
            raised += self.alarms.telemetry({"step": step, **self.telemetry.record})
        for alarm in raised:
            self._log({k: v for k, v in alarm.record().items() if k != "step"})
            self._say(f"alarm at step {step}: {alarm}")
            self._view.alarm(f"step {step}: {alarm}")

    def _report(self) -> None:
        state, window = self.state, self._window
        self._last_loss = window.last_loss
        self._view.update(
            state.step, window.last_loss, window.tokens_per_second, skipped=state.skipped
        )
        if window.reason is not None:
            self._log({"event": "skipped", "reason": window.reason})
            self._say(f"step {state.step} was skipped: {window.reason}")
            window.reason = None
        if self.telemetry.record:
            self._log({"event": "telemetry", **self.telemetry.record})
        if state.step % self.config.log_every == 0 or state.step == self.steps:
            self._log(
                {
                    **window.means(),
                    **self._utilisation(),
                    "tokens": state.tokens,
                    "seconds": state.seconds,
                    "peak_memory_bytes": peak_memory_bytes(self.model.device),
                }
            )
            window.clear()

    def _utilisation(self) -> dict[str, float]:
        """`mfu` of a long run: FLOPs of its weights, over those of the fastest product measured here."""
        if self._fastest_products is None:
            return {}
        flops = training_flops(self.layout.plain(self.model)) * self._window.tokens_per_second
        self._view.mfu = flops / self._fastest_products
        return {"mfu": self._view.mfu}

    def _log(self, record: Mapping[str, Any]) -> None:
        if self.group.is_main:
            for sink in self._all_sinks:
                sink.log({"step": self.state.step, **record})

    def _call_hooks(self, *, first: bool = False) -> None:
        all_due = first or self.state.step == self.steps
        values: dict[str, float | str] = {}
        for hook in self.hooks:
            if hook.every and (all_due or self.state.step % hook.every == 0):
                self.layout.at("evaluation")
                self.model.eval()
                with (
                    preserved_rng(),
                    self._evaluated_weights(),
                    self.layout.whole(self.model),
                ):
                    values.update(hook(self.model, self.state.step))
                self.model.train()
        best = self.config.best_metric
        if best is not None and all_due and best.metric not in values:
            raise UserError(
                f"best_metric.metric = '{best.metric}' is measured by no hook; "
                f"use one of: {', '.join(sorted(values)) or '(there are none)'}"
            )
        if not values:
            return
        self._log({"event": "evaluation", **values})
        watched = "heldout_loss" if best is None else best.metric
        if isinstance(values.get(watched), float):
            self._view.evaluated(watched, float(values[watched]))
        figures = "  ".join(
            f"{name} {value:.4g}"
            for name, value in values.items()
            if not isinstance(value, str) and not name.endswith("_error")
        )
        if figures:
            self._say(f"step {self.state.step}: {figures}")
        if best is not None and best.metric in values and not first:
            self._judge(float(values[best.metric]), best)
            self._view.judged(
                self.state.best_value,
                self.state.best_step,
                self.state.stale_evaluations,
                best.patience if self.config.early_stop else None,
            )

    @contextlib.contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        """The model holds what is evaluated: with train.ema.evaluate the moving average."""
        if self.average is None or not (self.config.ema and self.config.ema.evaluate):
            yield
            return
        with self.average.swapped():
            yield

    def _judge(self, value: float, best: EarlyStop) -> None:
        state = self.state
        sign = 1 if best.mode == "min" else -1
        better = state.best_value is None or sign * value < sign * state.best_value
        if better and not math.isnan(value):
            state.best_value, state.best_step, state.stale_evaluations = value, state.step, 0
            self._save()
            self._note_best(best)
            return
        state.stale_evaluations += 1
        if self.config.early_stop and state.stale_evaluations >= best.patience:
            state.stopped_early = True
            reason = f"{best.metric} no better than {state.best_value}"
            self._log({"event": "early stop", "reason": reason})
            self._say(
                f"stopped early at step {state.step} of {self.steps}: {reason} (step "
                f"{state.best_step}) in {state.stale_evaluations} evaluations; that checkpoint is kept"
            )

    def _note_best(self, best: EarlyStop) -> None:
        """Write best.json, which names the checkpoint to open when the run is given as a model."""
        state, path = self.state, self.folder / BEST
        if not self.group.is_main:
            return
        if state.best_step is None:
            path.unlink(missing_ok=True)
            return
        write_json(
            path, {"step": state.best_step, "metric": best.metric, "value": state.best_value}
        )

    def _say(self, text: str) -> None:
        """Print a line on standard error, above the progress line."""
        if self.group.is_main:
            self._view.say(text)

    def _save(self) -> Path:
        self.layout.at("checkpoint")
        if self.average is None:
            return self._save_model(None)
        if self.config.ema is not None and self.config.ema.save == "trained":
            return self._save_model(self.average.state_dict())
        with self.average.swapped() as trained:
            return self._save_model(self.average.state_dict(trained))

    def _save_model(self, ema: Mapping[str, Tensor] | None) -> Path:
        with self.layout.saving(self.model) as whole:
            return self._save_whole(whole, None if ema is None else self.layout.gathered(ema))

    def _save_whole(self, model: CausalLM, ema: Mapping[str, Tensor] | None) -> Path:
        path = save_checkpoint(
            self.checkpoints,
            self.state.step,
            model,
            tokenizer=self.tokenizer,
            optimizer_state=self.optimizer.state_dict(),
            state={
                "train": vars(self.state).copy(),
                "source": self.source.state_dict(),
                "guard": self.guard.state_dict(),
                "clipper": self.clipper.state_dict(),
                "scaler": self.scaler.state_dict(),
                "window": self._window.state_dict(),
                "choice": None if self._choice is None else vars(self._choice).copy(),
                "telemetry": self.telemetry.state_dict(),
                "alarms": {} if self.alarms is None else self.alarms.state_dict(),
            },
            rng=rng_state(),
            group=self.group,
            stop_token_ids=self.stop_token_ids,
            companions=self._companions,
            ema=ema,
        )
        if self.group.is_main:
            prune_checkpoints(
                self.checkpoints, keep_last=self.config.keep_last, keep_step=self.state.best_step
            )
        return path

    def _resume(self) -> None:
        found = list_checkpoints(self.checkpoints)
        if not found:
            if self.group.is_main:
                truncate_metrics(self.folder / "metrics.jsonl", -1)
            return
        self._restore(found[-1])
        if self.config.best_metric is not None:
            self._note_best(self.config.best_metric)
        if self.group.is_main:
            truncate_metrics(self.folder / "metrics.jsonl", self.state.step)
            if self.state.step < self.steps:
                print(
                    f"  resuming {self.label} at step {checkpoint_step(found[-1])}", file=sys.stderr
                )

    def _restore(self, checkpoint: Path) -> None:
        """Everything as it was when the checkpoint was written; no file is changed."""
        with self.layout.filling(self.model) as whole:
            state, optimizer_state, rng = load_checkpoint(
                checkpoint, whole, group=self.group, companions=self._companions
            )
        self.optimizer.load_state_dict(optimizer_state)
        if self.average is not None:
            load_average(checkpoint, self.average, own=self.layout.own)
        self.state = TrainState(**state["train"])
        self.source.load_state_dict(state["source"])
        self.guard.load_state_dict(state["guard"])
        if "clipper" in state:  # not in checkpoints of before there were several
            self.clipper.load_state_dict(state["clipper"])
        self.scaler.load_state_dict(state["scaler"])
        self._window.load_state_dict(state["window"])
        # checkpoints of before there was a choice were in what is stated
        chosen = state.get("choice") or {
            "precision": self.config.stated_precision,
            "compile": self.config.compile is True,
        }
        if "auto" in (self.config.precision, self.config.compile):
            self._choice = Choice(chosen["precision"], chosen["compile"])
        if "telemetry" in state:  # not in checkpoints of before there was any
            self.telemetry.load_state_dict(state["telemetry"])
        if self.alarms is not None:
            self.alarms.load_state_dict(state.get("alarms", {}))
        if rng is not None:
            set_rng_state(*rng)

    @property
    def _chosen(self) -> TrainConfig:
        return self.config if self._choice is None else self._choice.config(self.config)

    def _summary(self) -> dict[str, Any]:
        state, best = self.state, self.state.best_step
        outside = 1 - state.step_seconds / state.seconds if state.seconds else 0.0
        return {
            "steps": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "tokens_per_second": state.tokens / state.seconds if state.seconds else 0.0,
            "share_outside_step": outside,
            "peak_memory_bytes": peak_memory_bytes(self.model.device),
            "parameters": self.layout.plain(self.model).num_parameters,
            "trained_parameters": sum(self.layout.count(p) for p in self.optimizer.parameters()),
            "skipped_steps": state.skipped,
            "precision": self._chosen.stated_precision,
            "compiled": self._chosen.compile is True,
            "stopped_early": state.stopped_early,
            "loss": self._last_loss,
            **({} if best is None else {"best_checkpoint": checkpoint_name(best)}),
        }
