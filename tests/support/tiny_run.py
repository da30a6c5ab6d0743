"""A training run small enough to be done hundreds of times: also a program, for torchrun and for kills.

python tests/support/tiny_run.py FOLDER key=value ...
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec, apply_overrides, parse
from glassbox.core.devices import Precision
from glassbox.core.distributed import Group, process_group
from glassbox.core.files import write_json
from glassbox.core.runs import RunFolder
from glassbox.data.loader import PackedRows, PackedSource, TokenBatch
from glassbox.data.prefetch import prefetched
from glassbox.data.shards import read_shard, write_shard
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.optim.adamw import AdamW
from glassbox.optim.averaging import WeightAverageConfig
from glassbox.optim.groups import decay_groups
from glassbox.optim.schedules.warmup_cosine import WarmupCosine
from glassbox.training.config import EarlyStop, TrainConfig
from glassbox.training.guards import GuardConfig
from glassbox.training.loop import Trainer
from glassbox.training.next_token import NextToken
from glassbox.training.protocols import ObjectiveOutput

TIME_FIELDS = {
    "seconds", "step_seconds", "data_seconds", "forward_seconds", "backward_seconds",
    "optimizer_seconds", "tokens_per_second", "peak_memory_bytes", "mfu",
}  # fmt: skip


class TinyRun(Spec):
    """What the tests vary."""

    steps: int = 12
    lr: float = 1e-2
    dropout: float = 0.1
    rows_per_step: int = 8
    rows_per_batch: int | None = 4
    checkpoint_every: int = 4
    keep_last: int = 2
    evaluate_every: int = 3
    precision: Precision | Literal["auto"] = "float32"
    compile: bool | Literal["auto"] = False
    wide: bool = False
    experts: bool = False
    seed: int = 0
    seed_by_rank: bool = False
    max_skipped: int = 8
    spike_factor: float | None = None
    best_metric: EarlyStop | None = None
    early_stop: bool = False
    log_every: int = 2
    ema: WeightAverageConfig | None = None
    workers: int = Field(0, exclude=True)


def tiny_model(*, dropout: float = 0.0, seed: int = 0, experts: bool = False) -> CausalLM:
    """5,000 parameters, two layers; or with experts that a bias balances."""
    torch.manual_seed(seed)
    mixer = GroupedQuery(num_heads=2, num_kv_heads=1, positions=Rotary())
    ffn: SwiGlu | MixtureOfExperts = SwiGlu(size=32)
    if experts:
        expert = SwiGlu(size=8)
        ffn = MixtureOfExperts(num_experts=6, top_k=2, expert=expert, balance_bias=True)
    block = BlockSpec(mixer=mixer, ffn=ffn)
    return CausalLM(
        ModelConfig(
            vocab_size=32,
            hidden_size=16,
            context_length=16,
            blocks=(Repeat(block=block, times=2),),
            dropout=dropout,
        )
    )


def tiny_rows(folder: Path, *, masked: bool = False) -> PackedRows:
    """Documents of a simple rule, so that there is something to learn: x -> 3 x + (0 or 1)."""
    path = folder / "data" / "train"
    if not path.with_name("train.json").exists():
        rng = np.random.default_rng(0)
        documents = []
        for _ in range(60):
            ids = [int(rng.integers(32))]
            for _ in range(int(rng.integers(2, 25))):
                ids.append((3 * ids[-1] + int(rng.integers(2))) % 32)
            documents.append(ids)
        masks = [rng.integers(0, 2, len(ids)).tolist() for ids in documents] if masked else None
        write_shard(path, documents, vocab_size=32, fingerprint="tiny", masks=masks)
    return PackedRows(read_shard(path), 16)


class NoisyHook:
    """Measures the loss on fixed rows, and draws from every generator it can reach."""

    def __init__(self, batch: TokenBatch, every: int) -> None:
        self.batch = batch
        self.every = every

    @torch.no_grad()
    def __call__(self, model: CausalLM, step: int) -> Mapping[str, float | str]:
        torch.rand(3)
        np.random.rand(2)  # noqa: NPY002
        output = NextToken()(model, self.batch)
        return {"valid_loss": float(output.loss_sum / output.weight), "sample": f"at\u2028{step}"}


def tiny_trainer(
    folder: Path, options: TinyRun | None = None, *, group: Group | None = None, **changes: Any
) -> Trainer:
    """A trainer of `options`; `changes` are given to it beside them."""
    options = options or TinyRun()
    group = group or Group()
    rows = tiny_rows(folder)
    seed = options.seed + (group.rank if options.seed_by_rank else 0)
    model = tiny_model(dropout=options.dropout, seed=seed, experts=options.experts)
    if options.wide:
        model.double()
    source = PackedSource(
        rows,
        rows_per_step=options.rows_per_step,
        rows_per_batch=options.rows_per_batch,
        seed=options.seed,
        group=group,
    )
    config = TrainConfig(
        steps=options.steps,
        lr=options.lr,
        schedule=WarmupCosine(warmup_steps=min(2, options.steps - 1)),
        precision=options.precision,
        compile=options.compile,
        log_every=options.log_every,
        checkpoint_every=options.checkpoint_every,
        keep_last=options.keep_last,
        best_metric=options.best_metric,
        early_stop=options.early_stop,
        ema=options.ema,
        guard=GuardConfig(
            max_skipped=options.max_skipped, spike_factor=options.spike_factor, spike_window=8
        ),
    )
    given: dict[str, Any] = {
        "objective": NextToken(),
        "source": prefetched(source, options.workers),
        "optimizer": AdamW(decay_groups(model.named_parameters(), 0.1)),
        "hooks": [NoisyHook(rows.batch(range(8)), options.evaluate_every)],
        "seed": options.seed,
        **changes,
    }
    return Trainer(
        given.pop("model", model),
        given.pop("objective"),
        given.pop("source"),
        given.pop("optimizer"),
        config,
        folder=folder,
        group=group,
        **given,
    )


class Signal:
    """A hook that wishes the run to stop."""

    every = 1

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, model: CausalLM, step: int) -> dict[str, float | str]:
        if step == self.at:
            signal.raise_signal(signal.SIGTERM)
        return {}


class Spoiled:
    """Next-token prediction that `spoil(call, output)` changes at each call, counted from 0."""

    def __init__(self, spoil: Any) -> None:
        self.spoil = spoil
        self.calls = 0

    def __call__(self, model: CausalLM, batch: TokenBatch) -> ObjectiveOutput:
        output = NextToken()(model, batch)
        self.spoil(self.calls, output)
        self.calls += 1
        return output


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without what a clock says."""
    lines = (folder / "metrics.jsonl").read_bytes().decode().split("\n")
    assert lines.pop() == ""
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIME_FIELDS}
        for line in lines
    ]


def everything(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for what a clock says: equal for runs equal to the last bit."""
    last = max(folder.glob("checkpoints/step-*/COMPLETE")).parent
    found: dict[str, Any] = {"metrics": metrics(folder), "checkpoint": last.name}
    for file in sorted(last.rglob("*")):
        if file.is_file() and file.name not in ("COMPLETE", "state.json"):
            found[file.relative_to(last).as_posix()] = file.read_bytes()
    state = json.loads((last / "training" / "state.json").read_text())
    for key in ("seconds", "step_seconds"):
        del state["train"][key]
    for key in ("seconds", "phases"):
        del state["window"][key]
    state.get("alarms", {}).get("throughput_loss", {}).pop("speeds", None)  # of the clock, too
    return {**found, "state": state}


def last_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a run's last checkpoint."""
    last = max(folder.glob("checkpoints/step-*/COMPLETE")).parent
    return safetensors.torch.load_file(last / "model.safetensors")


def main(arguments: list[str]) -> int:
    """Run to the end or to an interrupt; 0 when finished, 3 when interrupted."""
    torch.set_num_threads(1)
    folder = Path(arguments[0])
    options = parse(TinyRun, apply_overrides({}, arguments[1:]))
    with process_group("cpu") as group:
        if not group.is_main:
            group.barrier()
            return int(tiny_trainer(folder, options, group=group).run().interrupted) * 3
        with RunFolder(folder):
            tiny_rows(folder)
            group.barrier()
            result = tiny_trainer(folder, options, group=group).run()
            if not result.interrupted:
                write_json(folder / "DONE.json", result.summary)
            return int(result.interrupted) * 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
